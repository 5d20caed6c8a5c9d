//! Addresses to listen on.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// Where the public listeners listen. Addresses are `host:port`, resolved when bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// Plain TCP.
    Tcp(String),
    /// TLS with the certificate of `[server.tls]`.
    Tls(String),
    /// A Unix socket.
    Unix(PathBuf),
}

impl Listen {
    /// Reads `host:port`, `tls://host:port` or `unix:///path`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.split_once("://") {
            None => address(text).map(Self::Tcp),
            Some(("tls", rest)) => address(rest).map(Self::Tls),
            Some(("unix", path)) if path.starts_with('/') => socket_file(path).map(Self::Unix),
            Some(("unix", _)) => {
                Err(format!("expected an absolute path as in \"unix:///run/x.sock\", found {text:?}"))
            }
            Some(_) => Err(format!(
                "expected \"host:port\", \"tls://host:port\" or \"unix:///path\", found {text:?}"
            )),
        }
    }

    /// Whether only this machine can reach it.
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Tcp(address) | Self::Tls(address) => is_loopback(address),
            Self::Unix(_) => true,
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Tls(address) => write!(f, "tls://{address}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

/// Bytes of a Unix socket's path, at most.
const MAX_SOCKET_PATH: usize = 107;

fn socket_file(path: &str) -> Result<PathBuf, String> {
    if path.len() > MAX_SOCKET_PATH {
        return Err(format!("the path of a Unix socket has at most {MAX_SOCKET_PATH} bytes, found {path:?}"));
    }
    if path.ends_with('/') || path.contains('\0') {
        return Err(format!("expected the path of a file, found {path:?}"));
    }
    Ok(PathBuf::from(path))
}

/// Checks a `host:port` and writes it in one way only, so that equal addresses are equal texts.
///
/// # Errors
/// What is wrong with it.
pub(super) fn address(text: &str) -> Result<String, String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address.to_string());
    }
    let wrong = |what: &str| Err(format!("expected \"host:port\", found {text:?}: {what}"));
    let Some((host, port)) = text.rsplit_once(':') else {
        return wrong("the port is missing");
    };
    if port.is_empty() || !port.bytes().all(|c| c.is_ascii_digit()) || port.parse::<u16>().is_err() {
        return wrong("the port is not a number from 0 to 65535");
    }
    if host.is_empty() {
        return wrong("the host is missing; every address is \"0.0.0.0\" or \"[::]\"");
    }
    if host.contains([':', '[', ']']) {
        return wrong("not an IPv6 address in brackets as in \"[::1]:6001\"");
    }
    let numeric = host.bytes().all(|c| c.is_ascii_digit() || c == b'.');
    let is_name = host.bytes().all(|c| c.is_ascii_alphanumeric() || b"-._".contains(&c));
    if !is_name || (numeric && host.parse::<Ipv4Addr>().is_err()) {
        return wrong("not a host");
    }
    Ok(text.to_ascii_lowercase())
}

/// Whether only this machine can reach a `host:port`. A name other than `localhost` may be
/// anything, so it counts as reachable.
pub(super) fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let ip = address.parse::<SocketAddr>().map(|address| address.ip());
    ip.map_or(host == "localhost", |ip: IpAddr| ip.is_loopback())
}

/// Whether the system chooses the port, so that the same address may be asked for twice.
pub(super) fn is_any_port(address: &str) -> bool {
    address.ends_with(":0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, loopback) in [
            ("127.0.0.1:6001", true),
            ("127.8.8.8:0", true),
            ("[::1]:6001", true),
            ("localhost:6001", true),
            ("LOCALHOST:6001", true),
            ("tls://127.0.0.1:443", true),
            ("unix:///run/fanfare.sock", true),
            ("0.0.0.0:6001", false),
            ("[::]:6001", false),
            ("[::ffff:0.0.0.0]:6001", false),
            ("10.0.0.1:6001", false),
            ("localhost.example:6001", false),
            ("ws_1.example:65535", false),
            ("tls://0.0.0.0:443", false),
        ] {
            let listen = Listen::parse(text).expect(text);
            assert_eq!(listen.is_loopback(), loopback, "{text}");
            assert_eq!(Listen::parse(&listen.to_string()), Ok(listen), "{text}");
        }
    }

    #[test]
    fn bad_addresses() {
        for (text, expected) in [
            ("", "port is missing"),
            ("6001", "port is missing"),
            (":6001", "host is missing"),
            ("localhost:", "port is not"),
            ("localhost:+1", "port is not"),
            ("localhost:65536", "port is not"),
            ("::1:6001", "brackets"),
            ("[::x]:6001", "brackets"),
            ("1.2.3:6001", "not a host"),
            ("256.0.0.1:6001", "not a host"),
            ("a b:6001", "not a host"),
            ("ws://127.0.0.1:6001", "expected"),
            ("unix://relative", "absolute"),
            ("unix:///", "path of a file"),
            ("unix:///run/", "path of a file"),
            ("unix:///run/\0", "path of a file"),
            (&format!("unix:///{}", "x".repeat(107)), "at most 107 bytes"),
            ("tls://x", "port is missing"),
        ] {
            assert!(Listen::parse(text).is_err_and(|what| what.contains(expected)), "{text}");
        }
    }

    #[test]
    fn equal_addresses_are_equal_texts() {
        assert_eq!(address("[0:0::1]:06001"), address("[::1]:6001"));
        assert_eq!(address("Example.ORG:1"), Ok("example.org:1".to_owned()));
    }
}
