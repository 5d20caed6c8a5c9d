//! What backends sign for: channels and users (protocol.md §4). Pure.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::command::{Parameter, SignIn, Subscribe};
use super::json;
use super::user::User;
use crate::metrics::Cause;
use crate::model::app::App;
use crate::model::member::{Member, UserId};
use crate::model::socket::SocketId;

/// Characters of a user's id.
pub(super) const MAX_USER_ID: usize = 128;
/// `{"user_id":"","user_info":}` and a little: what `channel_data` has around a user.
pub(super) const CHANNEL_DATA_AROUND: usize = 32;

/// Why an authorisation is refused. The text goes to the client; it names nothing secret.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AuthError {
    #[error("Auth info required to {0}")]
    Missing(String),
    #[error("Invalid format: auth must have the format key:signature")]
    Format,
    #[error("Invalid key in {what} auth data: '{key}'")]
    Key { what: &'static str, key: String },
    #[error("Invalid signature: Expected HMAC SHA256 hex digest of {signed}, but got {given}")]
    Signature { signed: String, given: String },
    #[error("{0} is a presence channel and subscription must include channel_data")]
    NoChannelData(String),
    #[error("Invalid channel_data: expected a string")]
    ChannelDataType,
    #[error("Invalid channel_data: expected a JSON object with a user_id that is a string or an integer")]
    ChannelData,
    #[error("Invalid channel_data: the user_id is longer than {MAX_USER_ID} characters")]
    UserIdTooLong,
    #[error("Invalid channel_data: the user is larger than {0} bytes")]
    UserTooLarge(usize),
    #[error("The user signed in cannot be a member: the id is longer than {MAX_USER_ID} characters")]
    SignedInIdTooLong,
    #[error("The user signed in cannot be a member: it is larger than {0} bytes")]
    SignedInTooLarge(usize),
}

impl AuthError {
    /// What it is counted as.
    pub(super) fn cause(&self) -> Cause {
        match self {
            Self::Missing(_) | Self::NoChannelData(_) => Cause::Missing,
            Self::Key { .. } => Cause::Key,
            Self::Signature { .. } => Cause::Signature,
            Self::Format
            | Self::ChannelDataType
            | Self::ChannelData
            | Self::UserIdTooLong
            | Self::UserTooLarge(_)
            | Self::SignedInIdTooLong
            | Self::SignedInTooLarge(_) => Cause::Malformed,
        }
    }
}

/// Checks the signature of a subscribe: `SOCKET:CHANNEL`, and `:CHANNEL_DATA` if any was sent,
/// whatever the kind of channel.
///
/// # Errors
/// When the app's backend did not sign exactly this.
pub(super) fn verify(app: &App, socket: SocketId, request: &Subscribe<'_>) -> Result<(), AuthError> {
    let channel = request.channel.as_ref();
    let (key, given) = key_and_signature(&request.auth, || format!("subscribe to {}", json::shown(channel)))?;
    let socket = socket.to_string();
    match channel_data(request)? {
        None => verify_parts(app, "subscription", key, &[&socket, ":", channel], given),
        Some(data) => verify_parts(app, "subscription", key, &[&socket, ":", channel, ":", data], given),
    }
}

/// Checks the signature of a sign-in: `SOCKET::user::USER_DATA`.
///
/// # Errors
/// When the app's backend did not sign exactly this.
pub(super) fn verify_sign_in(app: &App, socket: SocketId, request: &SignIn<'_>) -> Result<(), AuthError> {
    let (key, given) = key_and_signature(&request.auth, || "sign in".to_owned())?;
    verify_parts(app, "sign-in", key, &[&socket.to_string(), "::user::", &request.user_data], given)
}

fn verify_parts(
    app: &App,
    what: &'static str,
    key: &str,
    parts: &[&str],
    given: &str,
) -> Result<(), AuthError> {
    let no_key = || AuthError::Key { what, key: json::shown(key).to_owned() };
    let mut signer = app.key_pair(key).ok_or_else(no_key)?.secret.signer();
    parts.iter().for_each(|part| signer.update(part.as_bytes()));
    if signer.verify(given) {
        return Ok(());
    }
    let signed = json::shown(&parts.concat()).to_owned();
    Err(AuthError::Signature { signed, given: json::shown(given).to_owned() })
}

