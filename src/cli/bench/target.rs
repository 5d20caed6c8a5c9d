//! The server under test: where it is, and the credentials to sign with.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::time::{SystemTime, UNIX_EPOCH};

use fanfare::model::secret::{Secret, encode_hex};
use md5::{Digest, Md5};

use super::flags::TargetFlags;

/// A client machine has about 28,000 ports for each of its addresses.
const SOCKETS_PER_SOURCE: usize = 20_000;

/// The server under test.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    host: String,
    app_id: String,
    key: String,
    secret: Secret,
}

impl Target {
    /// Finds the server that the flags name.
    ///
    /// # Errors
    /// The host is not known, or is not this machine and that was not allowed.
    pub(super) fn find(flags: &TargetFlags) -> Result<Self, String> {
        let TargetFlags { host, port, .. } = flags;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let address = (bare, *port)
            .to_socket_addrs()
            .map_err(|error| format!("--host {host}: {error}"))?
            .next()
            .ok_or_else(|| format!("--host {host}: no address is known for it"))?;
        if !address.ip().is_loopback() && !flags.allow_remote {
            return Err(format!(
                "--host {host} is not this machine: a bench puts all the load on its target that it can, \
                 which is an attack on whoever did not ask for it, and it would measure the network in \
                 between as well. With --allow-remote you say that the server is yours"
            ));
        }
        let host = if address.is_ipv6() { format!("[{bare}]:{port}") } else { format!("{bare}:{port}") };
        let (app_id, key) = (flags.app_id.clone(), flags.key.clone());
        Ok(Self { address, host, app_id, key, secret: Secret::new(flags.secret.as_str()) })
    }

    /// The request that opens a socket. What the server answers to the key is not verified.
    pub(super) fn handshake(&self) -> String {
        format!(
            "GET /app/{}?protocol=7&client=fanfare-bench&version={}&flash=false HTTP/1.1\r\n\
             Host: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            self.key,
            env!("CARGO_PKG_VERSION"),
            self.host
        )
    }

    /// The `auth` of a subscription.
    pub(super) fn channel_auth(&self, socket_id: &str, channel: &str, channel_data: Option<&str>) -> String {
        let text = match channel_data {
            Some(data) => format!("{socket_id}:{channel}:{data}"),
            None => format!("{socket_id}:{channel}"),
        };
        format!("{}:{}", self.key, self.secret.sign(text.as_bytes()))
    }

    /// A signed request for something below the app's path, with a body when there is one to post.
    pub(super) fn request(&self, what: &str, body: Option<&str>) -> String {
        let method = if body.is_some() { "POST" } else { "GET" };
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        // The query stands in the signed text as it stands in the request.
        let mut signed = format!("{method}\n/apps/{}/{what}\n", self.app_id);
        let query = signed.len();
        // Writing to a string cannot fail.
        let _ = write!(signed, "auth_key={}&auth_timestamp={seconds}&auth_version=1.0", self.key);
        if let Some(body) = body {
            signed.push_str("&body_md5=");
            signed.push_str(&encode_hex(&Md5::digest(body.as_bytes())));
        }
        let signature = self.secret.sign(signed.as_bytes());
        let (path, query) = (&signed[method.len() + 1..query - 1], &signed[query..]);
        let mut request = String::with_capacity(body.unwrap_or_default().len() + 512);
        for part in
            [method, " ", path, "?", query, "&auth_signature=", &signature, " HTTP/1.1\r\nHost: ", &self.host]
        {
            request.push_str(part);
        }
        match body {
            Some(body) => {
                request.push_str("\r\nContent-Type: application/json\r\n");
                let _ = write!(request, "Content-Length: {}\r\n\r\n{body}", body.len());
            }
            None => request.push_str("\r\n\r\n"),
        }
        request
    }

    /// The address that the `n`th of many sockets has to come from, when it matters: one address
    /// has too few ports for all of them.
    pub(super) fn source(&self, n: usize) -> Option<IpAddr> {
        self.spread(n / SOCKETS_PER_SOURCE)
    }

    /// One of many loopback addresses. Only where every address of 127.0.0.0/8 is this machine.
    pub(super) fn spread(&self, block: usize) -> Option<IpAddr> {
        let here = self.address.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST) && cfg!(target_os = "linux");
        let block = u8::try_from(block).ok().filter(|block| here && (1..200).contains(block))?;
        Some(Ipv4Addr::new(127, 0, 0, 1 + block).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(host: &str, allow_remote: bool) -> TargetFlags {
        TargetFlags {
            host: host.to_owned(),
            port: 6001,
            app_id: "3".to_owned(),
            key: "278d425bdf160c739803".to_owned(),
            secret: "7ad3773142a6692b25b8".to_owned(),
            pids: Vec::new(),
            json: false,
            allow_remote,
        }
    }

    #[test]
    fn only_this_machine_unless_told_otherwise() {
        for host in ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost"] {
            assert!(Target::find(&flags(host, false)).is_ok(), "{host}");
        }
        for host in ["192.0.2.1", "2001:db8::1", "0.0.0.0"] {
            let refused = Target::find(&flags(host, false)).expect_err("a refusal");
            assert!(refused.contains("--allow-remote"), "{refused}");
            assert!(Target::find(&flags(host, true)).is_ok(), "{host}");
        }
    }

    #[test]
    fn signs_the_channel_vector() {
        let target = Target::find(&flags("127.0.0.1", false)).expect("a target");
        let auth = target.channel_auth("1234.1234", "private-foobar", None);
        let hex = "58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4";
        assert_eq!(auth, format!("278d425bdf160c739803:{hex}"));
    }

    #[test]
    fn requests_are_signed_over_what_they_ask_for() {
        let target = Target::find(&flags("127.0.0.1", false)).expect("a target");
        let request = target.request("events", Some("{}"));
        let (line, rest) = request.split_once(" HTTP/1.1\r\n").expect("a request line");
        let (asked, signature) = line.split_once("&auth_signature=").expect("a signature");
        assert_eq!(signature, target.secret.sign(asked.replacen([' ', '?'], "\n", 2).as_bytes()));
        assert!(asked.starts_with("POST /apps/3/events?auth_key=278d425bdf160c739803&auth_timestamp="));
        assert!(asked.ends_with("&auth_version=1.0&body_md5=99914b932bd37a50b983c5e7c90ae93b"));
        let head = "Host: 127.0.0.1:6001\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(rest, head);
        let request = target.request("channels", None);
        assert!(request.starts_with("GET /apps/3/channels?") && request.ends_with("6001\r\n\r\n"));
    }

    #[test]
    fn many_sockets_come_from_several_addresses() {
        let target = Target::find(&flags("127.0.0.1", false)).expect("a target");
        assert_eq!(target.source(19_999), None);
        assert_eq!(target.source(20_000), Some(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2))));
        let elsewhere = Target::find(&flags("::1", false)).expect("a target");
        assert_eq!(elsewhere.source(20_000), None);
    }
}
