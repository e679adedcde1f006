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
//! | `event`     | interruption information                                 | no            |
//! | `exit`      | raw exit fields to [`Exit`](super::Exit)                 | no            |
//! | `segment`   | access rights                                            | no            |
//! | `msr_bitmap`| the MSR bitmap                                           | no            |
//! | `cpu`       | probing and switching on                                 | yes           |
//! | `vmcs`      | the VMX instructions                                     | yes           |
//! | `entry`     | the world switch                                         | yes           |
//! | `vpid`      | who has which VPID                                       | no            |
//! | `vcpu`      | [`Vcpu`], the implementation of [`GuestCpu`](super::GuestCpu) | yes      |
//! | `floor`     | a bare world-switch loop to measure                      | yes           |

pub mod controls;
pub mod event;
pub mod exit;
pub mod field;
pub mod msr_bitmap;
pub mod segment;