fn key_and_signature<'r>(
    auth: &'r Parameter<'_>,
    purpose: impl FnOnce() -> String,
) -> Result<(&'r str, &'r str), AuthError> {
    let auth = match auth {
        Parameter::Text(auth) if !auth.is_empty() => auth,
        Parameter::Other(_) => return Err(AuthError::Format),
        Parameter::Text(_) | Parameter::Absent => return Err(AuthError::Missing(purpose())),
    };
    auth.split_once(':').filter(|(key, given)| !key.is_empty() && !given.is_empty()).ok_or(AuthError::Format)
}

/// The signed data, if any was sent; an empty string is none.
fn channel_data<'r>(request: &'r Subscribe<'_>) -> Result<Option<&'r str>, AuthError> {
    match &request.channel_data {
        Parameter::Absent => Ok(None),
        Parameter::Text(data) => Ok(Some(data.as_ref()).filter(|data| !data.is_empty())),
        Parameter::Other(_) => Err(AuthError::ChannelDataType),
    }
}

#[derive(Deserialize)]
struct ChannelData<'a> {
    #[serde(borrow)]
    user_id: &'a RawValue,
    #[serde(borrow, default)]
    user_info: Option<&'a RawValue>,
}

/// The member that a verified subscribe to a presence channel brings: the one in its `channel_data`,
/// or else who the socket has signed in as.
///
/// # Errors
/// When there is no user, or one over the limits.
pub(super) fn member(
    request: &Subscribe<'_>,
    signed_in: Option<&User>,
    max_bytes: usize,
) -> Result<Member, AuthError> {
    match (channel_data(request)?, signed_in) {
        (Some(text), _) => member_in(text, max_bytes),
        (None, Some(user)) => user.member(max_bytes),
        (None, None) => Err(AuthError::NoChannelData(json::shown(&request.channel).to_owned())),
    }
}

fn member_in(text: &str, max_bytes: usize) -> Result<Member, AuthError> {
    let data: ChannelData<'_> = json::object(text.as_bytes()).ok_or(AuthError::ChannelData)?;
    let user_id = user_id(data.user_id).ok_or(AuthError::ChannelData)?;
    if user_id.chars().count() > MAX_USER_ID {
        return Err(AuthError::UserIdTooLong);
    }
    if text.len() > max_bytes + user_id.len() + CHANNEL_DATA_AROUND {
        return Err(AuthError::UserTooLarge(max_bytes));
    }
    Ok(Member { user_id, user_info: data.user_info.map(|info| Arc::from(info.get())) })
}

