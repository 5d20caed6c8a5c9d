//! `fanfare serve`: from flags to a configuration, and what is told on start.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use fanfare::config::{Config, Env, Listen, Problems, Source};

/// Flags of `serve`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// The configuration; without one, a development app is served on 127.0.0.1
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where to listen, in place of server.listen; may be given several times
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Vec<String>,
    /// Let the development app, whose secret everybody knows, be reached from other machines
    #[arg(long)]
    pub(crate) insecure_dev_app: bool,
}

/// Loads what the flags say.
///
/// # Errors
/// Everything that is wrong with it.
pub(crate) fn load(args: &Args, env: &Env) -> Result<Config, Problems> {
    Config::load_with_certificate(source(args, Source::read)?, env)
}

/// Loads it again for a broker that runs, and looks after its certificate itself.
///
/// # Errors
/// Everything else that is wrong with it.
pub(crate) fn load_again(args: &Args, env: &Env) -> Result<Config, Problems> {
    Config::load(source(args, Source::read_again)?, &env.clone().of_the_start())
}

fn source(args: &Args, read: fn(&Path) -> Result<Source, Problems>) -> Result<Source, Problems> {
    let source = match &args.config {
        Some(path) => read(path)?,
        None => Source::development(),
    };
    Ok(source.listen(args.listen.clone()).insecure_dev_app(args.insecure_dev_app))
}

/// One line for each listener; `public` has no addresses of Unix sockets.
pub(crate) fn listening(listen: &[Listen], public: &[SocketAddr], admin: SocketAddr) -> String {
    let mut lines = String::new();
    let mut public = public.iter();
    for listen in listen {
        let scheme = match listen {
            Listen::Tcp(_) => "http",
            Listen::Tls(_) => "https",
            Listen::Unix(_) => {
                let _ = writeln!(lines, "fanfare: listening on {listen} (public)");
                continue;
            }
        };
        if let Some(address) = public.next() {
            let _ = writeln!(lines, "fanfare: listening on {scheme}://{address} (public)");
        }
    }
    let _ = writeln!(lines, "fanfare: listening on http://{admin} (admin)");
    lines
}

/// How to talk to the development app.
pub(crate) fn banner(config: &Config, address: SocketAddr) -> Option<String> {
    let app = config.apps.first()?;
    let key = &app.keys.first()?.key;
    let address = reachable(address);
    let prefix = &config.server.path_prefix;
    let path = if prefix.is_empty() { String::new() } else { format!(" wsPath: {prefix:?},") };
    let host = match address.ip() {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    Some(format!(
        "\nDevelopment app (no --config was given; do not use it in production):\n\
         \x20 WebSocket  ws://{address}{prefix}/app/{key}\n\
         \x20 HTTP API   http://{address}{prefix}/apps/{id}\n\
         \x20 key        {key}\n\
         \x20 pusher-js  new Pusher({key:?}, {{ cluster: \"\", wsHost: {host:?}, wsPort: {port},{path} \
         forceTLS: false, enabledTransports: [\"ws\"] }})\n",
        id = app.id,
        port = address.port(),
    ))
}

/// An address that a client of this machine can use in place of "every address".
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(env: &[(&str, &str)], address: &str) -> String {
        let env = env.iter().copied().collect();
        let config = Config::load(Source::development(), &env).expect("a config");
        banner(&config, address.parse().expect("an address")).expect("a banner")
    }

    #[test]
    fn the_banner_can_be_pasted() {
        let banner = shown(&[], "127.0.0.1:6001");
        for part in [
            "ws://127.0.0.1:6001/app/app-key\n",
            "http://127.0.0.1:6001/apps/1\n",
            "new Pusher(\"app-key\", { cluster: \"\", wsHost: \"127.0.0.1\", wsPort: 6001, forceTLS: false, \
             enabledTransports: [\"ws\"] })",
        ] {
            assert!(banner.contains(part), "{banner}");
        }
    }

    #[test]
    fn the_banner_shows_what_is_reachable_and_never_the_secret() {
        let env = [("PUSHER_APP_SECRET", "s3cret"), ("FANFARE_SERVER__PATH_PREFIX", "/x")];
        let banner = shown(&env, "[::]:80");
        for part in ["ws://[::1]:80/x/app/", "wsHost: \"[::1]\", wsPort: 80, wsPath: \"/x\","] {
            assert!(banner.contains(part), "{banner}");
        }
        assert!(!banner.contains("s3cret"));
    }
}
