//! A domain's life: made, filled, run, stopped and reset.

use alloc::vec;
use alloc::vec::Vec;

use abi::domctl::*;
use abi::domid::DOMID_FIRST_RESERVED;
use abi::hvm_save::*;
use abi::hypercall::{HYPERVISOR_MEMORY_OP, HYPERVISOR_SCHED_OP};
use abi::memory::{AddToPhysmap, XENMAPSPACE_SHARED_INFO, XENMEM_ADD_TO_PHYSMAP};
use abi::sched::{SCHEDOP_REMOTE_SHUTDOWN, SHUTDOWN_SOFT_RESET, SHUTDOWN_SUSPEND, SchedRemoteShutdown};
use abi::{Errno, GuestHandle, Union};
use guest_rt::foreign::Mapping;
use guest_rt::hypercall::memory;
use guests::hypercall::{error_code, op};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::{Control, NOTHING, bitmap, comes, config, domctl_call, handle, wait};

/// What the domain's vCPU begins with, to be found again.
const RAX: u64 = 0x1234_5678_9abc_def0;
/// Its code, in real mode, at [`CODE_AT`]: reads the second of its wall clock, notes it and counts, for ever.
const CODE: [u8; 14] = [
    0x66, 0xa1, 0x04, 0x3c, // mov eax, [0x3c04]
    0x66, 0xa3, 0x04, 0x20, // mov [0x2004], eax
    0xff, 0x06, 0x00, 0x20, // inc word [0x2000]
    0xeb, 0xf2, // jmp
];
const CODE_AT: u64 = 0x1000;
/// What it does at an NMI, at [`NMI_AT`]: notes that.
const NMI: [u8; 7] = [
    0xc7, 0x06, 0x08, 0x20, 0x01, 0x00, // mov word [0x2008], 1
    0xcf, // iret
];
const NMI_AT: u64 = 0x1100;
/// Frames of RAM from 0 on: vectors and stack, code, notes.
const FRAMES: u64 = 3;
/// Behind them its shared info, of which bytes 0xc04 and on are the wall clock's second.
const SHARED_INFO: u64 = 3;
const COUNT: usize = 0x2000;
const SECOND: usize = 0x2004;
const NMI_CAME: usize = 0x2008;

/// The memory of the domain while it lives.
pub struct Child(Mapping);

impl Child {
    /// Does it run?
    pub fn counts(&self) -> bool {
        let before = self.0.load(COUNT);
        comes(|| self.0.load(COUNT) != before)
    }

    /// Does it stand still?
    fn stands(&self) -> bool {
        let before = self.0.load(COUNT);
        wait();
        self.0.load(COUNT) == before
    }
}

/// Everything that can be said of one that has not run.
pub fn make(control: &mut Control) {
    control.domctls.insert(XEN_DOMCTL_CREATEDOMAIN);
    let (made, domain, _) = domctl_call(XEN_DOMCTL_CREATEDOMAIN, DOMID_FIRST_RESERVED, &config());
    control.report.equal("created", made, 0);
    control.domain = domain;
    control.flags(
        "flags-of-new",
        XEN_DOMINF_HVM_GUEST | XEN_DOMINF_HAP | XEN_DOMINF_PAUSED,
        XEN_DOMINF_DYING | XEN_DOMINF_SHUTDOWN | XEN_DOMINF_RUNNING,
    );
    let info = control.info();
    control.report.equal("handle", info.handle, [3; 16]);
    control.report.equal("no-vcpus", info.vcpu_limit(), 0);
    control.domctl(
        XEN_DOMCTL_SETDOMAINHANDLE,
        DomctlSetdomainhandle { handle: [7; 16] },
    );
    control.domctl(XEN_DOMCTL_MAX_VCPUS, DomctlMaxVcpus { max: 2 });
    control.domctl(XEN_DOMCTL_MAX_MEM, DomctlMaxMem { max_memkb: 1024 });
    let info = control.info();
    control.report.equal("handle", info.handle, [7; 16]);
    control.report.equal("vcpus", info.vcpu_limit(), 2);
    control.report.equal("max-pages", info.max_pages, 256);
    tables(control);
    placement(control);
    scheduling(control);
    tsc(control);
    policy(control);
    context(control);
}

