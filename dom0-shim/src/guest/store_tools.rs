//! The xenstore commands, as Xen's tools of the same names.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use dom0_shim::executor::{Either, either};
use dom0_shim::shell::commands::Command;
use dom0_shim::xenstore::tools::{self, Listing, Reach};
use dom0_shim::xenstore::{Error, Kind};
use guest_rt::{console, println};

use super::Host;
use super::store::Fired;

/// Options: letters that were given, and the rest of the words. `None` for a letter that is not among `known`.
fn options<'a>(words: &'a [&'a str], known: &str) -> Option<(String, &'a [&'a str])> {
    let mut given = String::new();
    let mut rest = words;
    while let Some((word, after)) = rest.split_first()
        && let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty())
    {
        if !letters.chars().all(|letter| known.contains(letter)) {
            return None;
        }
        given.push_str(letters);
        rest = after;
    }
    Some((given, rest))
}

/// Carries out a command; `None` if its words make no sense.
pub async fn run(host: &Host, command: Command, words: &[&str]) -> Option<Result<(), String>> {
    let ask = |kind: Kind, payload: &[u8]| host.store.request(kind, payload);
    if command == Command::XenstoreWatch {
        return watch(host, words).await;
    }
    let known = match command {
        Command::XenstoreLs => "fp",
        Command::XenstoreRead => "pR",
        Command::XenstoreWrite => "R",
        Command::XenstoreRm => "t",
        Command::XenstoreList => "p",
        Command::XenstoreChmod => "ur",
        _ => "",
    };
    let (given, rest) = options(words, known)?;
    let has = |letter| given.contains(letter);
    if rest.is_empty() && command != Command::XenstoreLs {
        return None;
    }
    Some(match (command, rest) {
        (Command::XenstoreLs, tops) => {
            let options = Listing {
                full: has('f'),
                permissions: has('p'),
            };
            let tops = if tops.is_empty() { &["/"] } else { tops };
            let mut print = |line: &str| println!("{line}");
            each(tops, |top| tools::ls(&ask, top, options, &mut print))
        }
        (Command::XenstoreRead, paths) => each(paths, |path| {
            let value =
                tools::read(&ask, path).map_err(|_| format!("xenstore-read: couldn't read path {path}"))?;
            let shown = match has('R') {
                true => value,
                false => format!("{}\n", tools::sanitise(&value)).into_bytes(),
            };
            let prefix = if has('p') {
                format!("{path}: ")
            } else {
                String::new()
            };
            console::write(&[prefix.as_bytes(), &shown].concat());
            Ok(())
        }),
        (Command::XenstoreWrite, pairs) if pairs.len() % 2 == 0 => pairs
            .chunks_exact(2)
            .try_for_each(|pair| write(host, pair[0], pair[1], has('R'))),
        (Command::XenstoreRm, paths) => each(paths, |path| tools::rm(&ask, path, has('t'))),
        (Command::XenstoreList, paths) => each(paths, |path| {
            let names = tools::children(&ask, path)
                .map_err(|_| format!("xenstore-list: could not list path {path}"))?;
            let prefix = if has('p') {
                format!("{path}/")
            } else {
                String::new()
            };
            names.iter().for_each(|name| println!("{prefix}{name}"));
            Ok(())
        }),
        (Command::XenstoreExists, paths) => each(paths, |path| {
            // The prompt has no exit codes.
            tools::read(&ask, path).map_err(|error| format!("{path}: {}", error.name()))?;
            Ok(())
        }),
        (Command::XenstoreChmod, [path, modes @ ..]) if !modes.is_empty() => {
            let reach = Reach {
                up: has('u'),
                down: has('r'),
            };
            tools::chmod(&ask, path, modes, reach)
        }
        (Command::XenstoreControl, words) => control(host, words),
        _ => return None,
    })
}

fn each(paths: &[&str], action: impl FnMut(&str) -> Result<(), String>) -> Result<(), String> {
    paths.iter().copied().try_for_each(action)
}

fn write(host: &Host, path: &str, text: &str, raw: bool) -> Result<(), String> {
    let value = match raw {
        true => text.as_bytes().to_vec(),
        false => tools::unsanitise(text),
    };
    host.store
        .request(Kind::Write, &[path.as_bytes(), b"\0", &value].concat())
        .map(|_| ())
        .map_err(|error| format!("xenstore-write: could not write path {path}: {}", error.name()))
}

fn control(host: &Host, words: &[&str]) -> Result<(), String> {
    let reply = host
        .store
        .request(Kind::Control, format!("{}\0", words.join("\0")).as_bytes())
        .map_err(|error| format!("xenstore-control: {}", error.name()))?;
    println!(
        "{}",
        String::from_utf8_lossy(&reply).trim_end_matches(['\0', '\n'])
    );
    Ok(())
}

/// Prints paths that change until there were as many as asked for, or a key is typed.
async fn watch(host: &Host, words: &[&str]) -> Option<Result<(), String>> {
    let (most, paths) = match words {
        ["-n", count, paths @ ..] => (count.parse().ok()?, paths),
        paths => (usize::MAX, paths),
    };
    if paths.is_empty() {
        return None;
    }
    let fired = Fired::collecting();
    let failed =
        |path: &str, error: Error| format!("xenstore-watch: Unable to add watch on {path}: {}", error.name());
    let watches: Result<Vec<_>, String> = paths
        .iter()
        .map(|path| {
            host.store
                .watch_with(path, &fired)
                .map_err(|error| failed(path, error))
        })
        .collect();
    let _watches = match watches {
        Ok(watches) => watches,
        Err(sentence) => return Some(Err(sentence.to_string())),
    };
    let mut count = 0;
    while count < most {
        match fired.next_path() {
            Some(path) => {
                println!("{path}");
                count += 1;
            }
            None => {
                if let Either::First(_) = either(host.terminal.byte(), fired.changed.wait()).await {
                    break;
                }
            }
        }
    }
    Some(Ok(()))
}
