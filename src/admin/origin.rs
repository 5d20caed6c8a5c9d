//! Who asks on loopback without a token. A browser there is led by any page that is open in it: pages
//! can post to other servers, and can have their own host's name point to 127.0.0.1.

use std::net::IpAddr;

use hyper::HeaderMap;
use hyper::header::{HOST, ORIGIN};

/// Whether a request is neither made for a web page nor sent to another host's name.
pub(super) fn is_local(headers: &HeaderMap) -> bool {
    let by_page =
        headers.get_all("sec-fetch-site").iter().any(|site| site != "none" && site != "same-origin");
    let mut hosts = headers.get_all(HOST).iter();
    !headers.contains_key(ORIGIN) && !by_page && hosts.all(|host| host.to_str().is_ok_and(is_loopback))
}

/// A loopback name or address, with or without a port.
fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|c| c.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || address.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use hyper::header::{HeaderName, HeaderValue};

    use super::*;

    fn allows(headers: &[(&'static str, &'static str)]) -> bool {
        let pairs = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        is_local(&pairs.collect())
    }

    #[test]
    fn programs_of_this_machine_may_ask() {
        assert!(allows(&[]));
        for host in ["localhost", "LOCALHOST:9601", "127.0.0.1:9601", "127.9.9.9", "[::1]", "[::1]:9601"] {
            assert!(allows(&[("host", host)]), "{host}");
        }
        for site in ["none", "same-origin"] {
            assert!(allows(&[("host", "localhost"), ("sec-fetch-site", site)]), "{site}");
        }
    }

    #[test]
    fn web_pages_may_not() {
        for host in ["evil.test", "localhost.evil.test:80", "10.0.0.1", "[::2]:80", "", "127.0.0.1.evil.test"]
        {
            assert!(!allows(&[("host", host)]), "{host}");
        }
        for origin in ["http://evil.test", "null", "http://localhost:9601"] {
            assert!(!allows(&[("host", "localhost"), ("origin", origin)]), "{origin}");
        }
        for site in ["cross-site", "same-site", "other"] {
            assert!(!allows(&[("host", "localhost"), ("sec-fetch-site", site)]), "{site}");
        }
    }
}
