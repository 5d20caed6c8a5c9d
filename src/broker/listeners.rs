//! The listeners: bound here, or handed over by whoever started the process.

use std::io;
use std::net;
use std::sync::Arc;

use tokio::net::TcpListener;

use crate::accept::{self, Reach, UnixListener};
use crate::activation::Handed;
use crate::certificates::Certificates;
use crate::config::{Config, Listen};
use crate::server::{self, Listener};

/// All of them, serving nobody yet.
pub(super) struct Listeners {
    /// In the order of the config.
    pub(super) public: Vec<Listener>,
    pub(super) admin: TcpListener,
}

impl Listeners {
    /// Binds every listener of a config. A socket that this process was [handed](Handed) takes the place
    /// of the listener that it is for.
    ///
    /// # Errors
    /// When an address cannot be bound, by its name; when a handed socket is not what the config has a
    /// place for.
    pub(super) async fn bind(config: &Config, certificates: Option<&Arc<Certificates>>) -> io::Result<Self> {
        let handed = Handed::take()?;
        let mut public = Vec::new();
        let places = places(handed.public, config.server.listen.len())?;
        for (listen, handed) in config.server.listen.iter().zip(places) {
            public.push(bind(config, listen, handed, certificates).await?);
        }
        Ok(Self { public, admin: bind_tcp(config, &config.admin.listen, handed.admin).await? })
    }
}

async fn bind(
    config: &Config,
    listen: &Listen,
    handed: Option<net::TcpListener>,
    certificates: Option<&Arc<Certificates>>,
) -> io::Result<Listener> {
    match listen {
        Listen::Tcp(address) => Ok(Listener::Tcp(bind_tcp(config, address, handed).await?)),
        Listen::Tls(address) => {
            let tls = server::acceptor(certificates.ok_or_else(|| invalid("tls:// without a certificate"))?)?;
            Ok(Listener::Tls(bind_tcp(config, address, handed).await?, tls))
        }
        Listen::Unix(_) if handed.is_some() => {
            Err(invalid(format!("a TCP socket was handed over in the place of {listen}")))
        }
        Listen::Unix(path) => Ok(Listener::Unix(UnixListener::bind(path).await?)),
    }
}

/// The handed sockets, each in the place of one of `count` listeners: all, or none.
fn places(handed: Vec<net::TcpListener>, count: usize) -> io::Result<Vec<Option<net::TcpListener>>> {
    let found = handed.len();
    if found != 0 && found != count {
        let what = format!("{found} public sockets were handed over, but server.listen has {count} entries");
        return Err(invalid(what));
    }
    let handed = handed.into_iter().map(Some);
    Ok(handed.chain(std::iter::repeat_with(|| None)).take(count).collect())
}

/// A handed socket as a listener in place of `address`, if it is reached from no further than that: what
/// the config was checked for holds for it, too.
fn take_over(address: &str, handed: net::TcpListener) -> io::Result<TcpListener> {
    let there = handed.local_addr()?;
    if Listen::Tcp(address.to_owned()).is_loopback() && !there.ip().is_loopback() {
        let what = format!("a socket was handed over that listens on {there}, but the config says {address}");
        return Err(invalid(what));
    }
    handed.set_nonblocking(true)?;
    TcpListener::from_std(handed)
}

async fn bind_tcp(
    config: &Config,
    address: &str,
    handed: Option<net::TcpListener>,
) -> io::Result<TcpListener> {
    match handed {
        Some(handed) => take_over(address, handed),
        None => accept::bind_tcp(address, reach(config, address)).await,
    }
}

/// Every IPv6 address is every IPv4 address as well, unless the config has a listener for these.
fn reach(config: &Config, address: &str) -> Reach {
    let public = config.server.listen.iter().filter_map(|listen| match listen {
        Listen::Tcp(address) | Listen::Tls(address) => Some(address),
        Listen::Unix(_) => None,
    });
    let is_of_ipv4 = |port: &str| {
        let mut all = public.chain([&config.admin.listen]);
        all.any(|other| other.rsplit_once(':').is_some_and(|other| other == ("0.0.0.0", port)))
    };
    if address.strip_prefix("[::]:").is_some_and(is_of_ipv4) { Reach::OnlyV6 } else { Reach::Both }
}

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_leaves_ipv4_to_a_listener_on_the_same_port() {
        for (public, admin, address, expected) in [
            (&["[::]:6001"][..], "127.0.0.1:1", "[::]:6001", Reach::Both),
            (&["0.0.0.0:6001", "[::]:6001"], "127.0.0.1:1", "[::]:6001", Reach::OnlyV6),
            (&["[::]:6001", "tls://0.0.0.0:6001"], "127.0.0.1:1", "[::]:6001", Reach::OnlyV6),
            (&["0.0.0.0:6002", "[::]:6001", "unix:///x"], "127.0.0.1:1", "[::]:6001", Reach::Both),
            (&["0.0.0.0:6001"], "[::]:6001", "[::]:6001", Reach::OnlyV6),
            (&["0.0.0.0:6001", "[::1]:6001"], "127.0.0.1:1", "[::1]:6001", Reach::Both),
        ] {
            let mut config = Config::parse("[[apps]]\nid = \"1\"\nkey = \"k\"\nsecret = \"s\"").unwrap();
            config.server.listen = public.iter().map(|text| Listen::parse(text).unwrap()).collect();
            config.admin.listen = admin.to_owned();
            assert_eq!(reach(&config, address), expected, "{public:?} {admin}");
        }
    }
}
