//! Where a cluster's engine is: the `url` of `[cluster]`.

use std::fmt;

use percent_encoding::percent_decode_str;

/// An engine's address, taken apart.
#[derive(Clone, PartialEq)]
pub struct EngineUrl {
    /// How the servers are found.
    pub kind: UrlKind,
    /// They are reached by TLS.
    pub tls: bool,
    /// Whom to sign in as, where it is not the default user.
    pub user: Option<String>,
    /// What to sign in with.
    pub password: Option<String>,
    /// Hosts and ports, never empty. More than one only where one is asked about the others.
    pub servers: Vec<(String, u16)>,
    /// Number of the database.
    pub database: u32,
}

/// How the servers are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UrlKind {
    /// There is one, at the address.
    Single,
    /// Sentinels know which one is the master of this service.
    Sentinel(String),
    /// Any node of the cluster knows the masters.
    Cluster,
}

impl fmt::Debug for EngineUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineUrl")
            .field("kind", &self.kind)
            .field("tls", &self.tls)
            .field("servers", &self.servers)
            .finish_non_exhaustive()
    }
}

const SCHEMES: &str =
    "redis://, rediss://, redis-sentinel://, rediss-sentinel://, redis-cluster:// or rediss-cluster://";

/// Checks an engine's URL.
///
/// # Errors
/// What is wrong with it. Never holds the password.
pub fn check_url(url: &str) -> Result<(), String> {
    EngineUrl::parse(url).map(drop)
}

impl EngineUrl {
    /// Takes a URL apart.
    ///
    /// # Errors
    /// What is wrong with it. Never holds the password.
    pub fn parse(url: &str) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").ok_or_else(|| format!("must begin with {SCHEMES}"))?;
        let scheme = scheme.to_ascii_lowercase();
        let (base, tls) = match scheme.strip_prefix("rediss") {
            Some(base) => (base, true),
            None => (scheme.strip_prefix("redis").unwrap_or("?"), false),
        };
        let sentinel = match base {
            "" | "-cluster" => false,
            "-sentinel" => true,
            _ => return Err(format!("must begin with {SCHEMES}")),
        };
        if rest.contains(['?', '#']) {
            return Err("must have no query and no fragment; such characters of a password are written \
                        percent-encoded"
                .to_owned());
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if path.contains('@') {
            return Err("has a slash before an @: in a password it is written %2F, and an @ %40".to_owned());
        }
        let (credentials, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = credentials_of(credentials)?;
        let default_port = if sentinel { 26379 } else { 6379 };
        let servers =
            hosts.split(',').map(|host| server(host, default_port)).collect::<Result<Vec<_>, _>>()?;
        let (kind, database) = kind_of(base, path)?;
        if kind == UrlKind::Single && servers.len() > 1 {
            return Err("names several servers: that takes redis-sentinel:// or redis-cluster://".to_owned());
        }
        Ok(Self { kind, tls, user, password, servers, database })
    }
}

fn kind_of(base: &str, path: &str) -> Result<(UrlKind, u32), String> {
    match base {
        "-sentinel" if path.is_empty() || path.contains('/') => {
            Err("must end in the name of the service that the sentinels watch, /NAME".to_owned())
        }
        "-sentinel" => Ok((UrlKind::Sentinel(decoded(path)?), 0)),
        "-cluster" if path.is_empty() => Ok((UrlKind::Cluster, 0)),
        "-cluster" => Err("must name no database: a cluster has only one".to_owned()),
        _ if path.is_empty() => Ok((UrlKind::Single, 0)),
        _ => match path.parse() {
            Ok(database) if path.bytes().all(|c| c.is_ascii_digit()) => Ok((UrlKind::Single, database)),
            _ => Err("must end in nothing or the number of a database, /0".to_owned()),
        },
    }
}

fn credentials_of(text: &str) -> Result<(Option<String>, Option<String>), String> {
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    if !user.is_empty() && password.is_empty() {
        return Err("names a user without a password, which stands between a colon and the @".to_owned());
    }
    let user = (!user.is_empty()).then(|| decoded(user)).transpose()?;
    let password = (!password.is_empty()).then(|| decoded(password)).transpose()?;
    Ok((user, password))
}

fn decoded(text: &str) -> Result<String, String> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(String::from).map_err(|_| "has a percent-encoded part that is not UTF-8".to_owned())
}

fn server(text: &str, default_port: u16) -> Result<(String, u16), String> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => {
            (host, Some(rest.strip_prefix(':').ok_or("has something odd after an address in brackets")?))
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    if host.is_empty() || host.contains(['[', ']']) || host.contains(char::is_whitespace) {
        return Err("names no host".to_owned());
    }
    let port = match port {
        None => default_port,
        Some(port) => match port.parse::<u16>() {
            Ok(number) if number > 0 && port.bytes().all(|c| c.is_ascii_digit()) => number,
            // Not repeated: in a URL whose password holds a slash this is a part of it.
            _ => return Err("has a port that is not a number from 1 to 65535".to_owned()),
        },
    };
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, port: u16) -> (String, u16) {
        (name.to_owned(), port)
    }

    #[test]
    fn takes_every_form_apart() {
        let url = EngineUrl::parse("redis://h").expect("valid");
        assert_eq!((url.kind, url.tls, url.database), (UrlKind::Single, false, 0));
        assert_eq!((url.user, url.password, url.servers), (None, None, vec![host("h", 6379)]));
        let url = EngineUrl::parse("rediss://me:p%2F%40x@[::1]:7/3").expect("valid");
        assert_eq!((url.tls, url.user.as_deref(), url.database), (true, Some("me"), 3));
        assert_eq!(url.password, Some("p/@x".to_owned()));
        assert_eq!(url.servers, [host("::1", 7)]);
        let url = EngineUrl::parse("redis-sentinel://:pw@a,b:5/main").expect("valid");
        assert_eq!(url.kind, UrlKind::Sentinel("main".to_owned()));
        assert_eq!(url.servers, [host("a", 26379), host("b", 5)]);
        let url = EngineUrl::parse("rediss-cluster://a:1,b:2").expect("valid");
        assert_eq!((url.kind, url.tls), (UrlKind::Cluster, true));
    }

    #[test]
    fn says_what_is_wrong_and_never_the_password() {
        for (bad, said) in [
            ("", "must begin with redis://"),
            ("http://h", "must begin with redis://"),
            ("redis-other://h", "must begin with redis://"),
            ("redis://", "names no host"),
            ("redis://h:0", "has a port"),
            ("redis://h:+1", "has a port"),
            ("redis://h:70000", "has a port"),
            ("redis://a,b", "names several servers"),
            ("redis://h/x", "the number of a database"),
            ("redis://h/+1", "the number of a database"),
            ("redis://me@h", "names a user without a password"),
            ("redis://:%ff@h", "not UTF-8"),
            ("redis://[::1]x", "odd"),
            ("redis://:hush/hush@h", "written %2F"),
            ("redis://:hush?@h", "no query"),
            ("redis-sentinel://h", "the name of the service"),
            ("redis-sentinel://h/a/b", "the name of the service"),
            ("redis-cluster://h/1", "no database"),
            ("redis-cluster://h,", "names no host"),
        ] {
            let error = check_url(bad).expect_err(bad);
            assert!(error.contains(said), "{bad}: {error}");
            assert!(!error.contains("hush"), "{error}");
        }
    }
}