/// A non-empty string, or an integer in its own digits: a double would lose some.
fn user_id(raw: &RawValue) -> Option<UserId> {
    if let Some(text) = json::string(raw) {
        return (!text.is_empty()).then(|| Arc::from(text.as_ref()));
    }
    let digits = raw.get().strip_prefix('-').unwrap_or(raw.get());
    (digits.bytes().all(|c| c.is_ascii_digit())).then(|| Arc::from(raw.get()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::app::{Features, KeyPair, Limits};
    use crate::model::secret::Secret;
    use crate::model::socket::GivenSocketId;

    const KEY: &str = "278d425bdf160c739803";

    fn app() -> App {
        let pair = |key: &str, secret: &str| KeyPair { key: key.into(), secret: Secret::new(secret) };
        App {
            id: Arc::from("3"),
            keys: vec![pair(KEY, "7ad3773142a6692b25b8"), pair("tofu-key", "tofu")],
            enabled: true,
            features: Features::default(),
            limits: Limits::default(),
            webhooks: Vec::new(),
        }
    }

    fn check(channel: &str, auth: &str, data: Option<&str>) -> Result<(), AuthError> {
        let Ok(GivenSocketId::Possible(socket)) = "1234.1234".parse() else { panic!("socket id") };
        let channel_data = data.map_or(Parameter::Absent, |data| Parameter::Text(data.into()));
        let auth = Parameter::Text(auth.into());
        verify(&app(), socket, &Subscribe { channel: channel.into(), auth, channel_data })
    }

    #[test]
    fn accepts_the_verified_vectors() {
        for (channel, data, signature) in [
            ("private-foobar", None, "58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4"),
            (
                "presence-foobar",
                Some(r#"{"user_id":10,"user_info":{"name":"Mr. Channels"}}"#),
                "31935e7d86dba64c2a90aed31fdc61869f9b22ba9d8863bba239c03ca481bc80",
            ),
            (
                "presence-foobar",
                Some(r#"{"user_id":10,"user_info":{"name":"Mr. Pusher"}}"#),
                "afaed3695da2ffd16931f457e338e6c9f2921fa133ce7dac49f529792be6304c",
            ),
            (
                "private-foobar",
                Some(r#"{"user_id":"10"}"#),
                "bf9f2eda99b88b670aedd071792d41c2796fda040476f39b46f89a28ccc69a9c",
            ),
            ("presence-foobar", None, "71506e66e7fdca106571b8999a849ad34245bc653772e51e0026c1a2475b92ba"),
        ] {
            assert_eq!(check(channel, &format!("{KEY}:{signature}"), data), Ok(()), "{channel} {data:?}");
            assert!(check("private-other", &format!("{KEY}:{signature}"), data).is_err());
            assert!(check(channel, &format!("{KEY}:{signature}"), Some("{}")).is_err());
            assert!(
                check(channel, &format!("tofu-key:{signature}"), data).is_err(),
                "the other pair's secret"
            );
        }
    }

    #[test]
    fn signs_utf8_bytes() {
        let mut signer = Secret::new("tofu").signer();
        signer.update("1.1:test:\"ą§¶™€łü€ß£\"".as_bytes());
        assert!(signer.verify("2a229263e89d9c50524fd80c2e88be2843379f6931e28995e2cc214282c9db0c"));
    }

    #[test]
    fn refuses_what_is_no_authorisation() {
        for auth in ["nocolon", ":", "key:", ":sig"] {
            assert_eq!(check("private-a", auth, None), Err(AuthError::Format), "{auth}");
        }
        assert_eq!(check("private-a", "", None), Err(AuthError::Missing("subscribe to private-a".into())));
        assert_eq!(
            check("private-a", "other:00", None),
            Err(AuthError::Key { what: "subscription", key: "other".into() })
        );
        assert!(matches!(check("private-a", &format!("{KEY}:00"), None), Err(AuthError::Signature { .. })));
    }

    fn member_of(data: &str) -> Result<Member, AuthError> {
        let (channel, channel_data) = ("presence-a".into(), Parameter::Text(data.into()));
        member(&Subscribe { channel, auth: Parameter::Absent, channel_data }, None, 1024)
    }

    #[test]
    fn user_ids_are_strings_or_exact_integers() {
        for (data, id) in [
            (r#"{"user_id":"a"}"#, "a"),
            (r#"{"user_id":10}"#, "10"),
            (r#"{"user_id":-1}"#, "-1"),
            (r#"{"user_id":123456789012345678901234567890}"#, "123456789012345678901234567890"),
        ] {
            assert_eq!(member_of(data).map(|member| member.user_id.to_string()), Ok(id.to_owned()));
        }
        for id in ["null", "true", "{}", "[]", "\"\"", "1.5", "1e3"] {
            let refused = member_of(&format!(r#"{{"user_id":{id}}}"#));
            assert_eq!(refused, Err(AuthError::ChannelData), "{id}");
        }
        assert_eq!(member_of(""), Err(AuthError::NoChannelData("presence-a".into())));
        for data in ["x", "[]", "{}", "5", r#"["a"]"#] {
            assert_eq!(member_of(data), Err(AuthError::ChannelData), "{data}");
        }
    }

    #[test]
    fn users_over_the_limits_are_refused() {
        let with_id = |n: usize| member_of(&format!(r#"{{"user_id":"{}"}}"#, "x".repeat(n)));
        assert!(with_id(128).is_ok());
        assert_eq!(with_id(129), Err(AuthError::UserIdTooLong));
        let with_info =
            |n: usize| member_of(&format!(r#"{{"user_id":"1","user_info":"{}"}}"#, "x".repeat(n)));
        assert!(with_info(1020).is_ok());
        assert_eq!(with_info(1100), Err(AuthError::UserTooLarge(1024)));
    }
}
