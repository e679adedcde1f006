//! The state of a domain's vCPUs as a chain of records (xen public hvm/save.h): header, one CPU and one MTRR record for each vCPU, end.
//!
//! Toolstacks read it, replace vCPU 0's CPU record with the entry state, and load it again. What migration needs beyond that is not in it yet.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::domctl::{
    DomctlHvmcontext, DomctlHvmcontextPartial, DomctlVcpucontext, VGCF_ONLINE, VcpuGuestContext,
};
use abi::hvm_save::*;
use abi::{Errno, Union};
use zerocopy::{FromBytes, IntoBytes};

use super::Caller;
use super::domctl::Answer;
use crate::arch::regs::SegmentAttr;
use crate::arch::{GuestCpu, Paging, Segment, SegmentReg, SysReg};
use crate::domain::Domain;
use crate::domain::vcpu::{Hold, Vcpu};
use crate::mm::fallible;
use crate::mm::guest::GuestVirt;
use crate::types::{Gva, VcpuId};
use crate::virt::control::{valid_state, valid_switched};
use crate::virt::msr::{MTRR_CAP_VALUE, Msrs};

/// Largest context that is taken, in bytes: all records of 128 vCPUs.
const MAX_SIZE: u32 = 1 << 20;

/// XEN_DOMCTL_gethvmcontext: with a null buffer, only its size.
pub(super) fn get(caller: &mut Caller<'_>, domain: &Domain, u: &mut Union<16>) -> Result<Answer, Errno> {
    let mut request: DomctlHvmcontext = u.get();
    let context = save(domain)?;
    if !request.buffer.is_null() {
        if (request.size as usize) < context.len() {
            return Err(Errno::ENOSPC);
        }
        write_bytes(caller, request.buffer.addr(), &context)?;
    }
    request.size = context.len() as u32;
    u.set(&request);
    Ok(Answer::Changed)
}

/// XEN_DOMCTL_gethvmcontext_partial: the body of one record; with a null buffer, only its size.
pub(super) fn get_one(caller: &mut Caller<'_>, domain: &Domain, u: &mut Union<16>) -> Result<Answer, Errno> {
    let mut request: DomctlHvmcontextPartial = u.get();
    let save = match u16::try_from(request.type_) {
        Ok(HVM_SAVE_CODE_CPU) => |vcpu: &Vcpu| save_cpu(vcpu).as_bytes().to_vec(),
        Ok(HVM_SAVE_CODE_MTRR) => |vcpu: &Vcpu| save_mtrr(vcpu).as_bytes().to_vec(),
        _ => return Err(Errno::EINVAL),
    };
    let vcpu = domain.vcpu(VcpuId(request.instance)).ok_or(Errno::ENOENT)?;
    let body = domain.while_paused(|| save(vcpu));
    if !request.buffer.is_null() {
        if request.bufsz < body.len() as u64 {
            return Err(Errno::ENOBUFS);
        }
        write_bytes(caller, request.buffer.addr(), &body)?;
    }
    request.bufsz = body.len() as u64;
    u.set(&request);
    Ok(Answer::Changed)
}

/// XEN_DOMCTL_sethvmcontext.
pub(super) fn set(caller: &mut Caller<'_>, domain: &Domain, request: &DomctlHvmcontext) -> Result<(), Errno> {
    if request.size > MAX_SIZE {
        return Err(Errno::EINVAL);
    }
    let mut context = fallible::room(request.size as usize)?;
    context.resize(request.size as usize, 0);
    memory(caller).read_bytes(Gva(request.buffer.addr()), &mut context)?;
    domain.while_paused(|| load(domain, &context))
}

fn memory<'a>(caller: &'a mut Caller<'_>) -> GuestVirt<'a> {
    GuestVirt::new(&caller.domain.p2m, caller.walks, caller.cpu.translation())
}

fn write_bytes(caller: &mut Caller<'_>, at: u64, bytes: &[u8]) -> Result<(), Errno> {
    Ok(memory(caller).write_bytes(Gva(at), bytes)?)
}

/// The most that [`save`] makes of a vCPU, and beside.
const VCPU_SIZE: usize = 2 * size_of::<HvmSaveDescriptor>() + size_of::<HvmHwCpu>() + size_of::<HvmHwMtrr>();
const FIXED_SIZE: usize = 2 * size_of::<HvmSaveDescriptor>() + size_of::<HvmSaveHeader>();

