//! Channels: the entries of `channel` (xl.cfg(5)), consoles beside a domain's first for programs to talk over.

use alloc::format;
use alloc::string::{String, ToString};

/// A channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channel {
    /// By which the domain's programs find it.
    pub name: String,
}

/// Most channels of a domain: Linux takes a console's number from the last digit of its path, and 0 is the first
/// console.
pub const CHANNELS_MAX: usize = 9;

/// Reads `key=value,key=value`.
///
/// # Errors
/// A sentence on the first key or value that does not fit, or on what is missing.
pub fn parse(text: &str) -> Result<Channel, String> {
    let (mut own_name, mut connected) = (None, false);
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (key, value) = part
            .split_once('=')
            .ok_or_else(|| format!("unknown key '{part}'"))?;
        match (key.trim(), value.trim()) {
            ("name", value) => own_name = Some(name(value)?),
            ("connection", "pty") => connected = true,
            ("connection", "socket") => {
                return Err(
                    "connection=socket: dom0-shim has no sockets; connection=pty is a console at its prompt"
                        .to_string(),
                );
            }
            ("connection", value) => return Err(format!("connection '{value}': pty is wanted")),
            ("backend", "0" | "Domain-0") => {}
            ("backend", value) => return Err(format!("backend '{value}': there are no driver domains")),
            ("path", _) => return Err("path: it is for connection=socket".to_string()),
            (key, _) => return Err(format!("unknown key '{key}'")),
        }
    }
    if !connected {
        return Err("'connection' is missing".to_string());
    }
    own_name
        .map(|name| Channel { name })
        .ok_or_else(|| "'name' is missing".to_string())
}

/// The name goes into xenstore and onto the terminal.
fn name(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    if matches!(text.len(), 1..=64) && text.chars().all(allowed) {
        Ok(text.to_string())
    } else {
        Err(format!(
            "name '{text}': 1 to 64 letters, digits, or '-_.:' are wanted"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        let channel = parse("connection=pty, name=org.example.agent.0 ,backend=0").unwrap();
        assert_eq!(channel.name, "org.example.agent.0");
    }

    #[test]
    fn refuses() {
        let bad = |text: &str| parse(text).unwrap_err();
        assert!(
            bad("name=a,connection=socket,path=/run/a")
                .starts_with("connection=socket: dom0-shim has no sockets")
        );
        assert_eq!(bad("name=a,connection=tcp"), "connection 'tcp': pty is wanted");
        assert_eq!(bad("name=a"), "'connection' is missing");
        assert_eq!(bad(""), "'connection' is missing");
        assert_eq!(bad("connection=pty"), "'name' is missing");
        assert!(bad("name=a b,connection=pty").starts_with("name 'a b'"));
        assert_eq!(
            bad("name=a,connection=pty,path=/x"),
            "path: it is for connection=socket"
        );
        assert_eq!(
            bad("backend=4,connection=pty"),
            "backend '4': there are no driver domains"
        );
        assert_eq!(bad("nam=a"), "unknown key 'nam'");
        assert_eq!(bad("pty"), "unknown key 'pty'");
    }
}
