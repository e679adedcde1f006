//! A domain's nodes in xenstore, as libxl writes them for a PVH guest.

use alloc::format;
use alloc::string::String;

use abi::Domid;
use dom0_shim::shell::format::uuid;
use dom0_shim::xenstore::Error;
use dom0_shim::xlcfg::Config;
use pvh::layout::{CONSOLE_GFN, STORE_GFN};

use crate::guest::console::LIMIT;
use crate::guest::store::Store;

/// Nodes under the domain's home that it may write.
const WRITABLE: [&str; 11] = [
    "control/shutdown",
    "control/sysrq",
    "control/feature-poweroff",
    "control/feature-reboot",
    "control/feature-suspend",
    "device/suspend/event-channel",
    "data",
    "drivers",
    "feature",
    "attr",
    "error",
];

/// Writes the nodes of a new domain.
pub fn write(
    store: &Store,
    domain: Domid,
    handle: &[u8; 16],
    config: &Config,
    ports: super::build::Ports,
) -> Result<(), Error> {
    let home = format!("/local/domain/{domain}");
    let read_only = [String::from("n0"), format!("r{domain}")];
    store.write(&home, "")?;
    store.set_permissions(&home, &read_only.each_ref().map(String::as_str))?;
    let kib = config.memory * 1024;
    let nodes = [
        ("vm", vm_path(handle)),
        ("name", config.name.clone()),
        ("domid", format!("{domain}")),
        ("memory/static-max", format!("{}", config.max_memory * 1024)),
        ("memory/target", format!("{kib}")),
        ("memory/videoram", String::from("0")),
        ("device", String::new()),
        ("control", String::new()),
        (
            "control/platform-feature-multiprocessor-suspend",
            String::from("1"),
        ),
        ("control/platform-feature-xs_reset_watches", String::from("1")),
        ("store/port", format!("{}", ports.store)),
        ("store/ring-ref", format!("{}", STORE_GFN)),
        ("console/backend-id", String::from("0")),
        ("console/limit", String::from(LIMIT)),
        ("console/type", String::from("xenconsoled")),
        ("console/output", String::from("pty")),
        ("console/tty", String::new()),
        ("console/port", format!("{}", ports.console)),
        ("console/ring-ref", format!("{}", CONSOLE_GFN)),
    ];
    for (node, value) in nodes {
        store.write(&format!("{home}/{node}"), &value)?;
    }
    make_available(store, domain, config.vcpus, config.max_vcpus)?;
    let owner = format!("n{domain}");
    for node in WRITABLE {
        let path = format!("{home}/{node}");
        store.write(&path, "")?;
        store.set_permissions(&path, &[&owner])?;
    }
    write_vm(store, handle, &config.name)?;
    store.write(&format!("/libxl/{domain}/type"), "pvh")
}

fn vm_path(handle: &[u8; 16]) -> String {
    format!("/vm/{}", uuid(handle))
}

fn write_vm(store: &Store, handle: &[u8; 16], name: &str) -> Result<(), Error> {
    let vm = vm_path(handle);
    store.write(&format!("{vm}/uuid"), &uuid(handle))?;
    store.write(&format!("{vm}/name"), name)
}

/// A domain has another handle and name.
pub fn rename(store: &Store, domain: Domid, handle: &[u8; 16], name: &str) -> Result<(), Error> {
    let home = format!("/local/domain/{domain}");
    remove_vm(store, &home);
    write_vm(store, handle, name)?;
    store.write(&format!("{home}/vm"), &vm_path(handle))?;
    store.write(&format!("{home}/name"), name)
}

fn remove_vm(store: &Store, home: &str) {
    if let Ok(vm) = store.read(&format!("{home}/vm")) {
        store.remove(&vm);
    }
}

/// Says that the first `count` of `max` vCPUs may be online. The domain's kernel, which watches that, brings them up or takes them down.
pub fn make_available(store: &Store, domain: Domid, count: u32, max: u32) -> Result<(), Error> {
    for vcpu in 0..max {
        let available = if vcpu < count { "online" } else { "offline" };
        store.write(
            &format!("/local/domain/{domain}/cpu/{vcpu}/availability"),
            available,
        )?;
    }
    Ok(())
}

/// Removes all nodes of a domain.
pub fn remove(store: &Store, domain: Domid) {
    let home = format!("/local/domain/{domain}");
    remove_vm(store, &home);
    store.remove(&home);
    store.remove(&format!("/libxl/{domain}"));
}
