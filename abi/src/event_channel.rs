//! `event_channel_op` (hypercall 32), both delivery ABIs and the virtual interrupts.

use crate::Domid;

/// A port number as it stands in ABI structures.
pub type EvtchnPort = u32;

/// Connect to an unbound remote port ([`EvtchnBindInterdomain`]).
pub const EVTCHNOP_BIND_INTERDOMAIN: u32 = 0;
/// Bind a virtual interrupt ([`EvtchnBindVirq`]).
pub const EVTCHNOP_BIND_VIRQ: u32 = 1;
/// Bind a physical interrupt ([`EvtchnBindPirq`]).
pub const EVTCHNOP_BIND_PIRQ: u32 = 2;
/// Close a port ([`EvtchnPortArg`]).
pub const EVTCHNOP_CLOSE: u32 = 3;
/// Notify the other end ([`EvtchnPortArg`]).
pub const EVTCHNOP_SEND: u32 = 4;
/// State of a port ([`EvtchnStatus`]).
pub const EVTCHNOP_STATUS: u32 = 5;
/// Make a port that another domain may bind ([`EvtchnAllocUnbound`]).
pub const EVTCHNOP_ALLOC_UNBOUND: u32 = 6;
/// Make a port for interprocessor events ([`EvtchnBindIpi`]).
pub const EVTCHNOP_BIND_IPI: u32 = 7;
/// Choose the vCPU a port notifies ([`EvtchnBindVcpu`]).
pub const EVTCHNOP_BIND_VCPU: u32 = 8;
/// Unmask, and deliver what was pending ([`EvtchnPortArg`]).
pub const EVTCHNOP_UNMASK: u32 = 9;
/// Close all ports of a domain ([`EvtchnReset`]).
pub const EVTCHNOP_RESET: u32 = 10;
/// It goes on; only for the hypervisor to ask for.
pub const EVTCHNOP_RESET_CONT: u32 = 14;
/// Switch to FIFO, per vCPU ([`EvtchnInitControl`]).
pub const EVTCHNOP_INIT_CONTROL: u32 = 11;
/// Add a page of FIFO event words ([`EvtchnExpandArray`]).
pub const EVTCHNOP_EXPAND_ARRAY: u32 = 12;
/// FIFO priority of a port ([`EvtchnSetPriority`]).
pub const EVTCHNOP_SET_PRIORITY: u32 = 13;

/// Not in use.
pub const EVTCHNSTAT_CLOSED: u32 = 0;
/// Waiting for a remote end.
pub const EVTCHNSTAT_UNBOUND: u32 = 1;
/// Connected.
pub const EVTCHNSTAT_INTERDOMAIN: u32 = 2;
/// Physical interrupt.
pub const EVTCHNSTAT_PIRQ: u32 = 3;
/// Virtual interrupt.
pub const EVTCHNSTAT_VIRQ: u32 = 4;
/// Interprocessor.
pub const EVTCHNSTAT_IPI: u32 = 5;

/// [`EvtchnBindPirq::flags`]: the line may be shared.
pub const BIND_PIRQ_WILL_SHARE: u32 = 1;

/// Ports of the 2-level ABI, 64-bit guests.
pub const EVTCHN_2L_NR_CHANNELS: u32 = 4096;
/// Ports of the FIFO ABI.
pub const EVTCHN_FIFO_NR_CHANNELS: u32 = 1 << EVTCHN_FIFO_LINK_BITS;
/// Highest FIFO priority.
pub const EVTCHN_FIFO_PRIORITY_MAX: u32 = 0;
/// Priority of a fresh port.
pub const EVTCHN_FIFO_PRIORITY_DEFAULT: u32 = 7;
/// Lowest FIFO priority.
pub const EVTCHN_FIFO_PRIORITY_MIN: u32 = 15;
/// Queues of a vCPU, one a priority.
pub const EVTCHN_FIFO_MAX_QUEUES: usize = 16;
/// Event word: bit number of pending.
pub const EVTCHN_FIFO_PENDING: u32 = 31;
/// Event word: bit number of masked.
pub const EVTCHN_FIFO_MASKED: u32 = 30;
/// Event word: bit number of linked.
pub const EVTCHN_FIFO_LINKED: u32 = 29;
/// Event word: bit number of busy.
pub const EVTCHN_FIFO_BUSY: u32 = 28;
/// Event word: width of the link field.
pub const EVTCHN_FIFO_LINK_BITS: u32 = 17;
/// Event word: mask of the link field.
pub const EVTCHN_FIFO_LINK_MASK: u32 = (1 << EVTCHN_FIFO_LINK_BITS) - 1;

