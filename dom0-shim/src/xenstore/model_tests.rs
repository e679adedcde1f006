//! The server against naive models: nodes, permissions and watches; transactions that might as well have run one after
//! the other; framing.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::tests::{Reply, ask, ask_in, err, events, ok, pair};
use super::*;

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
            if server.receive(guest, piece, usize::MAX).is_err() {
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
        prop_assert_eq!(whole.receive(one, &bytes, usize::MAX), Ok(bytes.len()));
        for piece in bytes.chunks(cut) {
            prop_assert_eq!(pieces.receive(other, piece, usize::MAX), Ok(piece.len()));
        }
        loop {
            let (a, b) = (whole.take_output(one), pieces.take_output(other));
            prop_assert_eq!(&a, &b);
            if a.is_none() {
                break;
            }
        }
    }

    /// Whole requests with anything in them.
    #[test]
    fn any_requests(requests in prop::collection::vec((0u32..26, 0u32..3, payload()), 1..60)) {
        let (mut server, zero, guest) = pair();
        for (kind, transaction, payload) in requests {
            let mut bytes = message(Kind::Read, 1, transaction, &payload);
            bytes[..4].copy_from_slice(&kind.to_le_bytes());
            prop_assert_eq!(server.receive(guest, &bytes, 1), Ok(bytes.len()));
            let mut replies = 0;
            while let Some(reply) = server.take_output(guest) {
                let header = Header::decode(reply.first_chunk().unwrap());
                prop_assert_eq!(reply.len(), HEADER_SIZE + header.length as usize);
                replies += u32::from(header.kind != Kind::WatchEvent as u32);
            }
            prop_assert_eq!(replies, 1);
        }
        prop_assert_eq!(ask(&mut server, zero, Kind::Control, "check\0"), ok("OK\0"));
    }
}

/// Payloads that are nearly right.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        Just("data".to_string()),
        Just("/local/domain/5/data/a/b".to_string()),
        Just("@releaseDomain".to_string()),
        Just("T".to_string()),
        Just(String::new()),
        "[nrwb][0-9]{1,5}",
        "[a-z/@]{0,6}",
        "[0-9]{1,10}",
        prop::collection::vec(any::<u8>(), 0..40)
            .prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
    ];
    let parts = prop::collection::vec(part, 0..5).prop_map(|parts| parts.join("\0").into_bytes());
    (parts, any::<bool>()).prop_map(|(mut bytes, end)| {
        if end {
            bytes.push(0);
        }
        bytes
    })
}

/// Who acts in the model of permissions.
const ACTORS: [DomId; 3] = [0, 5, 6];

/// A node of that model: value; for each entry of the access list its letter and domain.
type Rights = Vec<(char, DomId)>;
type Nodes = BTreeMap<String, (Vec<u8>, Rights)>;

#[derive(Clone, Debug)]
enum Act {
    Plain(Op),
    GetPerms(usize),
    SetPerms(usize, Rights),
}

fn act() -> impl Strategy<Value = (usize, Act)> {
    let path = 0..PATHS.len();
    let entry = (
        prop::sample::select(vec!['n', 'r', 'w', 'b']),
        prop::sample::select(ACTORS.to_vec()),
    );
    let act = prop_oneof![
        3 => op().prop_map(Act::Plain),
        1 => path.clone().prop_map(Act::GetPerms),
        2 => (path, prop::collection::vec(entry, 1..4)).prop_map(|(path, list)| Act::SetPerms(path, list)),
    ];
    (0..ACTORS.len(), act)
}

fn may(rights: &Rights, who: DomId, wanted: char) -> bool {
    let entry = rights[1..]
        .iter()
        .find(|entry| entry.1 == who)
        .unwrap_or(&rights[0]);
    who == 0 || rights[0].1 == who || (wanted != 'o' && (entry.0 == wanted || entry.0 == 'b'))
}