/// Memory for its page tables, by either operation.
fn tables(control: &mut Control) {
    const SIZE: u64 = 3 << 20;
    control.domctl(
        XEN_DOMCTL_SET_PAGING_MEMPOOL_SIZE,
        DomctlPagingMempool { size: SIZE },
    );
    let pool = control.domctl(XEN_DOMCTL_GET_PAGING_MEMPOOL_SIZE, DomctlPagingMempool::default());
    control.report.equal("pool", pool.size, SIZE);
    let shadow = |op, mb| DomctlShadowOp {
        op,
        mb,
        ..Default::default()
    };
    let mib = control.domctl(
        XEN_DOMCTL_SHADOW_OP,
        shadow(XEN_DOMCTL_SHADOW_OP_GET_ALLOCATION, 0),
    );
    control.report.equal("allocation", mib.mb, 3);
    control.domctl(
        XEN_DOMCTL_SHADOW_OP,
        shadow(XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION, 2),
    );
    let pool = control.domctl(XEN_DOMCTL_GET_PAGING_MEMPOOL_SIZE, DomctlPagingMempool::default());
    control.report.equal("pool-by-allocation", pool.size, 2 << 20);
}

/// Where it may run, and where it should: on the second CPU.
fn placement(control: &mut Control) {
    let ask = |control: &mut Control, command| {
        let (mut hard, mut soft) = ([2u8], [3u8]);
        let flags = XEN_VCPUAFFINITY_HARD | XEN_VCPUAFFINITY_SOFT;
        let affinity = DomctlVcpuaffinity {
            vcpu: 0,
            flags,
            cpumap_hard: bitmap(&mut hard),
            cpumap_soft: bitmap(&mut soft),
        };
        control.domctl(command, affinity);
        (hard, soft)
    };
    // What takes effect of it is written back.
    let set = ask(control, XEN_DOMCTL_SETVCPUAFFINITY);
    control.report.equal("affinity-set", set, ([2], [2]));
    let get = ask(control, XEN_DOMCTL_GETVCPUAFFINITY);
    control.report.equal("affinity", get.0, [2]);
    let mut nodes = [1u8];
    let node = DomctlNodeaffinity {
        nodemap: bitmap(&mut nodes),
    };
    control.domctl(XEN_DOMCTL_SETNODEAFFINITY, node);
    nodes = [0xff];
    let node = DomctlNodeaffinity {
        nodemap: bitmap(&mut nodes),
    };
    control.domctl(XEN_DOMCTL_GETNODEAFFINITY, node);
    control.report.equal("nodes", nodes, [1]);
}

fn scheduling(control: &mut Control) {
    let operation = |cmd, weight, cap| DomctlSchedulerOp {
        sched_id: XEN_SCHEDULER_CREDIT2,
        cmd,
        u: Union::of(&DomctlSchedCredit { weight, cap }),
    };
    let put = operation(XEN_DOMCTL_SCHEDOP_PUTINFO, 700, 90);
    control.domctl(XEN_DOMCTL_SCHEDULER_OP, put);
    let get = operation(XEN_DOMCTL_SCHEDOP_GETINFO, 0, 0);
    let share = control.domctl(XEN_DOMCTL_SCHEDULER_OP, get);
    let share: DomctlSchedCredit = share.u.get();
    control
        .report
        .equal("share", (share.weight, share.cap), (700, 90));
    // No cap from here on.
    let put = operation(XEN_DOMCTL_SCHEDOP_PUTINFO, 256, 0);
    control.domctl(XEN_DOMCTL_SCHEDULER_OP, put);
}

