//! The user that a socket signs in as (protocol.md §4.2). Pure.

use std::collections::HashSet;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::auth::{AuthError, CHANNEL_DATA_AROUND, MAX_USER_ID};
use super::json;
use crate::model::channel::{ChannelName, OF_USER};
use crate::model::member::{Member, UserId};

/// Users that one socket may watch.
pub(super) const MAX_WATCHED: usize = 100;

/// Who a backend says that a socket is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    pub(super) id: UserId,
    /// JSON text for others, or nothing.
    user_info: Option<Arc<str>>,
    /// The user's own channel.
    pub(super) channel: ChannelName,
}

/// Whom a user wants to watch.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Watchlist {
    /// Distinct, at most [`MAX_WATCHED`].
    pub(super) ids: Vec<UserId>,
    /// There were more.
    pub(super) cut: bool,
}

/// What is wrong with `user_data`. The text goes to the client.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidUser {
    #[error("Invalid user_data: expected a JSON object with an id that is a string and not empty")]
    Shape,
    #[error("Invalid user_data: an id has at most {0} characters out of A-Z a-z 0-9 _ - = @ , . ;")]
    Id(usize),
}

#[derive(Deserialize)]
struct UserData<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    user_info: Option<&'a RawValue>,
    #[serde(borrow, default)]
    watchlist: Option<&'a RawValue>,
}

/// Reads a verified `user_data`.
///
/// # Errors
/// When it names no user, or one that could have no channel.
pub(super) fn read(text: &str, max_channel_name: usize) -> Result<(User, Watchlist), InvalidUser> {
    let data: UserData<'_> = json::object(text.as_bytes()).ok_or(InvalidUser::Shape)?;
    let id = data.id.and_then(json::string).filter(|id| !id.is_empty()).ok_or(InvalidUser::Shape)?;
    let channel = ChannelName::of_user(&id, max_channel_name)
        .map_err(|_| InvalidUser::Id(max_channel_name.saturating_sub(OF_USER.len())))?;
    let user_info = data.user_info.map(|info| Arc::from(info.get()));
    let user = User { id: Arc::from(id.as_ref()), user_info, channel };
    let watchlist = data.watchlist.map(|raw| watchlist(raw, max_channel_name));
    Ok((user, watchlist.unwrap_or_default()))
}

/// What is no list is an empty one, and what can be no user's id is left out.
fn watchlist(raw: &RawValue, max_channel_name: usize) -> Watchlist {
    let entries: Vec<&RawValue> = serde_json::from_str(raw.get()).unwrap_or_default();
    let ids = entries.into_iter().filter_map(json::string);
    let ids = ids.filter(|id| ChannelName::of_user(id, max_channel_name).is_ok());
    let mut seen = HashSet::new();
    let mut distinct = ids.filter(|id| seen.insert(id.clone()));
    let first = distinct.by_ref().take(MAX_WATCHED).map(|id| Arc::from(id.as_ref())).collect();
    Watchlist { ids: first, cut: distinct.next().is_some() }
}

impl User {
    /// The user as a member of a presence channel.
    ///
    /// # Errors
    /// When the user is over the limits that members have.
    pub(super) fn member(&self, max_bytes: usize) -> Result<Member, AuthError> {
        if self.id.len() > MAX_USER_ID {
            return Err(AuthError::SignedInIdTooLong);
        }
        // As much as its `channel_data` could have.
        let around = r#"{"user_id":"","user_info":}"#.len();
        if self.user_info.as_ref().is_some_and(|info| info.len() + around > max_bytes + CHANNEL_DATA_AROUND) {
            return Err(AuthError::SignedInTooLarge(max_bytes));
        }
        Ok(Member { user_id: Arc::clone(&self.id), user_info: self.user_info.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(watchlist: &str) -> (usize, bool) {
        let text = format!(r#"{{"id":"u","watchlist":{watchlist}}}"#);
        let (_, watchlist) = read(&text, 200).expect("a user");
        (watchlist.ids.len(), watchlist.cut)
    }

    #[test]
    fn an_id_is_text_that_a_channel_can_be_named_by() {
        let (user, watchlist) = read(r#"{"id":"u-1","user_info":{"name":"U"}}"#, 200).expect("a user");
        assert_eq!((user.id.as_ref(), user.channel.as_str()), ("u-1", "#server-to-user-u-1"));
        assert_eq!((user.user_info.as_deref(), watchlist), (Some(r#"{"name":"U"}"#), Watchlist::default()));
        for text in ["", "x", "[]", "{}", "5", r#"{"id":5}"#, r#"{"id":""}"#, r#"{"id":null}"#, r#"["id"]"#] {
            assert_eq!(read(text, 200), Err(InvalidUser::Shape), "{text}");
        }
        for id in ["a b", "a/b", "a:b", "#a", "ä", "a\\n", "😀", &"x".repeat(185)] {
            assert_eq!(read(&format!(r#"{{"id":"{id}"}}"#), 200), Err(InvalidUser::Id(184)), "{id}");
        }
        assert!(read(&format!(r#"{{"id":"{}"}}"#, "x".repeat(184)), 200).is_ok());
    }

    #[test]
    fn watchlists_are_read_leniently_and_cut() {
        for none in ["null", "5", "\"a\"", "{}", "[]", r#"[5,null,{},""]"#, r#"["a b","a/b"]"#] {
            assert_eq!(ids(none), (0, false), "{none}");
        }
        assert_eq!(ids(r#"["a","a",5,"b"]"#), (2, false));
        let list = |n: usize| serde_json::to_string(&(0..n).map(|i| i.to_string()).collect::<Vec<_>>());
        assert_eq!(ids(&list(100).expect("json")), (100, false));
        assert_eq!(ids(&list(101).expect("json")), (100, true));
        assert_eq!(ids(&list(10_000).expect("json")), (100, true));
    }

    #[test]
    fn a_user_over_the_limits_of_members_is_none() {
        let user = |id: usize, info: usize| {
            let text = format!(r#"{{"id":"{}","user_info":"{}"}}"#, "x".repeat(id), "x".repeat(info));
            read(&text, 200).expect("a user").0.member(1024)
        };
        assert!(user(128, 1027).is_ok());
        assert_eq!(user(129, 0), Err(AuthError::SignedInIdTooLong));
        assert_eq!(user(1, 1028), Err(AuthError::SignedInTooLarge(1024)));
    }
}
