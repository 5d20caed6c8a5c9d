//! Channel names and the table of channel kinds (protocol.md §2).

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// What a channel's prefix says about it. One row of [`KINDS`].
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// The name begins with this, dash included.
    pub prefix: &'static str,
    /// Who may subscribe.
    pub access: Access,
    /// Subscribers are members and see each other.
    pub presence: bool,
    /// The last event is kept for newcomers.
    pub cache: bool,
    /// Sockets may publish client events.
    pub client_events: bool,
}

impl Kind {
    /// Whether channels of this kind are told to others: those of users are nobody else's business.
    pub fn is_listed(&self) -> bool {
        self.access != Access::OwnUser
    }

    /// Whether subscribers may be told how many they are; members see each other instead.
    pub fn is_counted(&self) -> bool {
        self.is_listed() && !self.presence
    }
}

/// Who may subscribe to a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Anybody.
    Open,
    /// Who shows a signature of the app's backend.
    Signed,
    /// The signed-in user whose id follows the prefix.
    OwnUser,
}

/// What the names of users' channels begin with; the user's id follows.
pub const OF_USER: &str = "#server-to-user-";

/// Every kind; a name belongs to the first row whose prefix it begins with, so longer prefixes
/// stand before the shorter ones they begin with. Prefixes are case-sensitive.
pub static KINDS: [Kind; 9] = {
    use Access::{Open, OwnUser, Signed};
    const fn row(
        prefix: &'static str,
        access: Access,
        presence: bool,
        cache: bool,
        client_events: bool,
    ) -> Kind {
        Kind { prefix, access, presence, cache, client_events }
    }
    [
        //   prefix                      access   presence cache client events
        row("private-encrypted-cache-", Signed, false, true, false),
        row("private-encrypted-", Signed, false, false, false),
        row("private-cache-", Signed, false, true, true),
        row("private-", Signed, false, false, true),
        row("presence-cache-", Signed, true, true, true),
        row("presence-", Signed, true, false, true),
        row("cache-", Open, false, true, false),
        row(OF_USER, OwnUser, false, false, false),
        row("", Open, false, false, false),
    ]
};

/// A valid channel name. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelName(Arc<str>);

/// The name breaks the rules of protocol.md §2.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid channel name")]
pub struct InvalidChannelName;

impl ChannelName {
    /// Checks a name: 1 to `max_length` characters of `A–Z a–z 0–9 _ - = @ , . ;`, or
    /// `#server-to-user-` and at least one of them.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn parse(name: &str, max_length: usize) -> Result<Self, InvalidChannelName> {
        if is_valid(name, max_length) { Ok(Self(Arc::from(name))) } else { Err(InvalidChannelName) }
    }

    /// The channel of the user who goes by `id`.
    ///
    /// # Errors
    /// When the id has other characters than a channel's name may have, none, or too many.
    pub fn of_user(id: &str, max_length: usize) -> Result<Self, InvalidChannelName> {
        Self::parse(&format!("{OF_USER}{id}"), max_length)
    }

    /// The name as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The row of the table that the name belongs to.
    pub fn kind(&self) -> &'static Kind {
        kind_of(&self.0)
    }
}

/// The row of the table that `name` belongs to.
pub fn kind_of(name: &str) -> &'static Kind {
    let last = &KINDS[KINDS.len() - 1];
    KINDS.iter().find(|kind| name.starts_with(kind.prefix)).unwrap_or(last)
}

/// Whether `name` is a channel name of at most `max_length` characters.
pub fn is_valid(name: &str, max_length: usize) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"_-=@,.;".contains(&c);
    let rest = name.strip_prefix(OF_USER).unwrap_or(name);
    !rest.is_empty() && name.len() <= max_length && rest.bytes().all(plain)
}

impl Borrow<str> for ChannelName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_row_hides_a_later_one() {
        for (i, earlier) in KINDS.iter().enumerate() {
            for later in &KINDS[i + 1..] {
                assert!(
                    !later.prefix.starts_with(earlier.prefix),
                    "{} hides {}",
                    earlier.prefix,
                    later.prefix
                );
            }
        }
    }

    #[test]
    fn prefixes_are_anchored_case_sensitive_and_have_their_dash() {
        for public in ["my-private-x", "Private-x", "privately", "x-cache-y", "cachet", "presence", "private"]
        {
            assert_eq!(kind_of(public).prefix, "", "{public}");
        }
        for (name, prefix) in [
            ("private-encryptedx", "private-"),
            ("private-encrypted-x", "private-encrypted-"),
            ("private-encrypted-cache-x", "private-encrypted-cache-"),
            ("private-cache-x", "private-cache-"),
            ("presence-cache-x", "presence-cache-"),
            ("presence-cachex", "presence-"),
            ("cache-x", "cache-"),
            ("#server-to-user-1", "#server-to-user-"),
        ] {
            assert_eq!(kind_of(name).prefix, prefix, "{name}");
        }
    }

    #[test]
    fn names_are_checked_by_character_and_length() {
        for good in ["a", "A_-=@,.;9", "private-a", "#server-to-user-u1"] {
            assert!(is_valid(good, 200), "{good}");
        }
        for bad in
            ["", " ", "a b", "ä", "a#", "#foo", "#server-to-user-", "#server-to-user-#", "a\n", "a/b", "a:b"]
        {
            assert!(!is_valid(bad, 200), "{bad}");
        }
        assert!(is_valid(&"x".repeat(200), 200));
        assert!(!is_valid(&"x".repeat(201), 200));
    }
}