fn save(domain: &Domain) -> Result<Vec<u8>, Errno> {
    // All at once: it may be more than the heap has in reserve.
    let mut context = fallible::room(FIXED_SIZE + domain.vcpus().len() * VCPU_SIZE)?;
    domain.while_paused(|| {
        let header = HvmSaveHeader {
            magic: HVM_FILE_MAGIC,
            version: HVM_FILE_VERSION,
            cpuid: crate::virt::cpuid::host(1, 0)[0],
            gtsc_khz: domain.tsc.lock().khz,
            ..Default::default()
        };
        append(&mut context, HVM_SAVE_CODE_HEADER, 0, header.as_bytes());
        for vcpu in domain
            .vcpus()
            .iter()
            .filter(|vcpu| vcpu.is_initialised() || vcpu.id.0 == 0)
        {
            append(
                &mut context,
                HVM_SAVE_CODE_CPU,
                vcpu.id.0,
                save_cpu(vcpu).as_bytes(),
            );
        }
        for vcpu in domain.vcpus() {
            append(
                &mut context,
                HVM_SAVE_CODE_MTRR,
                vcpu.id.0,
                save_mtrr(vcpu).as_bytes(),
            );
        }
        append(&mut context, HVM_SAVE_CODE_END, 0, &[]);
    });
    Ok(context)
}

fn append(context: &mut Vec<u8>, typecode: u16, instance: u32, body: &[u8]) {
    let descriptor = HvmSaveDescriptor {
        typecode,
        instance: instance as u16,
        length: body.len() as u32,
    };
    context.extend_from_slice(descriptor.as_bytes());
    context.extend_from_slice(body);
}

/// All records are looked at before any is loaded.
fn load(domain: &Domain, context: &[u8]) -> Result<(), Errno> {
    // Records may come twice.
    let records = context.len() / size_of::<HvmHwMtrr>().min(size_of::<HvmHwCpu>());
    let mut cpus: Vec<(&Arc<Vcpu>, HvmHwCpu)> = fallible::room(records)?;
    let mut mtrrs: Vec<(&Arc<Vcpu>, HvmHwMtrr)> = fallible::room(records)?;
    let mut rest = context;
    let mut first = true;
    loop {
        let (descriptor, after) = HvmSaveDescriptor::read_from_prefix(rest).map_err(|_| Errno::EINVAL)?;
        let (body, next) = after
            .split_at_checked(descriptor.length as usize)
            .ok_or(Errno::EINVAL)?;
        let vcpu = || {
            domain
                .vcpu(VcpuId(descriptor.instance.into()))
                .ok_or(Errno::EINVAL)
        };
        if core::mem::take(&mut first) {
            check_header(&descriptor, body)?;
        }
        match descriptor.typecode {
            HVM_SAVE_CODE_END => break,
            HVM_SAVE_CODE_HEADER => {}
            HVM_SAVE_CODE_CPU => {
                let cpu = HvmHwCpu::read_from_bytes(body).map_err(|_| Errno::EINVAL)?;
                let vcpu = vcpu()?;
                check_cpu(domain, vcpu, &cpu)?;
                cpus.push((vcpu, cpu));
            }
            HVM_SAVE_CODE_MTRR => mtrrs.push((
                vcpu()?,
                HvmHwMtrr::read_from_bytes(body).map_err(|_| Errno::EINVAL)?,
            )),
            _ => return Err(Errno::EINVAL),
        }
        rest = next;
    }
    for (vcpu, cpu) in cpus {
        vcpu.with_private(|private| load_cpu(private.cpu.as_dyn(), &cpu));
        vcpu.set_initialised();
        vcpu.release(Hold::DOWN);
    }
    for (vcpu, mtrr) in mtrrs {
        vcpu.with_private(|private| {
            private.cpu.as_dyn().write(SysReg::Pat, mtrr.msr_pat_cr);
            load_mtrr(&mut private.msrs, &mtrr);
        });
    }
    Ok(())
}

