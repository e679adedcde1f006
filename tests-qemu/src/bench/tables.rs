//! What is measured by [`super::costs`]: the guests of each table.

/// Domains that measure something together, created one after the other: what they print of costs is the table.
pub struct Measurement {
    /// What stands above the table.
    pub(super) title: &'static str,
    /// What the table's numbers count.
    pub(super) unit: &'static str,
    /// How many CPUs the machine has.
    pub cpus: u32,
    pub(super) floor: Floor,
    pub(super) guests: &'static [Guest],
}

/// What a table's operations cannot cost less than.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Floor {
    /// A bare world switch.
    WorldSwitch,
    /// The same on the emulator's virtio devices, for a guest that has the machine to itself.
    Virtio,
    /// There is no such thing.
    None,
}

/// A test guest as a domain.
pub(super) struct Guest {
    /// The domain's name; those of several end in a number.
    pub(super) name: &'static str,
    /// How many there are.
    pub(super) domains: u32,
    /// One of `guests/src/bin`.
    pub(super) kernel: &'static str,
    /// Its command line.
    pub(super) extra: &'static str,
    pub(super) vcpus: u32,
    /// In MiB.
    pub(super) memory: u32,
    /// Further lines of its config.
    pub(super) more: &'static str,
    pub(super) device: Device,
}

/// A paravirtual device.
pub(super) enum Device {
    None,
    /// A small disk in dom0's RAM.
    Disk,
    /// A network device with this MAC on the bridge of all.
    Network(&'static str),
}

/// What most tables count.
const INSTRUCTIONS: &str = "instructions of a domU";

/// A domain with one vCPU and nothing more.
const PLAIN: Guest = Guest {
    name: "",
    domains: 1,
    kernel: "",
    extra: "",
    vcpus: 1,
    memory: 32,
    more: "",
    device: Device::None,
};

/// Exits, hypercalls, events, timers, grants. These are the first domains, so that they know each other's numbers.
pub const EXITS: Measurement = Measurement {
    title: "Exits and hypercalls",
    unit: INSTRUCTIONS,
    cpus: 1,
    floor: Floor::WorldSwitch,
    guests: &[
        Guest {
            name: "peer",
            kernel: "bench",
            extra: "offer=2",
            ..PLAIN
        },
        Guest {
            name: "bench",
            kernel: "bench",
            extra: "peer=1",
            vcpus: 2,
            ..PLAIN
        },
    ],
};

/// Requests to a disk in dom0's RAM, by grants that the back end copies from or maps each time.
pub const BLOCK: Measurement = Measurement {
    title: "Block requests",
    unit: INSTRUCTIONS,
    cpus: 1,
    floor: Floor::Virtio,
    guests: &[Guest {
        name: "block",
        kernel: "blkfront",
        extra: "bench",
        device: Device::Disk,
        ..PLAIN
    }],
};

/// The same by grants that the back end keeps mapped.
pub const BLOCK_PERSISTENT: Measurement = Measurement {
    title: "Block requests, persistent grants",
    unit: INSTRUCTIONS,
    cpus: 1,
    floor: Floor::Virtio,
    guests: &[Guest {
        name: "persistent",
        kernel: "blkfront",
        extra: "bench persistent",
        device: Device::Disk,
        ..PLAIN
    }],
};

/// Packets between two domains.
pub const NETWORK: Measurement = Measurement {
    title: "Packets from one domain to another",
    unit: INSTRUCTIONS,
    cpus: 1,
    floor: Floor::Virtio,
    guests: &[
        Guest {
            name: "echo",
            kernel: "netbench",
            extra: "echo",
            device: Device::Network("00:16:3e:00:00:02"),
            ..PLAIN
        },
        Guest {
            name: "network",
            kernel: "netbench",
            device: Device::Network("00:16:3e:00:00:01"),
            ..PLAIN
        },
    ],
};

/// A TCP connection between two domains.
pub const TCP: Measurement = Measurement {
    title: "TCP from one domain to another",
    unit: INSTRUCTIONS,
    cpus: 1,
    floor: Floor::Virtio,
    guests: &[
        Guest {
            name: "sink",
            kernel: "netbench",
            extra: "sink",
            device: Device::Network("00:16:3e:00:00:04"),
            ..PLAIN
        },
        Guest {
            name: "tcp",
            kernel: "netbench",
            extra: "tcp",
            device: Device::Network("00:16:3e:00:00:03"),
            ..PLAIN
        },
    ],
};

/// Transactions with xenstore while ever more domains are alive that have nodes and watches there, too.
pub const STORE: Measurement = Measurement {
    title: "xenstore beside other domains",
    unit: INSTRUCTIONS,
    cpus: 1,
    floor: Floor::None,
    guests: &[
        store_clients("first", 1),
        store_bench("beside-1", "what=measure others=1"),
        store_clients("to-4", 3),
        store_bench("beside-4", "what=measure others=4"),
        store_clients("to-16", 12),
        store_bench("beside-16", "what=measure others=16"),
        store_clients("to-64", 48),
        store_bench("beside-64", "what=measure others=64"),
    ],
};

const fn store_clients(name: &'static str, domains: u32) -> Guest {
    Guest {
        domains,
        memory: 4,
        ..store_bench(name, "what=live")
    }
}

const fn store_bench(name: &'static str, extra: &'static str) -> Guest {
    Guest {
        name,
        kernel: "store",
        extra,
        ..PLAIN
    }
}

/// Interrupts, events and wake-ups from one CPU to another.
pub const SMP: Measurement = Measurement {
    title: "From a vCPU to another one on another CPU",
    unit: INSTRUCTIONS,
    cpus: 2,
    floor: Floor::None,
    guests: &[Guest {
        name: "smp",
        kernel: "smp",
        vcpus: 2,
        more: "cpus=['0','1']",
        ..PLAIN
    }],
};

/// What those have that compute on one CPU, by weight, and with a cap. The other CPU is idle: QEMU's take turns.
pub const SHARES: Measurement = Measurement {
    title: "Shares of a CPU",
    unit: "in thousandths",
    cpus: 2,
    floor: Floor::None,
    guests: &[
        load("light", "compute", "cpus='1'\ncpu_weight=256"),
        load("twice", "share 512 beside 256", "cpus='1'\ncpu_weight=512"),
        load("heavy", "compute", "cpus='1'\ncpu_weight=512"),
        load(
            "third",
            "share 256 beside 256 and 512",
            "cpus='1'\ncpu_weight=256",
        ),
        load(
            "capped",
            "share cap of 10 percent, beside 256 and 512",
            "cpus='1'\ncap=10",
        ),
        load(
            "greedy",
            "share 2048 with a cap of 50 percent, beside 256 and 512",
            "cpus='1'\ncpu_weight=2048\ncap=50",
        ),
    ],
};

/// How late one that sleeps is woken where others compute: those of [`SHARES`].
pub const LATENESS: Measurement = Measurement {
    title: "From the time that a timer was set for to running",
    unit: "nanoseconds",
    cpus: 2,
    floor: Floor::None,
    guests: &[load("busy", "sleep", "cpus='1'")],
};

const fn load(name: &'static str, extra: &'static str, more: &'static str) -> Guest {
    Guest {
        name,
        kernel: "load",
        extra,
        more,
        ..PLAIN
    }
}
