//! Intel VT-x (SDM volume 3C, chapters 24 to 32).
//!
//! Every guest runs with extended page tables, as an unrestricted guest (real mode included), with the VMCS's own EFER and PAT, and
//! with CR8 in a virtual-APIC page; a CPU that lacks one of these is refused by [`probe`]. VPID, the preemption timer,
//! PAUSE-loop exiting and the like are used where they exist.
//!
//! | file        | what it is                                               | may be unsafe |
//! |-------------|----------------------------------------------------------|---------------|
//! | `field`     | VMCS field encodings                                     | no            |
//! | `controls`  | control bits, and the choice of an allowed setting       | no            |
//! | `caps`      | what the CPU can, from raw capability MSRs               | no            |
//! | `multihit`  | which CPUs large pages of code hang                      | no            |
//! | `event`     | interruption information                                 | no            |
//! | `exit`      | raw exit fields to [`Exit`](super::Exit)                 | no            |
//! | `segment`   | access rights                                            | no            |
//! | `msr_bitmap`| the MSR bitmap                                           | no            |
//! | `cpu`       | probing and switching on                                 | yes           |
//! | `vmcs`      | the VMX instructions                                     | yes           |
//! | `entry`     | the world switch                                         | yes           |
//! | `vpid`      | who has which VPID                                       | no            |
//! | `host_state`| what an exit loads                                       | yes           |
//! | `reset`     | a VMCS as it begins                                      | no            |
//! | `vcpu`      | [`Vcpu`]: entry, exit, moving between CPUs               | yes           |
//! | `state`     | its registers and events: [`GuestCpu`](super::GuestCpu)  | yes           |
//! | `virtual_apic` | the local APIC by hardware                         | no            |
//! | `floor`     | a bare world-switch loop to measure                      | yes           |

mod caps;
mod controls;
mod cpu;
mod entry;
mod event;
mod exit;
mod field;
mod floor;
mod host_state;
mod msr_bitmap;
mod multihit;
mod reset;
mod segment;
mod state;
mod vcpu;
mod virtual_apic;
mod vmcs;
mod vpid;

pub use caps::Caps;
pub use cpu::{apic_access_page, disable, enable, multihit_affects, probe};
pub use entry::caller_of_handler;
pub use floor::bare_round_trips;
pub use vcpu::Vcpu;

/// A page that the hardware reads and writes.
#[derive(zerocopy::FromZeros)]
#[repr(C, align(4096))]
struct Page([u8; 4096]);