/// Another rate, from where a second has passed.
fn tsc(control: &mut Control) {
    const ELAPSED: u64 = 1_000_000_000;
    let before = control.domctl(XEN_DOMCTL_GETTSCINFO, DomctlTscInfo::default());
    control
        .report
        .equal("tsc-mode", before.tsc_mode, TSC_MODE_DEFAULT);
    let wanted = DomctlTscInfo {
        tsc_mode: TSC_MODE_ALWAYS_EMULATE,
        gtsc_khz: 500_000,
        elapsed_nsec: ELAPSED,
        ..Default::default()
    };
    control.domctl(XEN_DOMCTL_SETTSCINFO, wanted);
    let after = control.domctl(XEN_DOMCTL_GETTSCINFO, DomctlTscInfo::default());
    let found = (after.tsc_mode, after.gtsc_khz, after.incarnation);
    control
        .report
        .equal("tsc", found, (TSC_MODE_ALWAYS_EMULATE, 500_000, 1));
    // It goes on from there, as the domain has not been stopped but not begun.
    let near = (ELAPSED..100 * ELAPSED).contains(&after.elapsed_nsec);
    control
        .report
        .check("tsc-elapsed", near, format_args!("{} ns", after.elapsed_nsec));
    control.domctl(XEN_DOMCTL_SETTSCINFO, DomctlTscInfo::default());
}

/// A feature less: what is not set stays as it was.
fn policy(control: &mut Control) {
    const SSE3: u32 = 1;
    let ask = |control: &mut Control, leaves: &mut Vec<CpuidLeaf>| {
        let request = DomctlCpuPolicy {
            nr_leaves: leaves.len() as u32,
            leaves: match leaves.len() {
                0 => GuestHandle::new(0),
                _ => handle(leaves),
            },
            ..Default::default()
        };
        control.domctl(XEN_DOMCTL_GET_CPU_POLICY, request).nr_leaves
    };
    let count = ask(control, &mut Vec::new());
    let mut leaves = vec![CpuidLeaf::default(); count as usize];
    ask(control, &mut leaves);
    let Some(features) = leaves.iter_mut().find(|leaf| leaf.leaf == 1) else {
        return control.report.check("leaf-1", false, "there is none");
    };
    control.report.equal("sse3", features.c & SSE3, SSE3);
    features.c &= !SSE3;
    let mut one = [*features];
    let request = DomctlCpuPolicy {
        nr_leaves: 1,
        leaves: handle(&mut one),
        ..Default::default()
    };
    control.domctl(XEN_DOMCTL_SET_CPU_POLICY, request);
    let mut now = vec![CpuidLeaf::default(); count as usize];
    ask(control, &mut now);
    control
        .report
        .check("policy", now == leaves, "it is not as it was set");
}

