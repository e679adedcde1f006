//! The server against examples of the protocol, a naive model, and serializability of transactions.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::wire::Header;
use super::*;

type Reply = Result<Vec<u8>, String>;

/// Sends one request and returns its reply; watch events that came before it are dropped.
fn ask_in(server: &mut Server, id: ConnectionId, tx: u32, kind: Kind, payload: &[u8]) -> Reply {
    let bytes = message(kind, 7, tx, payload);
    assert_eq!(server.receive(id, &bytes), Ok(bytes.len()));
    while let Some(reply) = server.take_output(id) {
        let header = Header::decode(reply.first_chunk().unwrap());
        let body = reply[HEADER_SIZE..].to_vec();
        match Kind::from_number(header.kind).unwrap() {
            Kind::WatchEvent => {}
            Kind::Error => {
                assert_eq!((header.request, header.transaction), (7, tx));
                return Err(String::from_utf8(body)
                    .unwrap()
                    .trim_end_matches('\0')
                    .to_string());
            }
            replied => {
                assert_eq!((replied, header.request, header.transaction), (kind, 7, tx));
                return Ok(body);
            }
        }
    }
    panic!("no reply")
}

fn ask(server: &mut Server, id: ConnectionId, kind: Kind, payload: &str) -> Reply {
    ask_in(server, id, 0, kind, payload.as_bytes())
}

fn events(server: &mut Server, id: ConnectionId) -> Vec<String> {
    let mut all = Vec::new();
    while let Some(reply) = server.take_output(id) {
        let kind = Header::decode(reply.first_chunk().unwrap()).kind;
        if kind == Kind::WatchEvent as u32 {
            all.push(String::from_utf8_lossy(&reply[HEADER_SIZE..]).replace('\0', "|"));
        }
    }
    all
}

fn ok(text: &str) -> Reply {
    Ok(text.as_bytes().to_vec())
}

fn err(name: &str) -> Reply {
    Err(name.to_string())
}

/// dom0's connection and one of domain 5, whose home exists as libxl makes it.
fn pair() -> (Server, ConnectionId, ConnectionId) {
    let mut server = Server::new();
    let zero = server.connect(0);
    let guest = server.connect(5);
    ask(&mut server, zero, Kind::Write, "/local/domain/5\0").unwrap();
    ask(&mut server, zero, Kind::SetPerms, "/local/domain/5\0n0\0r5\0").unwrap();
    ask(&mut server, zero, Kind::Mkdir, "/local/domain/5/data\0").unwrap();
    ask(&mut server, zero, Kind::SetPerms, "/local/domain/5/data\0n5\0").unwrap();
    (server, zero, guest)
}

#[test]
fn writes_and_reads() {
    let (mut s, zero, guest) = pair();
    assert_eq!(
        ask(&mut s, zero, Kind::Write, "/local/domain/5/name\0deb"),
        ok("OK\0")
    );
    assert_eq!(ask(&mut s, guest, Kind::Read, "name\0"), ok("deb"));
    assert_eq!(ask(&mut s, guest, Kind::Write, "name\0x"), err("EACCES"));
    assert_eq!(ask(&mut s, guest, Kind::Write, "data/a/b\0x"), ok("OK\0"));
    assert_eq!(
        ask(&mut s, zero, Kind::Directory, "/local/domain/5/data\0"),
        ok("a\0")
    );
    assert_eq!(
        ask(&mut s, zero, Kind::GetPerms, "/local/domain/5/data/a/b\0"),
        ok("n5\0")
    );
    assert_eq!(ask(&mut s, guest, Kind::Rm, "data/a\0"), ok("OK\0"));
    assert_eq!(
        ask(&mut s, guest, Kind::Rm, "data/a\0"),
        ok("OK\0"),
        "already gone"
    );
    assert_eq!(ask(&mut s, guest, Kind::Read, "data/a/b\0"), err("ENOENT"));
    assert_eq!(
        ask(&mut s, guest, Kind::GetDomainPath, "5\0"),
        ok("/local/domain/5\0")
    );
}

