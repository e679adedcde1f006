//! The domains' consoles: the first, whose page and port come with the domain, and channels, which are devices. What
//! they write is logged, and one may be attached to the serial line.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::mem::offset_of;

use abi::io::console::{XENCONS_IN_SIZE, XENCONS_OUT_SIZE, XenconsInterface as Page};
use abi::{Domid, Errno};
use dom0_shim::backend::Events;
use dom0_shim::backend::bytes::ByteRing;
use dom0_shim::console_log::{Key, Logs};
use dom0_shim::executor::{Either, Signal, either};
use dom0_shim::xlcfg::channel::Channel as ChannelConfig;
use guest_rt::hypercall::event_channel;
use guest_rt::hypercall::grant::Status;
use guest_rt::println;

use super::Host;
use super::backend::{Channel, Driver, Front, Id, Links, Nodes, SharedPages, Stop, add};
use super::shell::find;

const OUTPUT: ByteRing = ByteRing {
    buffer: offset_of!(Page, out),
    size: XENCONS_OUT_SIZE,
    consumer: offset_of!(Page, out_cons),
    producer: offset_of!(Page, out_prod),
};
const INPUT: ByteRing = ByteRing {
    buffer: offset_of!(Page, in_),
    size: XENCONS_IN_SIZE,
    consumer: offset_of!(Page, in_cons),
    producer: offset_of!(Page, in_prod),
};

/// The class of devices.
const CLASS: &str = "console";
/// Bytes of input kept while the domain does not read.
const TYPE_AHEAD: usize = 4096;
/// Bytes of output shown at a time: the serial line may take 11 ms for so many, and nothing else is done meanwhile.
const SHOWN: usize = 128;
/// Ctrl-]
const DETACH: u8 = 0x1d;
/// Bytes that libxl lets xenconsoled keep of a console.
pub const LIMIT: &str = "1048576";

/// All consoles.
#[derive(Default)]
pub struct Consoles {
    consoles: RefCell<BTreeMap<Place, Console>>,
    logs: RefCell<Logs>,
    attached: Cell<Option<Place>>,
    detached: Signal,
}

/// A domain, and the number of a console of its; its first is 0.
type Place = (Domid, u32);

struct Console {
    /// While a front end is connected.
    ring: Option<Ring>,
    log: Key,
    input: VecDeque<u8>,
    /// Serves the first console; that of a channel is with its device.
    links: Links,
}

struct Ring {
    page: SharedPages,
    port: u32,
}

/// Makes a console, without a ring yet.
fn make(host: &Host, place: Place, name: &str) {
    let log = Key {
        name: name.to_string(),
        console: place.1,
    };
    host.consoles.logs.borrow_mut().begin(&log, place.0);
    let console = Console {
        ring: None,
        log,
        input: VecDeque::new(),
        links: Links::default(),
    };
    host.consoles.consoles.borrow_mut().insert(place, console);
}

/// Serves the ring in a page until the task is told to end.
fn connect(host: &Rc<Host>, place: Place, page: SharedPages, channel: Channel) -> Links {
    if let Some(console) = host.consoles.consoles.borrow_mut().get_mut(&place) {
        let port = channel.port();
        console.ring = Some(Ring { page, port });
    }
    let mut links = Links::default();
    links.spawn(host, channel, |channel| serve(host.clone(), place, channel));
    links
}

/// Task: moves bytes between one ring and its console.
async fn serve(host: Rc<Host>, place: Place, channel: Channel) {
    loop {
        let attached = host.consoles.attached.get() == Some(place);
        let left = drain_one(&host, place, if attached { SHOWN } else { usize::MAX });
        send_input(&host, place);
        let waited = match left {
            0 => channel.event().await,
            _ => channel.turn().await,
        };
        if waited.is_err() {
            break;
        }
    }
    drain_one(&host, place, usize::MAX);
    if let Some(console) = host.consoles.consoles.borrow_mut().get_mut(&place) {
        console.ring = None;
    }
}

/// Starts to serve the first console of the domain `name`, whose ring is in frame `gfn`.
pub fn open(host: &Rc<Host>, domain: Domid, name: &str, gfn: u64, remote_port: u32) -> Result<(), Errno> {
    let page = SharedPages::frame(domain, gfn)?;
    let channel = Channel::bind(host, domain, remote_port)?;
    make(host, (domain, 0), name);
    let links = connect(host, (domain, 0), page, channel);
    if let Some(console) = host.consoles.consoles.borrow_mut().get_mut(&(domain, 0)) {
        console.links = links;
    }
    Ok(())
}