/// Timer, per vCPU.
pub const VIRQ_TIMER: u32 = 0;
/// Debug request, per vCPU.
pub const VIRQ_DEBUG: u32 = 1;
/// Console input, for dom0.
pub const VIRQ_CONSOLE: u32 = 2;
/// A domain shut down or died.
pub const VIRQ_DOM_EXC: u32 = 3;
/// Trace buffer.
pub const VIRQ_TBUF: u32 = 4;
/// Debugger.
pub const VIRQ_DEBUGGER: u32 = 6;
/// Profiler, per vCPU.
pub const VIRQ_XENOPROF: u32 = 7;
/// New bytes in the hypervisor's log.
pub const VIRQ_CON_RING: u32 = 8;
/// A physical CPU came or went.
pub const VIRQ_PCPU_STATE: u32 = 9;
/// Memory event.
pub const VIRQ_MEM_EVENT: u32 = 10;
/// Argo.
pub const VIRQ_ARGO: u32 = 11;
/// Free memory is low.
pub const VIRQ_ENOMEM: u32 = 12;
/// Performance counters, per vCPU.
pub const VIRQ_XENPMU: u32 = 13;
/// First architectural one; machine checks on x86.
pub const VIRQ_ARCH_0: u32 = 16;
/// How many there are.
pub const NR_VIRQS: usize = 24;

plain! {
    /// Argument of close, send and unmask.
    pub struct EvtchnPortArg {
        /// Local port.
        pub port: EvtchnPort,
    }
    /// Make a port that another domain may bind.
    pub struct EvtchnAllocUnbound {
        /// Owner of the new port.
        pub dom: Domid,
        /// Who may bind it.
        pub remote_dom: Domid,
        /// Out: the port.
        pub port: EvtchnPort,
    }
    /// Connect to a remote port.
    pub struct EvtchnBindInterdomain {
        /// Its owner.
        pub remote_dom: Domid,
        /// Padding.
        pub pad: u16,
        /// Unbound port there.
        pub remote_port: EvtchnPort,
        /// Out: local port.
        pub local_port: EvtchnPort,
    }
    /// Bind a virtual interrupt.
    pub struct EvtchnBindVirq {
        /// `VIRQ_*`.
        pub virq: u32,
        /// vCPU to notify; 0 for global ones.
        pub vcpu: u32,
        /// Out: the port.
        pub port: EvtchnPort,
    }
    /// Bind a physical interrupt.
    pub struct EvtchnBindPirq {
        /// Physical interrupt of the domain.
        pub pirq: u32,
        /// [`BIND_PIRQ_WILL_SHARE`].
        pub flags: u32,
        /// Out: the port.
        pub port: EvtchnPort,
    }
    /// Make an interprocessor port.
    pub struct EvtchnBindIpi {
        /// vCPU to notify.
        pub vcpu: u32,
        /// Out: the port.
        pub port: EvtchnPort,
    }
    /// State of a port.
    pub struct EvtchnStatus {
        /// Owner.
        pub dom: Domid,
        /// Padding.
        pub pad: u16,
        /// Port.
        pub port: EvtchnPort,
        /// Out: `EVTCHNSTAT_*`.
        pub status: u32,
        /// Out: vCPU notified.
        pub vcpu: u32,
        /// Out: what it is bound to; see [`EvtchnStatus::unbound`] and its neighbours.
        pub u: [u32; 2],
    }
    /// Choose the vCPU a port notifies.
    pub struct EvtchnBindVcpu {
        /// Port.
        pub port: EvtchnPort,
        /// vCPU.
        pub vcpu: u32,
    }
    /// Close all ports of a domain.
    pub struct EvtchnReset {
        /// Domain.
        pub dom: Domid,
    }
    /// Give a vCPU its FIFO control block.
    pub struct EvtchnInitControl {
        /// Frame of the page that holds the [`EvtchnFifoControlBlock`].
        pub control_gfn: u64,
        /// Offset in that page.
        pub offset: u32,
        /// vCPU.
        pub vcpu: u32,
        /// Out: width of the link field.
        pub link_bits: u8,
        /// Padding.
        pub pad: [u8; 7],
    }
    /// Add a page of event words.
    pub struct EvtchnExpandArray {
        /// Its frame.
        pub array_gfn: u64,
    }
    /// Priority of a port.
    pub struct EvtchnSetPriority {
        /// Port.
        pub port: EvtchnPort,
        /// 0 (high) to 15 (low).
        pub priority: u32,
    }
    /// FIFO control block of a vCPU.
    pub struct EvtchnFifoControlBlock {
        /// Bit per priority: its queue is not empty.
        pub ready: u32,
        /// Reserved.
        pub pad: u32,
        /// Head of each queue.
        pub head: [u32; EVTCHN_FIFO_MAX_QUEUES],
    }
}

impl EvtchnStatus {
    /// The [`Self::u`] of an unbound port that `dom` may bind.
    pub const fn unbound(dom: Domid) -> [u32; 2] {
        [dom as u32, 0]
    }

    /// The [`Self::u`] of a port connected to `port` of `dom`.
    pub const fn interdomain(dom: Domid, port: EvtchnPort) -> [u32; 2] {
        [dom as u32, port]
    }

    /// The [`Self::u`] of a port bound to virtual interrupt `virq`.
    pub const fn virq(virq: u32) -> [u32; 2] {
        [virq, 0]
    }

    /// The [`Self::u`] of a port bound to physical interrupt `pirq`.
    pub const fn pirq(pirq: u32) -> [u32; 2] {
        [pirq, 0]
    }
}
