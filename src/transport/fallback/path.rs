//! The addresses of the fallbacks. Pure.

/// Characters of the two parts that a client draws for its session.
const MAX_PART: usize = 64;

/// What a request asks of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Messages, piece by piece.
    Stream,
    /// The next messages.
    Poll,
    /// To take the client's messages.
    Send,
}

/// A session's address: `[/pusher]/app/KEY/NUMBER/SESSION/ACTION`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path<'a> {
    /// The key, still encoded.
    pub key: &'a str,
    /// What the client has drawn: both parts with their slash.
    pub session: &'a str,
    /// What it asks for.
    pub action: Action,
}

impl<'a> Path<'a> {
    /// Reads a path; `None` when it is no session's.
    pub fn parse(path: &'a str) -> Option<Self> {
        let rest = path.strip_prefix("/pusher").unwrap_or(path).strip_prefix("/app/")?;
        let (key, rest) = rest.split_once('/')?;
        let (session, action) = rest.rsplit_once('/')?;
        let (number, id) = session.split_once('/')?;
        let is_part = |part: &str| {
            (1..=MAX_PART).contains(&part.len())
                && part.bytes().all(|c| c.is_ascii_alphanumeric() || b"_-~".contains(&c))
        };
        let action = match action {
            "xhr_streaming" => Action::Stream,
            "xhr" => Action::Poll,
            "xhr_send" => Action::Send,
            _ => return None,
        };
        (!key.is_empty() && is_part(number) && is_part(id)).then_some(Self { key, session, action })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_sessions() {
        let path = Path { key: "k", session: "0/abc12v7z", action: Action::Stream };
        assert_eq!(Path::parse("/pusher/app/k/0/abc12v7z/xhr_streaming"), Some(path));
        assert_eq!(Path::parse("/app/k/0/abc12v7z/xhr"), Some(Path { action: Action::Poll, ..path }));
        assert_eq!(Path::parse("/app/k/0/abc12v7z/xhr_send"), Some(Path { action: Action::Send, ..path }));
        for other in [
            "/app/k",
            "/pusher/app/k",
            "/pusher/info",
            "/pusher/app/k/0/a",
            "/pusher/app/k/0/a/eventsource",
            "/pusher/app//0/a/xhr",
            "/pusher/app/k/0//xhr",
            "/pusher/app/k//a/xhr",
            "/pusher/app/k/0/a/b/xhr",
            "/pusher/app/k/0/a.b/xhr",
            "/apps/1/0/a/xhr",
            "/pusher/app/k/0/a/xhr/",
        ] {
            assert_eq!(Path::parse(other), None, "{other}");
        }
        assert_eq!(Path::parse(&format!("/app/k/0/{}/xhr", "x".repeat(65))), None);
    }
}