/// Gives the domain `name` its channels, numbered from 1.
pub fn attach_channels(
    host: &Rc<Host>,
    domain: Domid,
    name: &str,
    channels: &[ChannelConfig],
) -> Result<(), String> {
    for (channel, number) in channels.iter().zip(1..) {
        make(host, (domain, number), name);
        let id = id(domain, number);
        let read_only = Nodes::from([
            ("name", channel.name.clone()),
            ("limit", LIMIT.to_string()),
            ("type", "ioemu".to_string()),
            ("output", format!("chardev:libxl-channel{number}")),
            ("tty", String::new()),
        ]);
        let back = Nodes::from([
            ("protocol", "vt100".to_string()),
            ("name", channel.name.clone()),
            ("connection", "pty".to_string()),
        ]);
        let mut front = Nodes::from([("protocol", "vt100".to_string())]);
        front.extend(read_only.iter().cloned());
        add(host, id, ChannelDriver, &front, &back)?;
        let permissions = ["n0", &format!("r{domain}")];
        for (node, _) in &read_only {
            let path = format!("{}/{node}", id.front());
            host.store
                .set_permissions(&path, &permissions)
                .map_err(|error| format!("{path}: {}", error.name()))?;
        }
    }
    Ok(())
}

fn id(domain: Domid, number: u32) -> Id {
    Id {
        domain,
        class: CLASS,
        number,
    }
}

/// The back end of channels, as Linux's hvc_xen connects to it.
struct ChannelDriver;

impl Driver for ChannelDriver {
    fn features(&self) -> Nodes {
        Nodes::new()
    }

    fn connect(&self, host: &Rc<Host>, front: &Front<'_>) -> Result<Links, String> {
        let page = SharedPages::map(front.domain, &[front.number("ring-ref")?])
            .map_err(|status: Status| format!("ring-ref: {status}"))?;
        let channel = Channel::bind(host, front.domain, front.number("port")?)
            .map_err(|error| format!("port: {error}"))?;
        Ok(connect(host, (front.domain, front.device), page, channel))
    }

    fn details(&self) -> Nodes {
        Nodes::new()
    }
}

/// Stops serving a domain's consoles; what it wrote last is shown if one is attached.
pub async fn close(host: &Host, domain: Domid) {
    drain(host, domain);
    for place in places(host, domain) {
        let console = host.consoles.consoles.borrow_mut().remove(&place);
        if let Some(console) = console {
            console.links.stop(Stop::Now).await;
            host.consoles.logs.borrow_mut().end(&console.log);
        }
    }
    if host
        .consoles
        .attached
        .get()
        .is_some_and(|place| place.0 == domain)
    {
        host.consoles.attached.set(None);
        host.consoles.detached.notify();
    }
}

/// A domain that goes on has another name, and its consoles' logs with it.
pub fn rename(host: &Host, domain: Domid, name: &str) {
    let mut consoles = host.consoles.consoles.borrow_mut();
    for (_, console) in consoles.range_mut((domain, 0)..=(domain, u32::MAX)) {
        let renamed = Key {
            name: name.to_string(),
            console: console.log.console,
        };
        host.consoles.logs.borrow_mut().rename(&console.log, &renamed);
        console.log = renamed;
    }
}

fn places(host: &Host, domain: Domid) -> Vec<Place> {
    let consoles = host.consoles.consoles.borrow();
    consoles
        .range((domain, 0)..=(domain, u32::MAX))
        .map(|(&place, _)| place)
        .collect()
}

/// Takes what a domain has written.
pub fn drain(host: &Host, domain: Domid) {
    for place in places(host, domain) {
        drain_one(host, place, usize::MAX);
    }
}

/// Takes up to `most` bytes that were written to one console. Returns how many are left.
fn drain_one(host: &Host, place: Place, most: usize) -> usize {
    let consoles = host.consoles.consoles.borrow();
    let Some((ring, log)) = consoles
        .get(&place)
        .and_then(|console| Some((console.ring.as_ref()?, &console.log)))
    else {
        return 0;
    };
    // A domain with broken indices has no console until it mends them. What it writes from now on, it announces.
    let Ok(unread) = OUTPUT.peek(&ring.page) else {
        return 0;
    };
    let (taken, left) = unread.bytes.split_at(unread.bytes.len().min(most));
    if !taken.is_empty() {
        OUTPUT.consume(&ring.page, &unread, taken.len());
        let _ = event_channel::send(ring.port);
        host.consoles.logs.borrow_mut().append(log, taken);
        if host.consoles.attached.get() == Some(place) {
            host.terminal.write(taken);
        }
    }
    left.len()
}