/// Its registers, out and in: it is to begin in real mode at [`CODE_AT`].
fn context(control: &mut Control) {
    let ask = |control: &mut Control, size, buffer| {
        let request = DomctlHvmcontext { size, pad: 0, buffer };
        control.domctl(XEN_DOMCTL_GETHVMCONTEXT, request).size
    };
    let size = ask(control, 0, GuestHandle::new(0));
    let mut context = vec![0u8; size as usize];
    let written = ask(control, size, handle(&mut context));
    control.report.equal("context-size", written, size);
    let Some(cpu) = cpu_record(&mut context) else {
        return control
            .report
            .check("context-cpu", false, "it has no such record");
    };
    let Ok(mut registers) = HvmHwCpu::read_from_bytes(cpu) else {
        return control
            .report
            .check("context-cpu", false, "its record has another size");
    };
    (registers.rax, registers.rip, registers.rsp) = (RAX, CODE_AT, CODE_AT);
    (registers.cs_sel, registers.cs_base) = (0, 0);
    cpu.copy_from_slice(registers.as_bytes());
    let request = DomctlHvmcontext {
        size,
        pad: 0,
        buffer: handle(&mut context),
    };
    control.domctl(XEN_DOMCTL_SETHVMCONTEXT, request);

    let mut record = vec![0u8; size_of::<HvmHwCpu>()];
    let request = DomctlHvmcontextPartial {
        type_: HVM_SAVE_CODE_CPU.into(),
        instance: 0,
        bufsz: record.len() as u64,
        buffer: handle(&mut record),
    };
    let written = control.domctl(XEN_DOMCTL_GETHVMCONTEXT_PARTIAL, request);
    control
        .report
        .equal("record-size", written.bufsz, record.len() as u64);
    let found = HvmHwCpu::read_from_bytes(&record).map_or((0, 0), |cpu| (cpu.rax, cpu.rip));
    control.report.equal("record", found, (RAX, CODE_AT));

    let mut whole = VcpuGuestContext::new_box_zeroed().expect("memory");
    let request = DomctlVcpucontext {
        vcpu: 0,
        pad: 0,
        ctxt: handle(core::slice::from_mut(&mut *whole)),
    };
    control.domctl(XEN_DOMCTL_GETVCPUCONTEXT, request);
    let found = (whole.flags, whole.user_regs.rax, whole.user_regs.rip);
    control
        .report
        .equal("registers", found, (VGCF_ONLINE, RAX, CODE_AT));
}

/// The body of the first record of a CPU.
fn cpu_record(context: &mut [u8]) -> Option<&mut [u8]> {
    let mut rest = context;
    loop {
        let (descriptor, after) = rest.split_at_mut_checked(size_of::<HvmSaveDescriptor>())?;
        let descriptor = HvmSaveDescriptor::read_from_bytes(descriptor).ok()?;
        let (body, next) = after.split_at_mut_checked(descriptor.length as usize)?;
        match descriptor.typecode {
            HVM_SAVE_CODE_CPU => return Some(body),
            HVM_SAVE_CODE_END => return None,
            _ => rest = next,
        }
    }
}

/// It gets memory and runs, is stopped in all ways that there are, and runs again.
pub fn run(control: &mut Control) -> Child {
    let domain = control.domain;
    let mut frames: Vec<u64> = (0..FRAMES).collect();
    let got = memory::populate_physmap(domain, 0, &mut frames);
    control.report.equal("memory", got, Ok(FRAMES as usize));
    let pages = control.info().tot_pages;
    control.report.equal("pages", pages, FRAMES);
    let mut place = AddToPhysmap {
        domid: domain,
        space: XENMAPSPACE_SHARED_INFO,
        gpfn: SHARED_INFO,
        ..Default::default()
    };
    let placed = op(HYPERVISOR_MEMORY_OP, XENMEM_ADD_TO_PHYSMAP, &mut place);
    control.report.equal("shared-info", placed, 0);
    let child = Child(Mapping::range(domain, 0, FRAMES as usize).expect("its frames can be mapped"));
    child.0.write(CODE_AT as usize, &CODE);
    child.0.write(NMI_AT as usize, &NMI);
    // Vector 2 of real mode: offset and segment.
    child.0.store(8, NMI_AT as u32);

    control.report.equal("stands-at-first", child.stands(), true);
    control.domctl(XEN_DOMCTL_UNPAUSEDOMAIN, NOTHING);
    control.report.equal("runs", child.counts(), true);
    control.flags("flags-of-running", XEN_DOMINF_RUNNING, XEN_DOMINF_PAUSED);
    let vcpu = control.vcpu(0);
    let state = (vcpu.online, vcpu.blocked, vcpu.running, vcpu.cpu);
    control.report.equal("vcpu", state, (1, 0, 1, 1));
    let later = control.vcpu(0);
    control.report.check(
        "cpu-time",
        later.cpu_time > vcpu.cpu_time && vcpu.cpu_time > 0,
        later.cpu_time,
    );
    let second = control.vcpu(1).online;
    control.report.equal("second-vcpu", second, 0);

    clock(control, &child);
    stop_and_go(control, &child);
    child
}

