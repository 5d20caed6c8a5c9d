//! Sockets that are handed over at the start by whoever holds them open: systemd, for a `.socket` unit.

use std::env;
use std::io;
use std::net::TcpListener;

use listenfd::ListenFd;

/// The most sockets that are taken.
const MAX: usize = 64;

/// The sockets that this process was handed (`LISTEN_FDS`), by what they are named (`LISTEN_FDNAMES`).
#[derive(Debug, Default)]
pub struct Handed {
    /// Named `public`, in their order; without any names, all.
    pub public: Vec<TcpListener>,
    /// Named `admin`.
    pub admin: Option<TcpListener>,
}

impl Handed {
    /// Takes them. A second call finds none.
    ///
    /// # Errors
    /// When one is no TCP socket, or goes by another name, or two are named `admin`.
    pub fn take() -> io::Result<Self> {
        let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidInput, what);
        let count = env::var("LISTEN_FDS").ok().and_then(|count| count.trim().parse::<usize>().ok());
        if count.is_some_and(|count| count > MAX) {
            return Err(invalid(format!("LISTEN_FDS: more than {MAX} sockets")));
        }
        let mut handed = ListenFd::from_env();
        let names = env::var("LISTEN_FDNAMES").ok();
        let names = names_of(names.as_deref(), handed.len()).map_err(invalid)?;
        let mut found = Self::default();
        for (i, name) in names.into_iter().enumerate() {
            let taken = handed.take_tcp_listener(i);
            let taken = taken.map_err(|error| invalid(format!("socket {i} of LISTEN_FDS: {error}")))?;
            match name {
                Name::Public => found.public.extend(taken),
                Name::Admin => found.admin = taken,
            }
        }
        Ok(found)
    }
}

/// What a handed socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Public,
    Admin,
}

/// The names of `count` sockets, parted by colons.
fn names_of(names: Option<&str>, count: usize) -> Result<Vec<Name>, String> {
    let Some(names) = names.filter(|_| count > 0) else { return Ok(vec![Name::Public; count]) };
    let parse = |name| match name {
        "public" => Ok(Name::Public),
        "admin" => Ok(Name::Admin),
        other => Err(format!(
            "LISTEN_FDNAMES: expected \"public\" or \"admin\", found {other:?}; \
             a .socket unit says it as FileDescriptorName=public"
        )),
    };
    let parsed = names.split(':').map(parse).collect::<Result<Vec<_>, _>>()?;
    if parsed.len() != count {
        return Err(format!("LISTEN_FDNAMES: {} names for {count} sockets", parsed.len()));
    }
    if parsed.iter().filter(|name| **name == Name::Admin).count() > 1 {
        return Err("LISTEN_FDNAMES: more than one \"admin\"".to_owned());
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_sockets_are_for() {
        use Name::{Admin, Public};
        for (names, expected) in [
            (None, vec![]),
            (Some("anything"), vec![]),
            (None, vec![Public, Public]),
            (Some("public"), vec![Public]),
            (Some("admin:public:public"), vec![Admin, Public, Public]),
        ] {
            assert_eq!(names_of(names, expected.len()), Ok(expected), "{names:?}");
        }
    }

    #[test]
    fn a_name_that_says_nothing_is_refused() {
        for (names, count, text) in [
            ("fanfare.socket", 1, "FileDescriptorName=public"),
            ("", 1, "found \"\""),
            ("public", 2, "1 names for 2 sockets"),
            ("public:public", 1, "2 names for 1 sockets"),
            ("admin:admin", 2, "more than one"),
        ] {
            let refused = names_of(Some(names), count).expect_err(names);
            assert!(refused.contains(text), "{refused}");
        }
    }
}
