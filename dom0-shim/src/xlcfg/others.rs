//! Keys of xl.cfg(5) for what there is not: ignored where the guest runs without, refused where it would miss something.

use super::syntax::Value;

/// What becomes of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It asks for nothing, or for what is so anyway.
    AsIs,
    /// The guest runs without; why.
    Ignored(&'static str),
    /// The guest would miss it; why, and what to do.
    Refused(&'static str),
}

/// Keys that are on unless they are switched off, which nothing here can be.
const ALWAYS_ON: &[(&str, &str)] = &[
    ("hap", "there are nested page tables only"),
    ("acpi", "a PVH guest always gets ACPI tables"),
    ("apic", "a guest always has local APICs"),
    ("nx", "use cpuid=\"host,nx=0\""),
    ("pae", "a PVH guest always has it"),
];

/// Keys that are ignored, by reason.
const IGNORED: &[(&str, &[&str])] = &[
    (
        "it is for HVM guests",
        &[
            "acpi_firmware",
            "acpi_laptop_slate",
            "acpi_s3",
            "acpi_s4",
            "altp2m",
            "altp2mhvm",
            "bios",
            "bios_path_override",
            "boot",
            "device_model",
            "device_model_args",
            "device_model_args_hvm",
            "device_model_args_pv",
            "device_model_override",
            "device_model_stubdomain_override",
            "device_model_stubdomain_seclabel",
            "device_model_user",
            "device_model_version",
            "dm_restrict",
            "firmware_override",
            "hdtype",
            "hpet",
            "mca_caps",
            "mmio_hole",
            "ms_vm_genid",
            "nographic",
            "oos",
            "rdm_mem_boundary",
            "serial",
            "smbios_firmware",
            "soundhw",
            "stubdomain_cmdline",
            "stubdomain_kernel",
            "stubdomain_memory",
            "stubdomain_ramdisk",
            "timer_mode",
            "usb",
            "usbdevice",
            "usbversion",
            "vendor_device",
            "viridian",
            "vkb_device",
            "vpt_align",
            "xen_platform_pci",
        ],
    ),
    (
        "a guest has a console and no screen",
        &[
            "display",
            "keymap",
            "opengl",
            "sdl",
            "spice",
            "spice_clipboard_sharing",
            "spice_image_compression",
            "spice_streaming_video",
            "spiceagent_mouse",
            "spicedisable_ticketing",
            "spicehost",
            "spicepasswd",
            "spiceport",
            "spicetls_port",
            "spiceusbredirection",
            "spicevdagent",
            "stdvga",
            "vdispl",
            "vfb",
            "vga",
            "videoram",
            "vkb",
            "vnc",
            "vncdisplay",
            "vnclisten",
            "vncpasswd",
            "vncunused",
            "vncviewer",
            "vsnd",
            "xauthority",
        ],
    ),
    (
        "it is for PV guests",
        &[
            "e820_host",
            "pvshim",
            "pvshim_cmdline",
            "pvshim_extra",
            "pvshim_path",
        ],
    ),
    ("it is for Arm", &["device_tree", "gic_version", "tee", "vuart"]),
    (
        "there is no passthrough of devices",
        &[
            "pci_msitranslate",
            "pci_permissive",
            "pci_power_mgmt",
            "pci_seize",
            "rdm",
        ],
    ),
    ("there are no security labels", &["seclabel", "init_seclabel"]),
    (
        "there is no boot loader",
        &["bootloader_args", "bootloader_restrict", "bootloader_user"],
    ),
    (
        "it is for other schedulers",
        &["extratime", "latency", "period", "slice"],
    ),
    ("all devices are dom0-shim's", &["driver_domain"]),
    ("there is one node", &["vnuma"]),
    ("guests have no performance counters", &["vpmu"]),
    ("there are no traces", &["vmtrace_buf_kb"]),
    ("dom0-shim's time zone is UTC", &["localtime"]),
    ("it is of no use", &["vif2", "xend_suspend_evtchn_compat"]),
];

/// Keys that are refused, by reason.
const REFUSED: &[(&str, &[&str])] = &[
    (
        "there is no passthrough of devices",
        &[
            "dtdev",
            "gfx_passthru",
            "iomem",
            "ioports",
            "irqs",
            "passthrough",
            "pci",
            "usbctrl",
            "usbdev",
        ],
    ),
    (
        "there is none; kernel= and ramdisk= can name files on a disk of the machine, as /dev/vda1:/vmlinuz",
        &["bootloader"],
    ),
    ("there is none; kernel= names a kernel", &["firmware"]),
    ("there is no nested virtualization", &["nestedhvm"]),
    ("there is no such device", &["p9", "pvcalls", "vtpm"]),
];

/// What becomes of a key; `None` if xl.cfg(5) has none of this name.
pub fn fate(key: &str, value: &Value) -> Option<Fate> {
    if let Some((_, why)) = ALWAYS_ON.iter().find(|(of, _)| *of == key) {
        return Some(if is_off(value) {
            Fate::Ignored(why)
        } else {
            Fate::AsIs
        });
    }
    let reason = |table: &'static [(&'static str, &'static [&'static str])]| {
        table
            .iter()
            .find(|(_, keys)| keys.contains(&key))
            .map(|(why, _)| *why)
    };
    let fate = reason(IGNORED)
        .map(Fate::Ignored)
        .or_else(|| reason(REFUSED).map(Fate::Refused))?;
    Some(if is_off(value) { Fate::AsIs } else { fate })
}

/// Does a value ask for nothing?
fn is_off(value: &Value) -> bool {
    match value {
        Value::Number(number) => *number == 0,
        Value::String(text) => ["", "0", "none", "disabled", "default"].contains(&text.as_str()),
        Value::List(list) => list.is_empty(),
    }
}
