//! From a socket's text message to a command (protocol.md §1.6). Pure.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::json;

/// What a client asks for.
#[derive(Debug)]
pub(super) enum Command<'a> {
    /// Answer, please.
    Ping,
    /// The answer to a ping of ours.
    Pong,
    /// Let me into a channel.
    Subscribe(Subscribe<'a>),
    /// This is who I am.
    SignIn(SignIn<'a>),
    /// Let me out.
    Unsubscribe { channel: Cow<'a, str> },
    /// Tell the others.
    Publish { name: Cow<'a, str>, channel: Cow<'a, str>, data: &'a RawValue },
}

/// A request to subscribe.
#[derive(Debug)]
pub(super) struct Subscribe<'a> {
    pub(super) channel: Cow<'a, str>,
    /// `KEY:SIGNATURE`. Looked at only where a channel asks for it.
    pub(super) auth: Parameter<'a>,
    /// Signed together with the channel's name.
    pub(super) channel_data: Parameter<'a>,
}

/// A request to sign in.
#[derive(Debug)]
pub(super) struct SignIn<'a> {
    /// `KEY:SIGNATURE`.
    pub(super) auth: Parameter<'a>,
    /// The user, as the backend signed it.
    pub(super) user_data: Cow<'a, str>,
}

/// Why a message is no command. The text goes to the client.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("Invalid message: expected a JSON object with an event name")]
    NotAnEvent,
    #[error("Unsupported event received on socket: {0}")]
    Unsupported(String),
    #[error("Missing parameter: {0}")]
    Missing(&'static str),
    #[error("Invalid parameter: {0}")]
    Invalid(&'static str),
    #[error("Invalid channel name: {0}")]
    ChannelName(String),
    #[error("Invalid client event (must contain channel and data)")]
    ClientEvent,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    event: Option<&'a RawValue>,
    #[serde(borrow, default)]
    channel: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "json::present")]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Parameters<'a> {
    #[serde(borrow, default)]
    channel: Parameter<'a>,
    #[serde(borrow, default)]
    auth: Parameter<'a>,
    #[serde(borrow, default)]
    channel_data: Parameter<'a>,
    #[serde(borrow, default)]
    user_data: Parameter<'a>,
}

/// A parameter that should be a string.
#[derive(Debug, Default)]
pub(super) enum Parameter<'a> {
    #[default]
    Absent,
    Text(Cow<'a, str>),
    /// Some other JSON, as far as an error shows it.
    Other(String),
}

impl<'de: 'a, 'a> Deserialize<'de> for Parameter<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(from)?;
        Ok(match json::string(raw) {
            Some(text) => Self::Text(text),
            None if raw.get() == "null" => Self::Absent,
            None => Self::Other(json::shown(raw.get()).to_owned()),
        })
    }
}

impl Parameter<'_> {
    fn into_owned(self) -> Parameter<'static> {
        match self {
            Self::Absent => Parameter::Absent,
            Self::Text(text) => Parameter::Text(Cow::Owned(text.into_owned())),
            Self::Other(shown) => Parameter::Other(shown),
        }
    }
}

impl<'a> Command<'a> {
    /// Reads one message.
    ///
    /// # Errors
    /// When it is none of the commands, or lacks something.
    pub(super) fn decode(message: &'a str) -> Result<Self, Malformed> {
        let envelope: Envelope<'a> = json::object(message.as_bytes()).ok_or(Malformed::NotAnEvent)?;
        let name = envelope.event.and_then(json::string).ok_or(Malformed::NotAnEvent)?;
        match name.as_ref() {
            "pusher:ping" => Ok(Self::Ping),
            "pusher:pong" => Ok(Self::Pong),
            "pusher:subscribe" => Subscribe::from_parameters(parameters(envelope.data)?).map(Self::Subscribe),
            "pusher:unsubscribe" => {
                Ok(Self::Unsubscribe { channel: channel(parameters(envelope.data)?.channel)? })
            }
            "pusher:signin" => SignIn::from_parameters(parameters(envelope.data)?).map(Self::SignIn),
            client if client.starts_with("client-") => {
                let channel = envelope.channel.and_then(json::string).ok_or(Malformed::ClientEvent)?;
                let data = envelope.data.ok_or(Malformed::ClientEvent)?;
                Ok(Self::Publish { name, channel, data })
            }
            other => Err(Malformed::Unsupported(json::shown(other).to_owned())),
        }
    }
}