#[test]
fn hides_what_may_not_be_read() {
    let (mut s, zero, guest) = pair();
    ask(&mut s, zero, Kind::Write, "/secret/x\0v").unwrap();
    ask(&mut s, zero, Kind::SetPerms, "/secret\0n0\0").unwrap();
    ask(&mut s, zero, Kind::SetPerms, "/secret/x\0n0\0").unwrap();
    assert_eq!(ask(&mut s, guest, Kind::Read, "/secret/x\0"), err("EACCES"));
    assert_eq!(ask(&mut s, guest, Kind::Read, "/secret/y\0"), err("EACCES"));
    assert_eq!(
        ask(&mut s, guest, Kind::SetPerms, "/local/domain/5\0b5\0"),
        err("EACCES")
    );
    assert_eq!(ask(&mut s, guest, Kind::SetPerms, "data\0b6\0"), err("EPERM"));
    ask(&mut s, guest, Kind::Watch, "/secret\0t\0").unwrap();
    events(&mut s, guest);
    ask(&mut s, zero, Kind::Write, "/secret/x\0w").unwrap();
    assert_eq!(events(&mut s, guest), Vec::<String>::new());
}

#[test]
fn malformed_requests_are_refused() {
    let (mut s, zero, guest) = pair();
    for (kind, payload) in [
        (Kind::Read, ""),
        (Kind::Read, "no-nul"),
        (Kind::Read, "a\0b\0"),
        (Kind::Read, "a//b\0"),
        (Kind::Write, "no-nul"),
        (Kind::Watch, "a\0"),
        (Kind::TransactionEnd, "X\0"),
        (Kind::SetPerms, "data\0"),
        (Kind::SetPerms, "data\0q5\0"),
        (Kind::GetDomainPath, "x\0"),
        (Kind::Control, "bad\0"),
    ] {
        assert_eq!(
            ask(&mut s, zero, kind, payload),
            err("EINVAL"),
            "{kind:?} {payload:?}"
        );
    }
    assert_eq!(
        ask_in(&mut s, zero, 9, Kind::Read, b"/\0"),
        err("ENOENT"),
        "unknown transaction"
    );
    assert_eq!(
        ask(&mut s, guest, Kind::Introduce, "6\x001\x002\0"),
        err("EACCES")
    );
    assert_eq!(ask(&mut s, guest, Kind::WatchEvent, "a\0b\0"), err("ENOSYS"));
    let mut bytes = message(Kind::Read, 0, 0, &[]);
    bytes[12..16].copy_from_slice(&4097u32.to_le_bytes());
    assert_eq!(s.receive(guest, &bytes), Err(super::server::Broken));
}

#[test]
fn watches_fire() {
    let (mut s, zero, guest) = pair();
    assert_eq!(ask(&mut s, guest, Kind::Watch, "data\0tok\0"), ok("OK\0"));
    assert_eq!(events(&mut s, guest), ["data|tok|"]);
    assert_eq!(ask(&mut s, guest, Kind::Watch, "data\0tok\0"), err("EEXIST"));
    ask(&mut s, zero, Kind::Write, "/local/domain/5/data/x\0").unwrap();
    ask(&mut s, zero, Kind::Write, "/local/domain/5/data/x\0again").unwrap();
    assert_eq!(
        events(&mut s, guest),
        ["data/x|tok|"],
        "the same pending event is sent once"
    );
    ask(&mut s, guest, Kind::Watch, "/local/domain/5/data/x\0abs\0").unwrap();
    events(&mut s, guest);
    ask(&mut s, zero, Kind::Rm, "/local/domain/5/data\0").unwrap();
    assert_eq!(
        events(&mut s, guest),
        ["data|tok|", "/local/domain/5/data/x|abs|"]
    );
    assert_eq!(ask(&mut s, guest, Kind::Unwatch, "data\0tok\0"), ok("OK\0"));
    assert_eq!(ask(&mut s, guest, Kind::Unwatch, "data\0tok\0"), err("ENOENT"));
    assert_eq!(
        ask(&mut s, guest, Kind::Watch, "@releaseDomain\0t\0"),
        err("EACCES")
    );
    ask(&mut s, zero, Kind::Watch, "@releaseDomain\0r\0").unwrap();
    events(&mut s, zero);
    s.domain_changed();
    assert_eq!(events(&mut s, zero), ["@releaseDomain|r|"]);
}

