//! Memory that a vCPU shares with the hypervisor beside its event flags: clocks, and where its time went.
//!
//! The guest names it by virtual address, once; the frames behind that are held from then on, so that nothing is walked when
//! it is written (at every change of state).

use abi::vcpu::{CompatVcpuRunstateInfo, RUNSTATE_OFFLINE, VcpuRunstateInfo, XEN_RUNSTATE_UPDATE};
use abi::{Layout, Narrow};
use zerocopy::IntoBytes;

use super::Domain;
use super::vcpu::Vcpu;
use crate::mm::guest::GuestRange;
use crate::sync::{Mutex, Rank};
use core::mem::offset_of;
use core::sync::atomic::Ordering::SeqCst;
use core::sync::atomic::fence;

/// Offset of the clock in a `vcpu_info`.
const TIME_INFO: u64 = 32;

/// A vCPU's areas.
pub struct Areas {
    /// The second clock, which user space reads, and its version.
    time: Mutex<Option<(GuestRange, u32)>>,
    runstate: Mutex<Runstate>,
}

struct Runstate {
    info: VcpuRunstateInfo,
    area: Option<(GuestRange, Layout)>,
}

impl Areas {
    /// None registered; the vCPU has been offline since time 0.
    pub fn new() -> Self {
        let info = VcpuRunstateInfo {
            state: RUNSTATE_OFFLINE,
            ..Default::default()
        };
        Self {
            time: Mutex::new(Rank::Areas, None),
            runstate: Mutex::new(Rank::RunState, Runstate { info, area: None }),
        }
    }

    /// Keep a second clock in `area`, or none. The caller then calls [`Domain::publish_time`].
    pub fn register_time(&self, area: Option<GuestRange>) {
        *self.time.lock() = area.map(|area| (area, 0));
    }

    /// Keep `area`, in that layout, informed of the vCPU's state, or nobody.
    pub fn register_runstate(&self, area: Option<(GuestRange, Layout)>, now: u64) {
        let mut runstate = self.runstate.lock();
        runstate.area = area;
        let state = runstate.info.state;
        runstate.change(state, now);
        runstate.publish();
    }

    /// The vCPU is in `state` (`RUNSTATE_*`) from `now` (ns) on.
    pub fn change_state(&self, state: u32, now: u64) {
        let mut runstate = self.runstate.lock();
        if runstate.info.state != state {
            runstate.change(state, now);
            runstate.publish();
        }
    }

    /// Where the vCPU's time went until `now` (ns).
    pub fn runstate(&self, now: u64) -> VcpuRunstateInfo {
        let runstate = self.runstate.lock();
        let mut info = runstate.info;
        info.add_up_to(now);
        info
    }

    /// Write no more; the frames are no longer held.
    pub fn forget(&self) {
        *self.time.lock() = None;
        self.runstate.lock().area = None;
    }
}

impl Default for Areas {
    fn default() -> Self {
        Self::new()
    }
}

/// Account for the time in the current state.
trait AddUp {
    fn add_up_to(&mut self, now: u64);
}

impl AddUp for VcpuRunstateInfo {
    fn add_up_to(&mut self, now: u64) {
        let spent = now.saturating_sub(self.state_entry_time);
        if let Some(time) = self.time.get_mut(self.state as usize) {
            *time = time.saturating_add(spent);
        }
    }
}

impl Runstate {
    fn change(&mut self, state: u32, now: u64) {
        self.info.add_up_to(now);
        self.info.state = state;
        self.info.state_entry_time = now;
    }

    /// With a mark that the guest may look for: bit 63 of the entry time is set while the rest is being written (guests that have not asked for
    /// the mark see it for as short a time, and only from another CPU).
    fn publish(&self) {
        let Some((area, layout)) = &self.area else {
            return;
        };
        let mut info = self.info;
        info.state_entry_time |= XEN_RUNSTATE_UPDATE;
        let entry_time = match layout {
            Layout::X86_64 => offset_of!(VcpuRunstateInfo, state_entry_time),
            Layout::I386 => offset_of!(CompatVcpuRunstateInfo, state_entry_time),
        };
        area.write(entry_time, &info.state_entry_time.to_le_bytes());
        fence(SeqCst);
        match layout {
            Layout::X86_64 => area.write(0, info.as_bytes()),
            Layout::I386 => {
                let info: CompatVcpuRunstateInfo = info.narrow();
                area.write(0, info.as_bytes());
            }
        }
        fence(SeqCst);
        area.write(entry_time, &self.info.state_entry_time.to_le_bytes());
    }
}

impl Domain {
    /// Write the vCPU's clock to all the places where it is kept: after one was registered, or the guest's TSC was moved.
    pub fn publish_time(&self, vcpu: &Vcpu) {
        let info = crate::virt::time::time_info(vcpu);
        vcpu.events.with_info(|frame, at| {
            // The version is odd while the rest is being written (xen public xen.h, vcpu_time_info).
            let version = frame.u32_at(at + TIME_INFO);
            let writing = version.load(SeqCst).wrapping_add(1) | 1;
            version.store(writing, SeqCst);
            let body = info.as_bytes().get(4..).unwrap_or_default();
            frame.copy_in(at + TIME_INFO + 4, body);
            version.store(writing.wrapping_add(1), SeqCst);
        });
        if let Some((area, version)) = &mut *vcpu.areas.time.lock() {
            area.write(0, &version.wrapping_add(1).to_le_bytes());
            fence(SeqCst);
            area.write(4, info.as_bytes().get(4..).unwrap_or_default());
            fence(SeqCst);
            // Another than before, for whoever was stopped while it read.
            *version = version.wrapping_add(2);
            area.write(0, &version.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use abi::vcpu::{RUNSTATE_BLOCKED, RUNSTATE_RUNNING};

    use super::*;

    #[test]
    fn time_goes_where_the_vcpu_was() {
        let areas = Areas::new();
        areas.change_state(RUNSTATE_RUNNING, 100);
        areas.change_state(RUNSTATE_RUNNING, 120);
        areas.change_state(RUNSTATE_BLOCKED, 150);
        areas.change_state(RUNSTATE_RUNNING, 400);
        let info = areas.runstate(401);
        assert_eq!(info.time, [51, 0, 250, 100]);
        assert_eq!((info.state, info.state_entry_time), (RUNSTATE_RUNNING, 400));
        assert_eq!(areas.runstate(401).time, info.time, "looking changes nothing");
    }
}