impl<'a> Subscribe<'a> {
    fn from_parameters(given: Parameters<'a>) -> Result<Self, Malformed> {
        Ok(Self { channel: channel(given.channel)?, auth: given.auth, channel_data: given.channel_data })
    }
}

impl<'a> SignIn<'a> {
    fn from_parameters(given: Parameters<'a>) -> Result<Self, Malformed> {
        match given.user_data {
            Parameter::Absent => Err(Malformed::Missing("data.user_data")),
            Parameter::Other(_) => Err(Malformed::Invalid("data.user_data")),
            Parameter::Text(user_data) => Ok(Self { auth: given.auth, user_data }),
        }
    }
}

fn channel(given: Parameter<'_>) -> Result<Cow<'_, str>, Malformed> {
    match given {
        Parameter::Absent => Err(Malformed::Missing("data.channel")),
        Parameter::Text(name) => Ok(name),
        Parameter::Other(shown) => Err(Malformed::ChannelName(shown)),
    }
}

/// The parameters of a `pusher:` command: an object, or a string that holds one.
fn parameters(data: Option<&RawValue>) -> Result<Parameters<'_>, Malformed> {
    let data = data.ok_or(Malformed::Missing("data"))?;
    let read = match json::string(data) {
        None => json::object(data.get().as_bytes()),
        Some(Cow::Borrowed(text)) => json::object(text.as_bytes()),
        Some(Cow::Owned(text)) => json::object(text.as_bytes()).map(|read: Parameters<'_>| Parameters {
            channel: read.channel.into_owned(),
            auth: read.auth.into_owned(),
            channel_data: read.channel_data.into_owned(),
            user_data: read.user_data.into_owned(),
        }),
    };
    read.ok_or(Malformed::Invalid("data"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(message: &str) -> String {
        Command::decode(message).expect_err(message).to_string()
    }

    #[test]
    fn parameters_may_be_an_object_or_a_string_that_holds_one() {
        for data in [r#"{"channel":"a","auth":"k:s"}"#, r#""{\"channel\":\"a\",\"auth\":\"k:s\"}""#] {
            let message = format!(r#"{{"event":"pusher:subscribe","data":{data}}}"#);
            let Ok(Command::Subscribe(subscribe)) = Command::decode(&message) else { panic!("{message}") };
            assert_eq!(subscribe.channel, "a");
            assert!(matches!(subscribe.auth, Parameter::Text(auth) if auth == "k:s"));
            assert!(matches!(subscribe.channel_data, Parameter::Absent));
        }
    }

    #[test]
    fn every_wrong_shape_has_its_answer() {
        for bad in
            ["", "not json", "[]", "1", "null", "{}", r#"{"event":5}"#, r#"["pusher:ping"]"#, "{", "\"x\""]
        {
            assert!(error(bad).starts_with("Invalid message"), "{bad}");
        }
        assert_eq!(error(r#"{"event":"foo"}"#), "Unsupported event received on socket: foo");
        assert_eq!(error(r#"{"event":"pusher:subscribe"}"#), "Missing parameter: data");
        assert_eq!(error(r#"{"event":"pusher:subscribe","data":{}}"#), "Missing parameter: data.channel");
        for data in ["5", "[]", "null", "true", r#""x""#, r#""[]""#] {
            let message = format!(r#"{{"event":"pusher:subscribe","data":{data}}}"#);
            assert_eq!(error(&message), "Invalid parameter: data", "{data}");
        }
        for channel in ["5", "[]", "{}", "true"] {
            let message = format!(r#"{{"event":"pusher:unsubscribe","data":{{"channel":{channel}}}}}"#);
            assert_eq!(error(&message), format!("Invalid channel name: {channel}"));
        }
        for client in [
            r#"{"event":"client-x"}"#,
            r#"{"event":"client-x","channel":"a"}"#,
            r#"{"event":"client-x","data":1}"#,
            r#"{"event":"client-x","channel":1,"data":1}"#,
        ] {
            assert!(error(client).starts_with("Invalid client event"), "{client}");
        }
    }

    #[test]
    fn a_client_event_may_carry_null() {
        let message = r#"{"event":"client-x","channel":"private-a","data":null}"#;
        let Ok(Command::Publish { data, .. }) = Command::decode(message) else { panic!("{message}") };
        assert_eq!(data.get(), "null");
    }
}