#[test]
fn longest_event_fits() {
    let (mut s, zero, _) = pair();
    let token = "t".repeat(1022);
    assert_eq!(
        ask(&mut s, zero, Kind::Watch, &format!("/\0{token}t\0")),
        err("E2BIG")
    );
    assert_eq!(
        ask(&mut s, zero, Kind::Watch, &format!("/\0{token}\0")),
        ok("OK\0")
    );
    events(&mut s, zero);
    let path = format!("/{}", "p".repeat(3071));
    ask(&mut s, zero, Kind::Write, &format!("{path}\0v")).unwrap();
    assert_eq!(events(&mut s, zero), [format!("{path}|{token}|")]);
}

#[test]
fn introduces_and_releases() {
    let (mut s, zero, guest) = pair();
    assert_eq!(ask(&mut s, zero, Kind::Introduce, "6\x00100\x002\0"), ok("OK\0"));
    assert_eq!(
        ask(&mut s, zero, Kind::Introduce, "6\x00100\x002\0"),
        err("EEXIST")
    );
    assert_eq!(
        s.take_effects(),
        [Effect::Introduce {
            domain: 6,
            gfn: 100,
            port: 2
        }]
    );
    assert_eq!(ask(&mut s, zero, Kind::IsDomainIntroduced, "6\0"), ok("T\0"));
    ask(&mut s, guest, Kind::Write, "data/mine\0v").unwrap();
    assert_eq!(ask(&mut s, zero, Kind::Release, "5\0"), ok("OK\0"));
    assert_eq!(s.take_effects(), [Effect::Release { domain: 5 }]);
    assert_eq!(
        ask(&mut s, zero, Kind::Read, "/local/domain/5/data/mine\0"),
        err("ENOENT")
    );
    assert_eq!(ask(&mut s, zero, Kind::IsDomainIntroduced, "5\0"), ok("F\0"));
    assert_eq!(ask(&mut s, zero, Kind::Release, "5\0"), err("ENOENT"));
}

#[test]
fn quotas_hold() {
    let (mut s, _, guest) = pair();
    for index in 0..quota::TRANSACTIONS {
        assert_eq!(
            ask(&mut s, guest, Kind::TransactionStart, "\0"),
            ok(&format!("{}\0", index + 1))
        );
    }
    assert_eq!(ask(&mut s, guest, Kind::TransactionStart, "\0"), err("ENOSPC"));
    for index in 0..quota::WATCHES {
        ask(&mut s, guest, Kind::Watch, &format!("data\0{index}\0")).unwrap();
    }
    assert_eq!(ask(&mut s, guest, Kind::Watch, "data\0more\0"), err("E2BIG"));
    ask(&mut s, guest, Kind::ResetWatches, "\0").unwrap();
    let big = "v".repeat(quota::VALUE + 1);
    assert_eq!(
        ask(&mut s, guest, Kind::Write, &format!("data/big\0{big}")),
        err("ENOSPC")
    );
    // `data` itself is the first node.
    for index in 1..quota::NODES {
        ask(&mut s, guest, Kind::Mkdir, &format!("data/{index}\0")).unwrap();
    }
    assert_eq!(ask(&mut s, guest, Kind::Mkdir, "data/more\0"), err("ENOSPC"));
    assert_eq!(
        ask(&mut s, guest, Kind::Directory, "data\0").map(|names| names.len()),
        Ok(9 * 2 + 90 * 3 + 900 * 4)
    );
    ask(&mut s, guest, Kind::Rm, "data/1\0").unwrap();
    assert_eq!(ask(&mut s, guest, Kind::Mkdir, "data/more\0"), ok("OK\0"));
}