fn check_header(descriptor: &HvmSaveDescriptor, body: &[u8]) -> Result<(), Errno> {
    let header = HvmSaveHeader::read_from_bytes(body).map_err(|_| Errno::EINVAL)?;
    let good = descriptor.typecode == HVM_SAVE_CODE_HEADER
        && header.magic == HVM_FILE_MAGIC
        && header.version == HVM_FILE_VERSION;
    if good { Ok(()) } else { Err(Errno::EINVAL) }
}

/// The segment registers, and where a record has each: selector, attributes, limit, base.
macro_rules! segments {
    ($record:expr, $work:expr) => {{
        let work: &mut dyn FnMut(SegmentReg, &mut u32, &mut u32, &mut u32, &mut u64) = &mut $work;
        let r = $record;
        work(
            SegmentReg::Cs,
            &mut r.cs_sel,
            &mut r.cs_arbytes,
            &mut r.cs_limit,
            &mut r.cs_base,
        );
        work(
            SegmentReg::Ds,
            &mut r.ds_sel,
            &mut r.ds_arbytes,
            &mut r.ds_limit,
            &mut r.ds_base,
        );
        work(
            SegmentReg::Es,
            &mut r.es_sel,
            &mut r.es_arbytes,
            &mut r.es_limit,
            &mut r.es_base,
        );
        work(
            SegmentReg::Fs,
            &mut r.fs_sel,
            &mut r.fs_arbytes,
            &mut r.fs_limit,
            &mut r.fs_base,
        );
        work(
            SegmentReg::Gs,
            &mut r.gs_sel,
            &mut r.gs_arbytes,
            &mut r.gs_limit,
            &mut r.gs_base,
        );
        work(
            SegmentReg::Ss,
            &mut r.ss_sel,
            &mut r.ss_arbytes,
            &mut r.ss_limit,
            &mut r.ss_base,
        );
        work(
            SegmentReg::Tr,
            &mut r.tr_sel,
            &mut r.tr_arbytes,
            &mut r.tr_limit,
            &mut r.tr_base,
        );
        work(
            SegmentReg::Ldtr,
            &mut r.ldtr_sel,
            &mut r.ldtr_arbytes,
            &mut r.ldtr_limit,
            &mut r.ldtr_base,
        );
    }};
}

/// System registers, and where a record has each.
macro_rules! registers {
    ($record:expr, $work:expr) => {{
        let work: &mut dyn FnMut(SysReg, &mut u64) = &mut $work;
        let r = $record;
        for (register, value) in [
            (SysReg::Rsp, &mut r.rsp),
            (SysReg::Rflags, &mut r.rflags),
            (SysReg::Cr2, &mut r.cr2),
            (SysReg::Cr3, &mut r.cr3),
            (SysReg::Cr4, &mut r.cr4),
            (SysReg::Efer, &mut r.msr_efer),
            (SysReg::Cr0, &mut r.cr0),
            (SysReg::Dr0, &mut r.dr0),
            (SysReg::Dr1, &mut r.dr1),
            (SysReg::Dr2, &mut r.dr2),
            (SysReg::Dr3, &mut r.dr3),
            (SysReg::Dr6, &mut r.dr6),
            (SysReg::Dr7, &mut r.dr7),
            (SysReg::SysenterCs, &mut r.sysenter_cs),
            (SysReg::SysenterEsp, &mut r.sysenter_esp),
            (SysReg::SysenterEip, &mut r.sysenter_eip),
            (SysReg::KernelGsBase, &mut r.shadow_gs),
            (SysReg::Lstar, &mut r.msr_lstar),
            (SysReg::Star, &mut r.msr_star),
            (SysReg::Cstar, &mut r.msr_cstar),
            (SysReg::Sfmask, &mut r.msr_syscall_mask),
            (SysReg::TscAux, &mut r.msr_tsc_aux),
            (SysReg::GdtrBase, &mut r.gdtr_base),
            (SysReg::IdtrBase, &mut r.idtr_base),
        ] {
            work(register, value);
        }
    }};
}

/// General registers of a CPU and of a record, pairwise.
macro_rules! general {
    ($regs:expr, $record:expr, $to:ident <- $from:ident) => {{
        let ($to, $from) = ($regs, $record);
        ($to.rax, $to.rbx, $to.rcx, $to.rdx) = ($from.rax, $from.rbx, $from.rcx, $from.rdx);
        ($to.rbp, $to.rsi, $to.rdi) = ($from.rbp, $from.rsi, $from.rdi);
        ($to.r8, $to.r9, $to.r10, $to.r11) = ($from.r8, $from.r9, $from.r10, $from.r11);
        ($to.r12, $to.r13, $to.r14, $to.r15) = ($from.r12, $from.r13, $from.r14, $from.r15);
    }};
}