fn above(path: &str) -> Option<String> {
    let (above, _) = path.rsplit_once('/').filter(|_| path != "/")?;
    Some(if above.is_empty() { "/" } else { above }.to_string())
}

/// The nearest node above that is there.
fn nearest(nodes: &Nodes, path: &str) -> String {
    let parent = above(path).unwrap();
    if nodes.contains_key(&parent) {
        parent
    } else {
        nearest(nodes, &parent)
    }
}

fn permitted(nodes: &Nodes, path: &str, who: DomId, wanted: char) -> Result<(), String> {
    let (rights, error, wanted) = match nodes.get(path) {
        Some((_, rights)) => (rights, Ok(()), wanted),
        None if wanted == 'o' => (&nodes[&nearest(nodes, path)].1, Err("ENOENT"), 'w'),
        None => (&nodes[&nearest(nodes, path)].1, Err("ENOENT"), wanted),
    };
    if may(rights, who, wanted) {
        error.map_err(str::to_string)
    } else {
        Err("EACCES".to_string())
    }
}

fn create(nodes: &mut Nodes, path: &str, who: DomId) {
    let mut rights = nodes[&nearest(nodes, path)].1.clone();
    if who != 0 {
        rights[0].1 = who;
    }
    let mut at = Some(path.to_string());
    while let Some(path) = at.take_if(|at| !nodes.contains_key(at.as_str())) {
        nodes.insert(path.clone(), (Vec::new(), rights.clone()));
        at = above(&path);
    }
}

/// Carries out `act`: the reply, and what changed (the path; whether watches above are told).
fn act_on(nodes: &mut Nodes, who: DomId, act: &Act) -> (Reply, Vec<(String, bool)>) {
    let done = |path: &str| (ok("OK\0"), vec![(path.to_string(), true)]);
    let silent = |reply| (reply, Vec::new());
    let (path, wanted) = match act {
        Act::Plain(Op::Read(path) | Op::Directory(path)) | Act::GetPerms(path) => (PATHS[*path], 'r'),
        Act::Plain(Op::Write(path, _) | Op::Mkdir(path) | Op::Rm(path)) => (PATHS[*path], 'w'),
        Act::SetPerms(path, _) => (PATHS[*path], 'o'),
    };
    let permitted = permitted(nodes, path, who, wanted);
    let is_there = match permitted {
        Ok(()) => true,
        Err(error) if error == "ENOENT" && wanted == 'w' => false,
        Err(error) => return silent(Err(error)),
    };
    match act {
        Act::Plain(Op::Rm(_)) if !is_there => silent(if nodes.contains_key(&above(path).unwrap()) {
            ok("OK\0")
        } else {
            err("ENOENT")
        }),
        Act::Plain(Op::Rm(_)) => {
            let below = format!("{path}/");
            let gone: Vec<String> = nodes
                .keys()
                .filter(|node| *node == path || node.starts_with(&below))
                .cloned()
                .collect();
            nodes.retain(|node, _| !gone.contains(node));
            (
                ok("OK\0"),
                gone.into_iter()
                    .map(|node| (node.clone(), node == path))
                    .collect(),
            )
        }
        Act::Plain(Op::Mkdir(_)) if is_there => silent(ok("OK\0")),
        Act::Plain(Op::Mkdir(_)) => {
            create(nodes, path, who);
            done(path)
        }
        Act::Plain(Op::Write(_, value)) => {
            if !is_there {
                create(nodes, path, who);
            }
            nodes.get_mut(path).unwrap().0 = vec![*value];
            done(path)
        }
        Act::SetPerms(_, list) if who != 0 && nodes[path].1[0].1 != list[0].1 => silent(err("EPERM")),
        Act::SetPerms(_, list) => {
            nodes.get_mut(path).unwrap().1 = list.clone();
            done(path)
        }
        Act::GetPerms(_) => silent(Ok(wire_form(&nodes[path].1))),
        Act::Plain(Op::Read(_)) => silent(Ok(nodes[path].0.clone())),
        Act::Plain(Op::Directory(_)) => {
            let names = nodes.keys().filter(|node| above(node).as_deref() == Some(path));
            silent(Ok(names
                .flat_map(|node| format!("{}\0", node.rsplit('/').next().unwrap()).into_bytes())
                .collect()))
        }
    }
}

