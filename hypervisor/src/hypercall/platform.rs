//! `platform_op`: what dom0 may do to the machine. One argument for all operations, as for `sysctl`.
//!
//! The structures that are looked at here have one layout for all guests.

use abi::Errno;
use abi::platform::{
    PlatformOp, XEN_FW_DISK_INFO, XEN_FW_DISK_MBR_SIGNATURE, XEN_FW_EFI_INFO, XEN_FW_KBD_SHIFT_FLAGS,
    XEN_FW_VBEDDC_INFO, XENPF_CPU_OFFLINE, XENPF_CPU_ONLINE, XENPF_FIRMWARE_INFO, XENPF_GET_CPU_VERSION,
    XENPF_GET_CPUINFO, XENPF_INTERFACE_VERSION, XENPF_MICROCODE_UPDATE, XENPF_SETTIME32, XENPF_SETTIME64,
    XenpfFirmwareInfo, XenpfPcpuVersion, XenpfSettime32, XenpfSettime64,
};
use raw_cpuid::CpuId;

use super::{Caller, Outcome, hotplug};
use crate::domain::{Domain, table};
use crate::hw::time;
use crate::sched;

pub(super) fn platform_op(caller: &mut Caller<'_>, at: u64) -> Outcome {
    let mut operation: PlatformOp = caller.read(at)?;
    if operation.interface_version != XENPF_INTERFACE_VERSION {
        return Err(Errno::EACCES.into());
    }
    caller.require_privilege()?;
    let u = &mut operation.u;
    match operation.cmd {
        XENPF_SETTIME32 => {
            let XenpfSettime32 {
                secs,
                nsecs,
                system_time,
            } = u.get();
            set_time(secs.into(), nsecs, system_time);
            return Ok(0);
        }
        XENPF_SETTIME64 => {
            let time: XenpfSettime64 = u.get();
            if time.mbz != 0 {
                return Err(Errno::EINVAL.into());
            }
            set_time(time.secs, time.nsecs, time.system_time);
            return Ok(0);
        }
        XENPF_GET_CPUINFO => {
            let mut info = u.get();
            hotplug::info(&mut info);
            u.set(&info);
        }
        XENPF_CPU_ONLINE => {
            let cpu = u.get();
            hotplug::online(&cpu)?;
            return Ok(0);
        }
        XENPF_CPU_OFFLINE => {
            let cpu = u.get();
            hotplug::offline(&cpu)?;
            return Ok(0);
        }
        XENPF_GET_CPU_VERSION => {
            let mut version: XenpfPcpuVersion = u.get();
            cpu_version(&mut version);
            u.set(&version);
        }
        XENPF_FIRMWARE_INFO => return Err(firmware_info(u.get()).into()),
        // As a Xen that is built without the loader.
        XENPF_MICROCODE_UPDATE => return Err(Errno::EOPNOTSUPP.into()),
        _ => return Err(Errno::ENOSYS.into()),
    }
    caller.write(at, &operation)?;
    Ok(0)
}

/// The time of day was this when system time was `system_time` (ns). All guests are told.
fn set_time(seconds: u64, nanoseconds: u32, system_time: u64) {
    let day = seconds
        .wrapping_mul(1_000_000_000)
        .wrapping_add(nanoseconds.into());
    time::set_wall_clock_base(day.wrapping_sub(system_time));
    table::all().for_each(|domain| Domain::publish_wall_clock(&domain));
}

/// The largest number of a CPU.
fn last_cpu() -> u32 {
    (sched::cpu_count() as u32).saturating_sub(1)
}

/// All CPUs are of one model.
fn cpu_version(version: &mut XenpfPcpuVersion) {
    let cpuid = CpuId::new();
    let there = version.xen_cpuid <= last_cpu();
    let vendor = cpuid.get_vendor_info().filter(|_| there);
    let model = cpuid.get_feature_info().filter(|_| there);
    let mut vendor_id = [0; 12];
    if let Some(vendor) = &vendor {
        for (to, from) in vendor_id.iter_mut().zip(vendor.as_str().bytes()) {
            *to = from;
        }
    }
    let (family, number, stepping) = model.map_or((0, 0, 0), |model| {
        (model.family_id(), model.model_id(), model.stepping_id())
    });
    *version = XenpfPcpuVersion {
        vendor_id,
        family: family.into(),
        model: number.into(),
        stepping: stepping.into(),
        max_present: last_cpu(),
        ..*version
    };
}

/// Nothing was asked of firmware that could be told.
fn firmware_info(request: XenpfFirmwareInfo) -> Errno {
    match request.type_ {
        XEN_FW_DISK_INFO | XEN_FW_DISK_MBR_SIGNATURE | XEN_FW_VBEDDC_INFO | XEN_FW_KBD_SHIFT_FLAGS => {
            Errno::ESRCH
        }
        XEN_FW_EFI_INFO => Errno::ENOSYS,
        _ => Errno::EINVAL,
    }
}
