//! The server against examples of the protocol.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::*;

pub type Reply = Result<Vec<u8>, String>;

/// Sends one request and returns its reply; watch events that came before it are dropped.
pub fn ask_in(server: &mut Server, id: ConnectionId, tx: u32, kind: Kind, payload: &[u8]) -> Reply {
    let bytes = message(kind, 7, tx, payload);
    assert_eq!(server.receive(id, &bytes, 1), Ok(bytes.len()));
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

pub fn ask(server: &mut Server, id: ConnectionId, kind: Kind, payload: &str) -> Reply {
    ask_in(server, id, 0, kind, payload.as_bytes())
}

/// Starts a transaction; its number.
fn start(server: &mut Server, id: ConnectionId) -> u32 {
    let number = ask(server, id, Kind::TransactionStart, "\0").unwrap();
    let number = String::from_utf8(number).unwrap();
    number.trim_end_matches('\0').parse().unwrap()
}

pub fn events(server: &mut Server, id: ConnectionId) -> Vec<String> {
    let mut all = Vec::new();
    while let Some(reply) = server.take_output(id) {
        let kind = Header::decode(reply.first_chunk().unwrap()).kind;
        if kind == Kind::WatchEvent as u32 {
            all.push(String::from_utf8_lossy(&reply[HEADER_SIZE..]).replace('\0', "|"));
        }
    }
    all
}

pub fn ok(text: &str) -> Reply {
    Ok(text.as_bytes().to_vec())
}

pub fn err(name: &str) -> Reply {
    Err(name.to_string())
}

/// dom0's connection and one of domain 5, whose home exists as libxl makes it.
pub fn pair() -> (Server, ConnectionId, ConnectionId) {
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
    assert_eq!(s.receive(guest, &bytes, 1), Err(Broken));
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
}

#[test]
fn special_watches() {
    let (mut s, zero, guest) = pair();
    for (token, path) in [
        ("a", "@releaseDomain"),
        ("b", "@releaseDomain/5"),
        ("c", "@releaseDomain/6"),
    ] {
        ask(&mut s, zero, Kind::Watch, &format!("{path}\0{token}\0")).unwrap();
    }
    ask(&mut s, zero, Kind::Watch, "@releaseDomain\0depth\x001\0").unwrap();
    assert_eq!(ask(&mut s, guest, Kind::Watch, "@releaseDomain\0t\0"), ok("OK\0"));
    assert_eq!(
        events(&mut s, guest),
        ["@releaseDomain|t|"],
        "every watch fires once"
    );
    events(&mut s, zero);
    s.shut_down(5);
    s.shut_down(5);
    let told = [
        "@releaseDomain|a|",
        "@releaseDomain/5|b|",
        "@releaseDomain/5|depth|",
    ];
    assert_eq!(events(&mut s, zero), told);
    assert_eq!(events(&mut s, guest), Vec::<String>::new(), "it may not know");
    s.shut_down(5);
    assert_eq!(events(&mut s, zero), Vec::<String>::new(), "it was told before");
    ask(&mut s, zero, Kind::Resume, "5\0").unwrap();
    assert_eq!(
        ask(&mut s, guest, Kind::SetPerms, "@releaseDomain\0n5\0"),
        err("EACCES")
    );
    assert_eq!(ask(&mut s, zero, Kind::SetPerms, "@other\0n0\0"), err("EINVAL"));
    ask(&mut s, zero, Kind::SetPerms, "@releaseDomain\0n0\0r5\0").unwrap();
    assert_eq!(
        ask(&mut s, guest, Kind::GetPerms, "@releaseDomain\0"),
        ok("n0\0r5\0")
    );
    s.shut_down(5);
    assert_eq!(events(&mut s, guest), ["@releaseDomain|t|"]);
    ask(&mut s, zero, Kind::Watch, "@introduceDomain\0i\0").unwrap();
    events(&mut s, zero);
    ask(&mut s, zero, Kind::Introduce, "6\x001\x002\0").unwrap();
    assert_eq!(events(&mut s, zero), ["@introduceDomain|i|"]);
}

#[test]
fn watches_have_a_depth() {
    let (mut s, zero, _) = pair();
    for depth in 0..3 {
        ask(&mut s, zero, Kind::Watch, &format!("/a\0{depth}\0{depth}\0")).unwrap();
    }
    assert_eq!(ask(&mut s, zero, Kind::Watch, "/a\0t\0-1\0"), err("EINVAL"));
    events(&mut s, zero);
    let mut told = |path: &str| {
        ask_silently(&mut s, zero, Kind::Write, &format!("{path}\0"));
        events(&mut s, zero).len()
    };
    assert_eq!(
        [told("/a/b/c/d"), told("/a/b/c"), told("/a/b"), told("/a")],
        [0, 1, 2, 3]
    );
}

/// As [`ask`], but the events that come before the reply are kept: it is sent when nothing else waits.
fn ask_silently(server: &mut Server, id: ConnectionId, kind: Kind, payload: &str) {
    server
        .receive(id, &message(kind, 0, 0, payload.as_bytes()), 1)
        .unwrap();
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
    let path = format!("/local/domain/5/{}", "p".repeat(2048));
    ask(&mut s, zero, Kind::Write, &format!("{path}\0v")).unwrap();
    assert_eq!(events(&mut s, zero), [format!("{path}|{token}|")]);
}

#[test]
fn introduces_and_releases() {
    let (mut s, zero, guest) = pair();
    assert_eq!(ask(&mut s, zero, Kind::Introduce, "6\x00100\x002\0"), ok("OK\0"));
    assert_eq!(
        ask(&mut s, zero, Kind::Introduce, "6\x00100\x003\0"),
        ok("OK\0"),
        "again, over another port"
    );
    let introduced = |port| Effect::Introduce {
        domain: 6,
        gfn: 100,
        port,
    };
    assert_eq!(s.take_effects(), [introduced(2), introduced(3)]);
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
    // Header, one permission.
    let room = quota::NODE - 20 - 8 - 1;
    let mut write = |size: usize| {
        ask(
            &mut s,
            guest,
            Kind::Write,
            &format!("data/a\0{}", "v".repeat(size)),
        )
    };
    assert_eq!(write(room + 1), err("ENOSPC"));
    assert_eq!(write(room), ok("OK\0"));
    ask(&mut s, guest, Kind::Write, "data/a\0").unwrap();
    // `data` itself and `data/a` are the first nodes.
    let mut nodes = 2;
    for index in 0.. {
        let (above, name) = (index / 50, index % 50);
        let path = match name {
            0 => format!("data/{above}\0"),
            name => format!("data/{above}/{name}\0"),
        };
        if let Err(error) = ask(&mut s, guest, Kind::Mkdir, &path) {
            assert_eq!(error, "ENOSPC");
            break;
        }
        nodes += 1;
    }
    assert_eq!(nodes, quota::NODES);
    ask(&mut s, guest, Kind::Rm, "data/1/1\0").unwrap();
    assert_eq!(ask(&mut s, guest, Kind::Mkdir, "data/more\0"), ok("OK\0"));
    assert_eq!(ask(&mut s, guest, Kind::Mkdir, "data/even-more\0"), err("ENOSPC"));
    let list = "n5\0r1\0r2\0r3\0r4\0";
    assert_eq!(
        ask(&mut s, guest, Kind::SetPerms, &format!("data/a\0{list}")),
        ok("OK\0")
    );
    assert_eq!(
        ask(&mut s, guest, Kind::SetPerms, &format!("data/a\0{list}r6\0")),
        err("ENOSPC")
    );
}

/// Names of children count as the parent's size.
#[test]
fn a_directory_is_limited() {
    let (mut s, _, guest) = pair();
    let name = "n".repeat(500);
    let replies: Vec<Reply> = (0..5)
        .map(|index| ask(&mut s, guest, Kind::Mkdir, &format!("data/{index}{name}\0")))
        .collect();
    assert_eq!(
        replies,
        [ok("OK\0"), ok("OK\0"), ok("OK\0"), ok("OK\0"), err("ENOSPC")]
    );
}

/// What is on the way to a watched path counts, too: nothing else may need it.
#[test]
fn deep_watches_are_limited() {
    let (mut s, _, guest) = pair();
    let watch = |s: &mut Server, index: usize| {
        let path = format!("{index}{}", "/a".repeat(900));
        ask(s, guest, Kind::Watch, &format!("{path}\0t\0"))
    };
    let count = (0..quota::WATCHES)
        .take_while(|index| watch(&mut s, *index).is_ok())
        .count();
    assert!((4..10).contains(&count), "{count}");
    assert_eq!(watch(&mut s, count), err("ENOMEM"));
    ask(&mut s, guest, Kind::ResetWatches, "\0").unwrap();
    assert_eq!(watch(&mut s, count), ok("OK\0"));
}

/// A long chain of nodes, made, removed and committed.
#[test]
fn deep_nodes() {
    let (mut s, zero, guest) = pair();
    let deep = format!("data{}", "/a".repeat(500));
    for transaction in 0..2u32 {
        if transaction > 0 {
            ask(&mut s, guest, Kind::TransactionStart, "\0").unwrap();
        }
        let mut run = |kind, payload: &str| ask_in(&mut s, guest, transaction, kind, payload.as_bytes());
        assert_eq!(run(Kind::Write, &format!("{deep}\0v")), ok("OK\0"));
        assert_eq!(run(Kind::Read, &format!("{deep}\0")), ok("v"));
        assert_eq!(run(Kind::Read, &format!("{deep}/b\0")), err("ENOENT"));
        assert_eq!(run(Kind::Directory, "data\0"), ok("a\0"));
        assert_eq!(run(Kind::Rm, "data/a\0"), ok("OK\0"));
        assert_eq!(run(Kind::Directory, "data\0"), ok(""));
        assert_eq!(run(Kind::Write, &format!("{deep}\0w")), ok("OK\0"));
        if transaction > 0 {
            assert_eq!(run(Kind::TransactionEnd, "T\0"), ok("OK\0"));
        }
        assert_eq!(ask(&mut s, guest, Kind::Read, &format!("{deep}\0")), ok("w"));
        assert_eq!(ask(&mut s, zero, Kind::Control, "check\0"), ok("OK\0"));
    }
}

/// Names around the slash in sorting, which are no children.
#[test]
fn a_transaction_lists_children_only() {
    let (mut s, _, guest) = pair();
    for path in ["data/a/old", "data/a/gone/x", "data/a-b/c"] {
        ask(&mut s, guest, Kind::Mkdir, &format!("{path}\0")).unwrap();
    }
    ask(&mut s, guest, Kind::TransactionStart, "\0").unwrap();
    let mut run = |kind, path: &str| ask_in(&mut s, guest, 1, kind, format!("{path}\0").as_bytes());
    for path in [
        "data/a/new/x/y",
        "data/a/new-er",
        "data/a0/x",
        "data/a-/x",
        "data/a/old/x",
    ] {
        assert_eq!(run(Kind::Mkdir, path), ok("OK\0"));
    }
    assert_eq!(run(Kind::Rm, "data/a/gone"), ok("OK\0"));
    assert_eq!(run(Kind::Directory, "data/a"), ok("new\0new-er\0old\0"));
    assert_eq!(run(Kind::Directory, "data"), ok("a\0a-\0a-b\0a0\0"));
    assert_eq!(run(Kind::Rm, "data/a"), ok("OK\0"));
    assert_eq!(run(Kind::Mkdir, "data/a/last"), ok("OK\0"));
    assert_eq!(run(Kind::Directory, "data/a"), ok("last\0"));
    assert_eq!(run(Kind::TransactionEnd, "T"), ok("OK\0"));
    assert_eq!(ask(&mut s, guest, Kind::Directory, "data/a\0"), ok("last\0"));
}

/// Memory that domain 5 holds.
fn held(server: &mut Server, zero: ConnectionId) -> usize {
    let report = ask(server, zero, Kind::Control, "quota\x005\0").unwrap();
    let report = String::from_utf8(report).unwrap();
    let line = report.lines().find(|line| line.starts_with("memory")).unwrap();
    line.split_whitespace().last().unwrap().parse().unwrap()
}

/// One request that a transaction would take too much for is refused, and has changed nothing.
#[test]
fn one_request_in_a_transaction_is_limited() {
    let (mut s, zero, guest) = pair();
    let mkdir = |s: &mut Server, path: &str| {
        assert_eq!(ask(s, guest, Kind::Mkdir, &format!("{path}\0")), ok("OK\0"));
    };
    let long = format!("data/{}", "p".repeat(1900));
    for index in 0..29 * 33 {
        mkdir(&mut s, &format!("{long}/{}/{}", index / 33, index % 33));
    }
    let before = held(&mut s, zero);
    ask(&mut s, guest, Kind::TransactionStart, "\0").unwrap();
    let mut run = |kind, path: &str| ask_in(&mut s, guest, 1, kind, format!("{path}\0").as_bytes());
    assert_eq!(run(Kind::Rm, &long), err("ENOMEM"), "three times each path");
    let names = run(Kind::Directory, &format!("{long}/28")).unwrap();
    assert_eq!(names.split_inclusive(|byte| *byte == 0).count(), 33);
    let full = held(&mut s, zero);
    assert!((before + 100_000..=quota::MEMORY).contains(&full), "{full}");
    ask(&mut s, guest, Kind::ResetWatches, "\0").unwrap();
    assert_eq!(ask(&mut s, guest, Kind::Rm, &format!("{long}\0")), ok("OK\0"));

    // What is looked at, though it is not there; what is created.
    let deep = "/a".repeat(900);
    for kind in [Kind::Read, Kind::Mkdir] {
        for _ in 0..quota::TRANSACTIONS {
            let tx = start(&mut s, guest);
            let _ = ask_in(&mut s, guest, tx, kind, format!("data{deep}\0").as_bytes());
        }
        let full = held(&mut s, zero);
        // Transactions as such have a quota of their own.
        let most = quota::MEMORY / 2..=quota::MEMORY + 4096;
        assert!(most.contains(&full), "{full}");
        ask(&mut s, guest, Kind::ResetWatches, "\0").unwrap();
    }
}

/// Nodes that a transaction has looked at do not count twice, and one request cannot look at many more than that.
#[test]
fn nodes_of_a_transaction_are_limited() {
    let (mut s, _, guest) = pair();
    for index in 0..900 {
        let path = format!("data/{}/{}\0", index / 30, index % 30);
        assert_eq!(ask(&mut s, guest, Kind::Mkdir, &path), ok("OK\0"));
    }
    ask(&mut s, guest, Kind::TransactionStart, "\0").unwrap();
    let mut run = |kind, path: &str| ask_in(&mut s, guest, 1, kind, format!("{path}\0").as_bytes());
    for index in 0..200 {
        assert_eq!(run(Kind::Read, &format!("data/0/none{index}")), err("ENOENT"));
    }
    assert_eq!(run(Kind::Rm, "data"), err("ENOSPC"));
    assert_eq!(run(Kind::Read, "data/0/1"), ok(""), "it was looked at before");
    assert_eq!(run(Kind::Read, "data/0/other"), err("ENOSPC"));
    let transaction = &s.connections.get(guest.0).unwrap().transactions[&1];
    assert_eq!(transaction.footprint(), quota::TRANSACTION_NODES);
}

/// Whatever takes memory ends at the quota: values, what a transaction has looked at, events that nobody reads.
#[test]
fn memory_is_limited() {
    let (mut s, zero, guest) = pair();
    let value = "v".repeat(1900);
    for index in 0..10 {
        ask(&mut s, guest, Kind::TransactionStart, "\0").unwrap();
        for node in 0..1000 {
            let payload = format!("data/{}\0{value}", node % 200);
            if ask_in(&mut s, guest, index + 1, Kind::Write, payload.as_bytes()) == err("ENOMEM") {
                break;
            }
        }
    }
    // About: dom0 may give a domain more nodes.
    let most = quota::MEMORY - 4096..=quota::MEMORY + 48 * 1024;
    let full = held(&mut s, zero);
    assert!(most.contains(&full), "{full}");
    assert_eq!(ask(&mut s, guest, Kind::Mkdir, "data/x\0"), err("ENOMEM"));
    let mut looked_at = (0..10).map(|index| {
        let path = format!("data/none/{index}\0");
        ask_in(&mut s, guest, 1, Kind::Read, path.as_bytes())
    });
    assert!(looked_at.any(|reply| reply == err("ENOMEM")));
    assert_eq!(ask(&mut s, guest, Kind::Watch, "data\0t\0"), err("ENOMEM"));
    ask(&mut s, guest, Kind::ResetWatches, "\0").unwrap();
    assert!(held(&mut s, zero) < 10_000);

    let token = "t".repeat(1000);
    for watch in 0..quota::WATCHES {
        ask(&mut s, guest, Kind::Watch, &format!("data\0{watch}{token}\0")).unwrap();
    }
    for node in 0..100 {
        ask(
            &mut s,
            zero,
            Kind::Mkdir,
            &format!("/local/domain/5/data/{node}\0"),
        )
        .unwrap();
    }
    let full = held(&mut s, zero);
    assert!(most.contains(&full), "{full}");
    let told = events(&mut s, guest).len();
    assert!((1000..100 * quota::WATCHES).contains(&told), "{told}");
}

#[test]
fn the_next_domain_of_a_number_inherits_nothing() {
    let (mut s, zero, _) = pair();
    ask(&mut s, zero, Kind::Write, "/shared\0v").unwrap();
    ask(&mut s, zero, Kind::SetPerms, "/shared\0n0\0r5\0w6\0").unwrap();
    ask(&mut s, zero, Kind::SetPerms, "@releaseDomain\0n5\0r5\0").unwrap();
    ask(&mut s, zero, Kind::Release, "5\0").unwrap();
    assert_eq!(ask(&mut s, zero, Kind::GetPerms, "/shared\0"), ok("n0\0w6\0"));
    assert_eq!(ask(&mut s, zero, Kind::GetPerms, "@releaseDomain\0"), ok("n0\0"));
    let next = s.connect(5);
    assert_eq!(ask(&mut s, next, Kind::Read, "/shared\0"), err("EACCES"));
    assert_eq!(ask(&mut s, zero, Kind::Control, "check\0"), ok("OK\0"));
}

#[test]
fn numbers_of_connections_are_used_again() {
    let (mut s, zero, guest) = pair();
    for _ in 0..1000 {
        ask(&mut s, zero, Kind::Release, "5\0").unwrap();
        assert_eq!(s.domain(guest), None);
        assert_eq!(s.connect(5), guest);
        assert_eq!(s.take_output(guest), None, "nothing for the one before");
        ask(&mut s, guest, Kind::Watch, "data\0t\0").unwrap();
        ask_silently(&mut s, zero, Kind::Write, "/local/domain/5/data\0");
        while s.take_output(zero).is_some() {}
    }
}

/// What it owned goes with what is below, whoever owns that; others are told.
#[test]
fn what_a_dead_domain_owned_goes() {
    let (mut s, zero, guest) = pair();
    ask(&mut s, guest, Kind::Write, "data/a/b\0").unwrap();
    ask(&mut s, zero, Kind::Write, "/local/domain/5/data/a/b/c\0").unwrap();
    for (path, list) in [("/open", "b0\0"), ("/local/domain/5/data/a/b/c", "n0\0")] {
        ask(&mut s, zero, Kind::Write, &format!("{path}\0")).unwrap();
        ask(&mut s, zero, Kind::SetPerms, &format!("{path}\0{list}")).unwrap();
    }
    ask(&mut s, guest, Kind::Write, "/open/x/y\0").unwrap();
    ask(&mut s, zero, Kind::Watch, "/\0t\0").unwrap();
    ask(&mut s, zero, Kind::Watch, "/local/domain/5/data/a/b\0u\0").unwrap();
    events(&mut s, zero);
    assert_eq!(s.tree.owned_by(5).len(), 2, "those at the top of what it owns");
    s.receive(zero, &message(Kind::Release, 0, 0, b"5\0"), 1).unwrap();
    assert_eq!(
        events(&mut s, zero),
        [
            "/local/domain/5/data|t|",
            "/local/domain/5/data/a/b|u|",
            "/open/x|t|"
        ]
    );
    for (path, names) in [("/open", ""), ("/local/domain", "5\0"), ("/local/domain/5", "")] {
        assert_eq!(
            ask(&mut s, zero, Kind::Directory, &format!("{path}\0")),
            ok(names)
        );
    }
    assert_eq!(ask(&mut s, zero, Kind::Control, "check\0"), ok("OK\0"));
}

#[test]
fn a_stub_may_what_its_target_may() {
    let (mut s, zero, _) = pair();
    let stub = s.connect(6);
    assert_eq!(
        ask(&mut s, stub, Kind::Read, "/local/domain/5/data\0"),
        err("EACCES")
    );
    assert_eq!(ask(&mut s, zero, Kind::SetTarget, "6\x007\0"), err("ENOENT"));
    assert_eq!(ask(&mut s, zero, Kind::SetTarget, "6\x000\0"), err("EINVAL"));
    assert_eq!(ask(&mut s, zero, Kind::SetTarget, "6\x005\0"), ok("OK\0"));
    assert_eq!(
        ask(&mut s, stub, Kind::Write, "/local/domain/5/data/x\0v"),
        ok("OK\0")
    );
    assert_eq!(
        ask(&mut s, zero, Kind::GetPerms, "/local/domain/5/data/x\0"),
        ok("n6\0")
    );
    ask(&mut s, zero, Kind::Release, "5\0").unwrap();
    let _next = s.connect(5);
    ask(&mut s, zero, Kind::Write, "/local/domain/5/data\0").unwrap();
    ask(&mut s, zero, Kind::SetPerms, "/local/domain/5/data\0n5\0").unwrap();
    assert_eq!(
        ask(&mut s, stub, Kind::Read, "/local/domain/5/data\0"),
        err("EACCES")
    );
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

/// Parts that came before and after the client's own changes do not belong together, in a transaction as outside.
#[test]
fn parts_tell_of_changes() {
    let (mut s, _, guest) = pair();
    ask(&mut s, guest, Kind::TransactionStart, "\0").unwrap();
    for tx in [0, 1] {
        let mut run = |kind, payload: &str| ask_in(&mut s, guest, tx, kind, payload.as_bytes()).unwrap();
        let mut parts = Vec::new();
        for change in ["data/a\0", "data/b\0", "data/b/c\0"] {
            run(Kind::Mkdir, change);
            let path = change.rsplit_once('/').unwrap().0;
            parts.push(run(Kind::DirectoryPart, &format!("{path}\x000\0")));
        }
        run(Kind::Rm, "data/b\0");
        parts.push(run(Kind::DirectoryPart, "data\x000\0"));
        let generation = |part: &Vec<u8>| part.split(|byte| *byte == 0).next().unwrap().to_vec();
        let mut generations: Vec<_> = parts.iter().map(generation).collect();
        generations.sort();
        generations.dedup();
        assert_eq!(generations.len(), 4, "{parts:?}");
    }
}

#[test]
fn a_client_that_does_not_read_waits() {
    let (mut s, _, guest) = pair();
    let request = message(Kind::Directory, 0, 0, b"data\0");
    let many = request.repeat(2 * quota::OUTSTANDING);
    let taken = s.receive(guest, &many, usize::MAX).unwrap();
    assert_eq!(taken, quota::OUTSTANDING * request.len());
    assert_eq!(s.receive(guest, &many[taken..], usize::MAX), Ok(0));
    s.take_output(guest).unwrap();
    assert_eq!(s.receive(guest, &many[taken..], usize::MAX), Ok(request.len()));
}

#[test]
fn transactions_are_ended_once() {
    let (mut s, _, guest) = pair();
    assert_eq!(
        ask_in(&mut s, guest, 3, Kind::TransactionStart, b"\0"),
        err("ENOENT")
    );
    ask(&mut s, guest, Kind::TransactionStart, "\0").unwrap();
    assert_eq!(
        ask_in(&mut s, guest, 1, Kind::TransactionStart, b"\0"),
        err("EBUSY")
    );
    assert_eq!(
        ask_in(&mut s, guest, 0, Kind::TransactionEnd, b"T\0"),
        err("ENOENT")
    );
    assert_eq!(
        ask_in(&mut s, guest, 1, Kind::TransactionEnd, b"X\0"),
        err("EINVAL")
    );
    assert_eq!(ask_in(&mut s, guest, 1, Kind::TransactionEnd, b"F\0"), ok("OK\0"));
    assert_eq!(
        ask_in(&mut s, guest, 1, Kind::TransactionEnd, b"F\0"),
        err("ENOENT")
    );
}

/// Only what a transaction has looked at can be in its way.
#[test]
fn transactions_conflict_by_node() {
    let (mut s, zero, guest) = pair();
    for (meanwhile, end) in [
        ("data/other", ok("OK\0")),
        ("data/x", err("EAGAIN")),
        ("data", err("EAGAIN")),
    ] {
        ask(&mut s, guest, Kind::Write, "data/x\0").unwrap();
        ask(&mut s, guest, Kind::Write, "data/other\0").unwrap();
        let tx = start(&mut s, guest);
        ask_in(&mut s, guest, tx, Kind::Read, b"data\0").unwrap();
        ask_in(&mut s, guest, tx, Kind::Write, b"data/x\0in").unwrap();
        ask(
            &mut s,
            zero,
            Kind::Write,
            &format!("/local/domain/5/{meanwhile}\0out"),
        )
        .unwrap();
        assert_eq!(
            ask_in(&mut s, guest, tx, Kind::TransactionEnd, b"T\0"),
            end,
            "{meanwhile}"
        );
    }
}

/// Much written in one transaction is one event, and to those only who may see the node before or after.
#[test]
fn a_commit_tells_once() {
    let (mut s, zero, guest) = pair();
    for (id, path) in [(zero, "/local/domain/5/data\0t\0"), (guest, "/new\0t\0")] {
        ask(&mut s, id, Kind::Watch, path).unwrap();
        events(&mut s, id);
    }
    ask(&mut s, guest, Kind::TransactionStart, "\0").unwrap();
    for value in ["1", "2", "3"] {
        ask_in(
            &mut s,
            guest,
            1,
            Kind::Write,
            format!("data/x\0{value}").as_bytes(),
        )
        .unwrap();
    }
    assert_eq!(events(&mut s, zero), Vec::<String>::new());
    ask_in(&mut s, guest, 1, Kind::TransactionEnd, b"T\0").unwrap();
    assert_eq!(events(&mut s, zero), ["/local/domain/5/data/x|t|"]);
    ask(&mut s, zero, Kind::TransactionStart, "\0").unwrap();
    ask_in(&mut s, zero, 1, Kind::Write, b"/new\0v").unwrap();
    ask_in(&mut s, zero, 1, Kind::SetPerms, b"/new\0n0\0").unwrap();
    ask_in(&mut s, zero, 1, Kind::TransactionEnd, b"T\0").unwrap();
    assert_eq!(events(&mut s, guest), ["/new|t|"], "the root may be read");
}