fn wire_form(rights: &Rights) -> Vec<u8> {
    let entry = |(letter, domain): &(char, DomId)| format!("{letter}{domain}\0").into_bytes();
    rights.iter().flat_map(entry).collect()
}

/// The events that a watcher of all paths is sent: with each path that changed, the token of the watch.
fn expected_events(before: &Nodes, after: &Nodes, who: DomId, changes: &[(String, bool)]) -> Vec<String> {
    let visible = |path: &String| {
        let readable =
            |nodes: &Nodes, at: &str| nodes.get(at).is_some_and(|(_, rights)| may(rights, who, 'r'));
        let parent = above(path).unwrap();
        [before, after].iter().any(|nodes| {
            // What is not there shows nothing of what is above.
            nodes.contains_key(path) && (readable(nodes, path) || readable(nodes, &parent))
        })
    };
    let mut all = Vec::new();
    for (path, tell_above) in changes.iter().filter(|(path, _)| visible(path)) {
        let concerned =
            |watched: &&&str| path == **watched || *tell_above && path.starts_with(&format!("{watched}/"));
        all.extend(
            PATHS
                .iter()
                .filter(concerned)
                .map(|watched| format!("{path}|{watched}|")),
        );
    }
    all.sort();
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Nodes, permissions and events for dom0 and two domains, each of which watches every path.
    #[test]
    fn agrees_with_the_model_of_permissions(acts in prop::collection::vec(act(), 1..60)) {
        let mut server = Server::new();
        let ids = ACTORS.map(|domain| server.connect(domain));
        let mut nodes = Nodes::from([("/".to_string(), (Vec::new(), vec![('r', 0)]))]);
        for id in ids {
            for path in PATHS {
                ask(&mut server, id, Kind::Watch, &format!("{path}\0{path}\0")).unwrap();
            }
            events(&mut server, id);
        }
        for (actor, act) in &acts {
            let before = nodes.clone();
            let (reply, changes) = act_on(&mut nodes, ACTORS[*actor], act);
            let (kind, payload) = match act {
                Act::Plain(Op::Write(path, value)) => (Kind::Write, [PATHS[*path].as_bytes(), &[0, *value]].concat()),
                Act::Plain(Op::Mkdir(path)) => (Kind::Mkdir, format!("{}\0", PATHS[*path]).into_bytes()),
                Act::Plain(Op::Rm(path)) => (Kind::Rm, format!("{}\0", PATHS[*path]).into_bytes()),
                Act::Plain(Op::Read(path)) => (Kind::Read, format!("{}\0", PATHS[*path]).into_bytes()),
                Act::Plain(Op::Directory(path)) => (Kind::Directory, format!("{}\0", PATHS[*path]).into_bytes()),
                Act::GetPerms(path) => (Kind::GetPerms, format!("{}\0", PATHS[*path]).into_bytes()),
                Act::SetPerms(path, list) => {
                    (Kind::SetPerms, [format!("{}\0", PATHS[*path]).into_bytes(), wire_form(list)].concat())
                }
            };
            prop_assert_eq!(ask_in(&mut server, ids[*actor], 0, kind, &payload), reply, "{:?}", act);
            for (id, domain) in ids.into_iter().zip(ACTORS) {
                let mut told = events(&mut server, id);
                told.sort();
                prop_assert_eq!(told, expected_events(&before, &nodes, domain, &changes), "{:?} to {}", act, domain);
            }
        }
        prop_assert_eq!(ask(&mut server, ids[0], Kind::Control, "check\0"), ok("OK\0"));
    }
}