/// Gives a domain what was typed, as far as its ring has room.
fn send_input(host: &Host, place: Place) {
    let mut consoles = host.consoles.consoles.borrow_mut();
    let Some(console) = consoles.get_mut(&place) else {
        return;
    };
    let Some(ring) = &console.ring else { return };
    if console.input.is_empty() {
        return;
    }
    let bytes: Vec<u8> = console.input.iter().copied().collect();
    if let Ok(count @ 1..) = INPUT.write(&ring.page, &bytes) {
        console.input.drain(..count);
        let _ = event_channel::send(ring.port);
    }
}

/// Connects the serial line with a console of a domain until Ctrl-] is typed or the domain is gone. Returns false if
/// there is no such console.
pub async fn attach(host: &Rc<Host>, domain: Domid, number: u32) -> bool {
    let place = (domain, number);
    let Some(scroll_back) = host
        .consoles
        .consoles
        .borrow()
        .get(&place)
        .map(|console| host.consoles.logs.borrow().current(&console.log))
    else {
        return false;
    };
    host.terminal.write(&scroll_back);
    host.consoles.attached.set(Some(place));
    while host.consoles.attached.get() == Some(place) {
        match either(host.terminal.byte(), host.consoles.detached.wait()).await {
            Either::First(DETACH) => host.consoles.attached.set(None),
            Either::First(byte) => {
                if let Some(console) = host.consoles.consoles.borrow_mut().get_mut(&place)
                    && console.input.len() < TYPE_AHEAD
                {
                    console.input.push_back(byte);
                }
                send_input(host, place);
            }
            Either::Second(()) => {}
        }
    }
    host.terminal.write(b"\r\n");
    true
}

/// The domain and the number of the console that a command's words name; `None` if they are not what it takes.
fn parse<'a>(words: &[&'a str]) -> Result<Option<(&'a str, u32)>, String> {
    let (mut which, mut number) = (None, 0);
    let mut words = words.iter().copied();
    while let Some(word) = words.next() {
        match word {
            "-n" => {
                let value = words.next().unwrap_or_default();
                number = value
                    .parse()
                    .map_err(|_| format!("-n {value}: a console's number is wanted"))?;
            }
            "-t" => match words.next().unwrap_or_default() {
                "pv" => {}
                kind @ ("serial" | "vuart") => {
                    return Err(format!("-t {kind}: a PVH guest has PV consoles only"));
                }
                kind => return Err(format!("-t {kind}: pv is wanted")),
            },
            word if which.is_none() && !word.starts_with('-') => which = Some(word),
            _ => return Ok(None),
        }
    }
    Ok(which.map(|which| (which, number)))
}

/// `console`; `None` if the words are not what it takes.
pub async fn console(host: &Rc<Host>, words: &[&str]) -> Option<Result<(), String>> {
    let (which, number) = match parse(words) {
        Ok(parsed) => parsed?,
        Err(error) => return Some(Err(error)),
    };
    let domain = match find(host, which) {
        Ok(domain) => domain,
        Err(error) => return Some(Err(error)),
    };
    Some(match attach(host, domain, number).await {
        true => Ok(()),
        false => Err(format!("{which} has no console {number}")),
    })
}

/// `console-log`, of a domain that is there or was; `None` if the words are not what it takes.
pub fn log(host: &Host, words: &[&str]) -> Option<Result<(), String>> {
    let (which, console) = match parse(words) {
        Ok(parsed) => parsed?,
        Err(error) => return Some(Err(error)),
    };
    let running = host
        .domains
        .find(which)
        .and_then(|domain| host.domains.name(domain));
    let key = Key {
        name: running.unwrap_or_else(|| which.to_string()),
        console,
    };
    let text = host.consoles.logs.borrow().all(&key);
    Some(match text {
        Some(text) => {
            host.terminal.write(&text);
            println!();
            Ok(())
        }
        None => Err(format!("there is no log of console {console} of {which}")),
    })
}

/// `channel-list`.
pub fn list_channels(host: &Host, domains: &[Domid]) -> Result<(), String> {
    println!(
        "{:<3} {:<2} {:<5} {:<6} {:>8} {:<10} {:<30}",
        "Idx", "BE", "state", "evt-ch", "ring-ref", "connection", "name"
    );
    for id in domains.iter().flat_map(|&domain| host.devices.of(domain)) {
        if id.class != CLASS {
            continue;
        }
        let front = Front::new(&host.store, id);
        let node = |name: &str| front.optional(name).ok().flatten().map_or(-1, i64::from);
        // The name is the domain's to read only.
        println!(
            "{:<3} {:<2} {:<5} {:<6} {:>8} {:<10} {:<30}",
            id.number,
            0,
            node("state"),
            node("port"),
            node("ring-ref"),
            "pty",
            front.text("name").unwrap_or_default()
        );
    }
    Ok(())
}