/// What Xen refuses: control registers and EFER with bits that do not exist or do not go together; and what no CPU takes in registers that the
/// hypervisor would load.
fn check_cpu(domain: &Domain, vcpu: &Vcpu, cpu: &HvmHwCpu) -> Result<(), Errno> {
    let state = Paging {
        cr0: cpu.cr0,
        cr3: cpu.cr3,
        cr4: cpu.cr4,
        efer: cpu.msr_efer,
        rflags: cpu.rflags,
    };
    let features = vcpu.with_private(|private| private.policy.cr4_features());
    let mut switched = true;
    registers!(&mut cpu.clone(), |register, value: &mut u64| switched &=
        valid_switched(register, *value));
    if switched && valid_state(&state, features, domain.config.address_bits) {
        Ok(())
    } else {
        Err(Errno::EINVAL)
    }
}

fn save_cpu(vcpu: &Vcpu) -> HvmHwCpu {
    vcpu.with_private(|private| {
        let cpu = private.cpu.as_dyn();
        let mut record = HvmHwCpu::default();
        general!(&mut record, *cpu.gprs(), to <- from);
        record.rip = cpu.rip();
        registers!(&mut record, |register, value: &mut u64| *value =
            cpu.read(register));
        record.gdtr_limit = cpu.read(SysReg::GdtrLimit) as u32;
        record.idtr_limit = cpu.read(SysReg::IdtrLimit) as u32;
        segments!(&mut record, |register,
                                selector: &mut u32,
                                attr: &mut u32,
                                limit: &mut u32,
                                base: &mut u64| {
            let segment = cpu.segment(register);
            *selector = segment.selector.into();
            *attr = segment.attr.bits().into();
            *limit = segment.limit;
            *base = segment.base;
        });
        let tsc = vcpu.domain().map_or(0, |domain| domain.machine_tsc());
        record.tsc = vcpu.tsc.at(tsc);
        record
    })
}

/// XEN_DOMCTL_getvcpucontext: of an HVM vCPU, the registers without the FPU's.
///
/// # Errors
/// `EINVAL`: no such vCPU. `ENODATA`: it has never been up.
pub(super) fn get_registers(
    caller: &mut Caller<'_>,
    domain: &Domain,
    request: &DomctlVcpucontext,
) -> Result<(), Errno> {
    let vcpu = domain.vcpu(VcpuId(request.vcpu)).ok_or(Errno::EINVAL)?;
    if !vcpu.is_initialised() {
        return Err(Errno::ENODATA);
    }
    let mut context: Box<VcpuGuestContext> = fallible::zeroed()?;
    let cpu = domain.while_paused(|| {
        if !vcpu.held_by(Hold::DOWN) {
            context.flags = VGCF_ONLINE;
        }
        save_cpu(vcpu)
    });
    fill_context(&mut context, &cpu);
    context.vm_assist = domain.assists().into();
    write_bytes(caller, request.ctxt.addr(), context.as_bytes())
}

fn fill_context(context: &mut VcpuGuestContext, cpu: &HvmHwCpu) {
    let user = &mut context.user_regs;
    general!(&mut *user, cpu, to <- from);
    (user.rip, user.rsp, user.rflags) = (cpu.rip, cpu.rsp, cpu.rflags);
    (user.cs, user.ss) = (cpu.cs_sel as u16, cpu.ss_sel as u16);
    (user.ds, user.es) = (cpu.ds_sel as u16, cpu.es_sel as u16);
    (user.fs, user.gs) = (cpu.fs_sel as u16, cpu.gs_sel as u16);
    context.ctrlreg = [cpu.cr0, 0, cpu.cr2, cpu.cr3, cpu.cr4, 0, 0, 0];
    context.debugreg = [cpu.dr0, cpu.dr1, cpu.dr2, cpu.dr3, 0, 0, cpu.dr6, cpu.dr7];
    context.fs_base = cpu.fs_base;
    let in_kernel = cpu.cs_sel & 3 == 0;
    (context.gs_base_kernel, context.gs_base_user) = if in_kernel {
        (cpu.gs_base, cpu.shadow_gs)
    } else {
        (cpu.shadow_gs, cpu.gs_base)
    };
}