#[test]
fn long_directories_come_in_parts() {
    let (mut s, zero, _) = pair();
    for index in 0..1200 {
        ask(&mut s, zero, Kind::Mkdir, &format!("/d/node{index:04}\0")).unwrap();
    }
    assert_eq!(ask(&mut s, zero, Kind::Directory, "/d\0"), err("E2BIG"));
    let mut names = Vec::new();
    let mut offset = 0;
    loop {
        let part = ask(&mut s, zero, Kind::DirectoryPart, &format!("/d\0{offset}\0")).unwrap();
        let start = part.iter().position(|&byte| byte == 0).unwrap() + 1;
        let body = &part[start..];
        names.extend_from_slice(body);
        offset += body.len();
        if body.is_empty() || body.ends_with(b"\0\0") || body == b"\0" {
            break;
        }
    }
    assert_eq!(names.len(), 1200 * 9 + 1);
}

#[test]
fn a_client_that_does_not_read_waits() {
    let (mut s, _, guest) = pair();
    let request = message(Kind::Directory, 0, 0, b"data\0");
    let mut accepted = 0;
    for _ in 0..4 * quota::OUTPUT {
        match s.receive(guest, &request) {
            Ok(0) => break,
            Ok(taken) => accepted += taken,
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!(accepted < 2 * quota::OUTPUT, "{accepted}");
    events(&mut s, guest);
    assert_eq!(s.receive(guest, &request), Ok(request.len()));
}

/// An operation of dom0 on a small set of paths.
#[derive(Clone, Debug)]
enum Op {
    Write(usize, u8),
    Mkdir(usize),
    Rm(usize),
    Read(usize),
    Directory(usize),
}

const PATHS: [&str; 7] = ["/a", "/a/b", "/a/b/c", "/a/d", "/e", "/e/f", "/g"];

fn op() -> impl Strategy<Value = Op> {
    let path = 0..PATHS.len();
    prop_oneof![
        (path.clone(), any::<u8>()).prop_map(|(path, value)| Op::Write(path, value)),
        path.clone().prop_map(Op::Mkdir),
        path.clone().prop_map(Op::Rm),
        path.clone().prop_map(Op::Read),
        path.prop_map(Op::Directory),
    ]
}

fn perform(server: &mut Server, id: ConnectionId, tx: u32, op: &Op) -> Reply {
    let (kind, path, value) = match op {
        Op::Write(path, value) => (Kind::Write, path, vec![*value]),
        Op::Mkdir(path) => (Kind::Mkdir, path, vec![]),
        Op::Rm(path) => (Kind::Rm, path, vec![]),
        Op::Read(path) => (Kind::Read, path, vec![]),
        Op::Directory(path) => (Kind::Directory, path, vec![]),
    };
    let mut payload = format!("{}\0", PATHS[*path]).into_bytes();
    payload.extend(value);
    ask_in(server, id, tx, kind, &payload)
}

/// The model: a map of paths; a path's ancestors are always in it.
fn model(nodes: &mut BTreeMap<String, Vec<u8>>, op: &Op) -> Reply {
    let ancestors = |path: &str| {
        let cuts = path.match_indices('/').map(|(at, _)| at).filter(|&at| at > 0);
        cuts.map(|at| path[..at].to_string()).collect::<Vec<_>>()
    };
    match *op {
        Op::Write(path, value) => {
            for above in ancestors(PATHS[path]) {
                nodes.entry(above).or_default();
            }
            nodes.insert(PATHS[path].to_string(), vec![value]);
            ok("OK\0")
        }
        Op::Mkdir(path) => {
            for above in ancestors(PATHS[path]) {
                nodes.entry(above).or_default();
            }
            nodes.entry(PATHS[path].to_string()).or_default();
            ok("OK\0")
        }
        Op::Rm(path) => {
            let parent_there = ancestors(PATHS[path])
                .last()
                .is_none_or(|above| nodes.contains_key(above));
            nodes.retain(|node, _| node != PATHS[path] && !node.starts_with(&format!("{}/", PATHS[path])));
            if parent_there { ok("OK\0") } else { err("ENOENT") }
        }
        Op::Read(path) => nodes
            .get(PATHS[path])
            .cloned()
            .ok_or_else(|| "ENOENT".to_string()),
        Op::Directory(path) => {
            nodes.get(PATHS[path]).ok_or_else(|| "ENOENT".to_string())?;
            let below = format!("{}/", PATHS[path]);
            let names = nodes
                .keys()
                .filter_map(|node| node.strip_prefix(&below))
                .filter(|name| !name.contains('/'));
            Ok(names.flat_map(|name| format!("{name}\0").into_bytes()).collect())
        }
    }
}

fn dump(server: &mut Server, id: ConnectionId) -> Vec<Reply> {
    (0..PATHS.len())
        .flat_map(|path| [Op::Read(path), Op::Directory(path)])
        .map(|op| perform(server, id, 0, &op))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn agrees_with_the_model(ops in prop::collection::vec(op(), 1..40)) {
        let mut server = Server::new();
        let id = server.connect(0);
        let mut nodes = BTreeMap::new();
        for op in &ops {
            prop_assert_eq!(perform(&mut server, id, 0, op), model(&mut nodes, op), "{:?}", op);
        }
    }

    /// A committed transaction is as if all of it had run at the moment of its commit; an aborted one as if never.
    #[test]
    fn transactions_are_serializable(
        before in prop::collection::vec(op(), 0..10),
        steps in prop::collection::vec((any::<bool>(), op()), 1..20),
        commit: bool,
    ) {
        let (mut server, mut serial) = (Server::new(), Server::new());
        let (id, serial_id) = (server.connect(0), serial.connect(0));
        for op in &before {
            perform(&mut server, id, 0, op).ok();
            perform(&mut serial, serial_id, 0, op).ok();
        }
        ask(&mut server, id, Kind::TransactionStart, "\0").unwrap();
        let mut inside = Vec::new();
        for (in_transaction, op) in &steps {
            if *in_transaction {
                inside.push((op, perform(&mut server, id, 1, op)));
            } else {
                let reply = perform(&mut server, id, 0, op);
                prop_assert_eq!(reply, perform(&mut serial, serial_id, 0, op));
            }
        }
        let end = ask_in(&mut server, id, 1, Kind::TransactionEnd, if commit { b"T\0" } else { b"F\0" });
        if commit && end.is_ok() {
            for (op, reply) in inside {
                prop_assert_eq!(reply, perform(&mut serial, serial_id, 0, op));
            }
        } else if commit {
            prop_assert_eq!(end, err("EAGAIN"));
        }
        prop_assert_eq!(dump(&mut server, id), dump(&mut serial, serial_id));
    }

    #[test]
    fn any_bytes_in_any_pieces(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 1usize..64) {
        let (mut server, _, guest) = pair();
        for piece in bytes.chunks(cut) {
            if server.receive(guest, piece).is_err() {
                break;
            }
        }
    }

    #[test]
    fn framing_is_independent_of_pieces(cut in 1usize..40, paths in prop::collection::vec("[a-z]{1,5}", 1..6)) {
        let (mut whole, _, one) = pair();
        let (mut pieces, _, other) = pair();
        let bytes: Vec<u8> = paths
            .iter()
            .flat_map(|path| message(Kind::Write, 1, 0, format!("data/{path}\0{path}").as_bytes()))
            .collect();
        prop_assert_eq!(whole.receive(one, &bytes), Ok(bytes.len()));
        for piece in bytes.chunks(cut) {
            prop_assert_eq!(pieces.receive(other, piece), Ok(piece.len()));
        }
        loop {
            let (a, b) = (whole.take_output(one), pieces.take_output(other));
            prop_assert_eq!(&a, &b);
            if a.is_none() {
                break;
            }
        }
    }
}