/// Its time of day, as it sees it.
fn clock(control: &mut Control, child: &Child) {
    const AHEAD: u32 = 100_000;
    let second = || child.0.load(SECOND);
    control.report.equal("clock", comes(|| second() != 0), true);
    let before = second();
    for (name, offset) in [("clock-ahead", AHEAD), ("clock-back", 0)] {
        let time_offset_seconds = offset.into();
        control.domctl(
            XEN_DOMCTL_SETTIMEOFFSET,
            DomctlSettimeoffset { time_offset_seconds },
        );
        // It is when the domain began that stands there.
        let came = comes(|| second() == before + offset);
        control
            .report
            .check(name, came, format_args!("{} after {before}", second()));
    }
}

fn stop_and_go(control: &mut Control, child: &Child) {
    control.domctl(XEN_DOMCTL_PAUSEDOMAIN, NOTHING);
    control.flags("flags-of-paused", XEN_DOMINF_PAUSED, XEN_DOMINF_RUNNING);
    control.report.equal("stands-paused", child.stands(), true);
    let trigger = DomctlSendtrigger {
        trigger: XEN_DOMCTL_SENDTRIGGER_NMI,
        vcpu: 0,
    };
    control.domctl(XEN_DOMCTL_SENDTRIGGER, trigger);
    control.domctl(XEN_DOMCTL_UNPAUSEDOMAIN, NOTHING);
    let came = comes(|| child.0.load(NMI_CAME) == 1);
    control.report.equal("nmi", came, true);

    let suspended = shut_down(control, SHUTDOWN_SUSPEND);
    control.report.equal("shut-down", suspended, 0);
    let reason = SHUTDOWN_SUSPEND << XEN_DOMINF_SHUTDOWNSHIFT;
    control.flags(
        "flags-of-shut-down",
        XEN_DOMINF_SHUTDOWN | reason,
        XEN_DOMINF_PAUSED,
    );
    control.report.equal("stands-shut-down", child.stands(), true);
    control.domctl(XEN_DOMCTL_RESUMEDOMAIN, NOTHING);
    control.flags("flags-of-resumed", 0, XEN_DOMINF_SHUTDOWN);
    control.report.equal("runs-again", child.counts(), true);

    control.domctl(XEN_DOMCTL_PAUSEDOMAIN, NOTHING);
    let ended = shut_down(control, SHUTDOWN_SOFT_RESET);
    control.report.equal("shut-down-again", ended, 0);
    control.domctl(XEN_DOMCTL_SOFT_RESET, NOTHING);
    control.flags("flags-of-reset", XEN_DOMINF_PAUSED, XEN_DOMINF_SHUTDOWN);
    control.report.equal("stands-reset", child.stands(), true);
}

fn shut_down(control: &Control, reason: u32) -> i64 {
    let mut request = SchedRemoteShutdown {
        domain_id: control.domain,
        reason,
        ..Default::default()
    };
    op(HYPERVISOR_SCHED_OP, SCHEDOP_REMOTE_SHUTDOWN, &mut request)
}

/// Nothing is left of it.
pub fn destroy(control: &mut Control, child: Child) {
    drop(child);
    control.domctls.insert(XEN_DOMCTL_DESTROYDOMAIN);
    let mut answer = error_code(Errno::EAGAIN);
    while [Errno::EAGAIN, Errno::ERESTART].map(error_code).contains(&answer) {
        (answer, ..) = domctl_call(XEN_DOMCTL_DESTROYDOMAIN, control.domain, &NOTHING);
    }
    control.report.equal("destroyed", answer, 0);
    let (answer, ..) = domctl_call(
        XEN_DOMCTL_GETDOMAININFO,
        control.domain,
        &DomctlGetdomaininfo::default(),
    );
    control.report.equal("gone", answer, error_code(Errno::ESRCH));
}