fn load_cpu(cpu: &mut dyn GuestCpu, record: &HvmHwCpu) {
    let mut record = *record;
    // They were the state's of before.
    cpu.forget_events();
    general!(cpu.gprs(), record, to <- from);
    cpu.set_rip(record.rip);
    registers!(&mut record, |register, value: &mut u64| cpu
        .write(register, *value));
    cpu.write(SysReg::GdtrLimit, record.gdtr_limit.into());
    cpu.write(SysReg::IdtrLimit, record.idtr_limit.into());
    segments!(&mut record, |register,
                            selector: &mut u32,
                            attr: &mut u32,
                            limit: &mut u32,
                            base: &mut u64| {
        cpu.set_segment(
            register,
            Segment {
                selector: *selector as u16,
                attr: SegmentAttr::from_bits_truncate(*attr as u16),
                limit: *limit,
                base: *base,
            },
        );
    });
}

fn save_mtrr(vcpu: &Vcpu) -> HvmHwMtrr {
    vcpu.with_private(|private| HvmHwMtrr {
        msr_pat_cr: private.cpu.as_dyn().read(SysReg::Pat),
        msr_mtrr_var: private.msrs.mtrr_variable,
        msr_mtrr_fixed: private.msrs.mtrr_fixed,
        msr_mtrr_cap: MTRR_CAP_VALUE,
        msr_mtrr_def_type: private.msrs.mtrr_default,
    })
}

fn load_mtrr(msrs: &mut Msrs, record: &HvmHwMtrr) {
    msrs.mtrr_variable = record.msr_mtrr_var;
    msrs.mtrr_fixed = record.msr_mtrr_fixed;
    msrs.mtrr_default = record.msr_mtrr_def_type;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypercall::testing::World;

    #[test]
    fn a_context_has_the_registers_in_their_places() {
        let mut cpu = HvmHwCpu {
            rax: 1,
            r15: 2,
            rip: 3,
            cr3: 0x4000,
            dr7: 0x400,
            cs_sel: 0x10,
            gs_base: 5,
            shadow_gs: 6,
            ..Default::default()
        };
        let mut context: Box<VcpuGuestContext> = fallible::zeroed().expect("memory");
        fill_context(&mut context, &cpu);
        let user = &context.user_regs;
        assert_eq!((user.rax, user.r15, user.rip, user.cs), (1, 2, 3, 0x10));
        assert_eq!((context.ctrlreg[3], context.debugreg[7]), (0x4000, 0x400));
        assert_eq!((context.gs_base_kernel, context.gs_base_user), (5, 6));
        cpu.cs_sel = 0x33;
        fill_context(&mut context, &cpu);
        assert_eq!((context.gs_base_kernel, context.gs_base_user), (6, 5));
    }

    #[test]
    fn what_was_saved_is_loaded_unless_no_cpu_takes_it() {
        let world = World::new();
        let context = save(&world.domain).expect("memory");
        assert!(context.len() <= FIXED_SIZE + 3 * VCPU_SIZE);
        assert_eq!(load(&world.domain, &context), Ok(()));
        let vcpu = world.domain.vcpu(VcpuId(0)).expect("first");
        let good = save_cpu(vcpu);
        let check = |change: fn(&mut HvmHwCpu)| {
            let mut cpu = good;
            change(&mut cpu);
            check_cpu(&world.domain, vcpu, &cpu)
        };
        assert_eq!(check(|cpu| cpu.msr_lstar = 0xffff_8000 << 32), Ok(()));
        for bad in [
            |cpu: &mut HvmHwCpu| cpu.msr_lstar = 1 << 63,
            |cpu: &mut HvmHwCpu| cpu.msr_cstar = 1 << 47,
            |cpu: &mut HvmHwCpu| cpu.shadow_gs = 1 << 48,
            |cpu: &mut HvmHwCpu| cpu.msr_syscall_mask = 1 << 32,
            |cpu: &mut HvmHwCpu| cpu.msr_tsc_aux = 1 << 32,
        ] {
            assert_eq!(check(bad), Err(Errno::EINVAL));
        }
    }
}
