//! A WebSocket client that says what it expects, one sentence at a time.

use std::collections::VecDeque;
use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::ClientRequestBuilder;
use tokio_tungstenite::tungstenite::{self, Bytes, Message, handshake::client::Response};

use super::{APP, data_of, in_time};

/// The longest reason a close frame can carry.
pub const LONGEST_REASON: usize = 123;

/// What a client can hear.
#[derive(Debug)]
pub enum Heard {
    Frame(Value),
    Pong(Bytes),
    Closed { code: u16, reason: String },
    Gone,
}

/// One client connection.
pub struct Client {
    pub socket_id: String,
    response: Response,
    socket: WebSocketStream<TcpStream>,
    inbox: VecDeque<Value>,
}

impl Client {
    /// Completes the upgrade, and nothing more.
    pub async fn open(
        address: SocketAddr,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, tungstenite::Error> {
        Self::over(TcpStream::connect(address).await?, address, path, headers).await
    }

    /// The same over a connection that stands already.
    pub async fn over(
        stream: TcpStream,
        address: SocketAddr,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, tungstenite::Error> {
        let uri = format!("ws://{address}{path}").parse().expect("a URI");
        let request =
            headers.iter().fold(ClientRequestBuilder::new(uri), |request, (name, value)| match *name {
                "Sec-WebSocket-Protocol" => request.with_sub_protocol(*value),
                _ => request.with_header(*name, *value),
            });
        let upgrade = tokio_tungstenite::client_async(request, stream);
        let (socket, response) = in_time("the upgrade", upgrade).await?;
        Ok(Self { socket_id: String::new(), response, socket, inbox: VecDeque::new() })
    }

    /// A header of the upgrade's response.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name).map(|value| value.to_str().expect("a readable header"))
    }

    /// Sends a command.
    pub async fn send(&mut self, command: Value) {
        self.send_text(command.to_string()).await;
    }

    /// Sends a text message as it is.
    pub async fn send_text(&mut self, text: impl Into<String>) {
        self.send_message(Message::text(text.into())).await;
    }

    /// Sends any WebSocket message.
    pub async fn send_message(&mut self, message: Message) {
        in_time("a sent message", self.socket.send(message)).await.expect("the socket takes messages");
    }

    /// Sends many messages as one stretch of bytes.
    pub async fn send_together(&mut self, commands: impl IntoIterator<Item = Value>) {
        for command in commands {
            let message = Message::text(command.to_string());
            in_time("a sent message", self.socket.feed(message)).await.expect("the socket takes messages");
        }
        in_time("a flush", self.socket.flush()).await.expect("the socket takes messages");
    }

    /// The next thing heard, whatever it is.
    pub async fn hear(&mut self) -> Heard {
        in_time("anything from the broker", self.listen()).await
    }

    /// As [`Client::hear`], for those who have time. Nothing is lost when this is given up.
    pub async fn listen(&mut self) -> Heard {
        if let Some(frame) = self.inbox.pop_front() {
            return Heard::Frame(frame);
        }
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => return Heard::Frame(checked(&text)),
                Some(Ok(Message::Pong(payload))) => return Heard::Pong(payload),
                Some(Ok(Message::Ping(_))) => (),
                Some(Ok(Message::Close(Some(close)))) => {
                    return Heard::Closed { code: close.code.into(), reason: close.reason.to_string() };
                }
                Some(Ok(Message::Close(None)) | Err(_)) | None => return Heard::Gone,
                Some(Ok(other)) => panic!("the broker never sends {other:?}"),
            }
        }
    }

    /// The next frame.
    pub async fn frame(&mut self) -> Value {
        match self.hear().await {
            Heard::Frame(frame) => frame,
            other => panic!("expected a frame, heard {other:?}"),
        }
    }

    /// The next frame is this event.
    pub async fn expect(&mut self, event: &str) -> Value {
        let frame = self.frame().await;
        assert_eq!(frame["event"], event, "in {frame}");
        frame
    }

    /// The next frame is this published event and carries nothing else.
    pub async fn expect_event(&mut self, channel: &str, name: &str, data: &str) {
        let frame = self.frame().await;
        assert_eq!(frame, json!({"event": name, "channel": channel, "data": data}));
    }

    /// The first frame establishes the connection; returns its data.
    pub async fn expect_established(&mut self) -> Value {
        let data = data_of(&self.expect("pusher:connection_established").await);
        self.socket_id = data["socket_id"].as_str().expect("a socket id").to_owned();
        data
    }

    /// The next frame is an error without a code, and nothing but an error; the connection stays open.
    pub async fn expect_error(&mut self, fragment: &str) {
        self.expect_error_frame(&Value::Null, fragment).await;
        self.expect_nothing().await;
    }

    /// The next frame is `pusher:error` with this code.
    pub async fn expect_error_frame(&mut self, code: &Value, fragment: &str) {
        let frame = self.expect("pusher:error").await;
        let message = frame["data"]["message"].as_str().expect("a message");
        assert_eq!(&frame["data"]["code"], code, "in {frame}");
        assert!(message.contains(fragment), "“{fragment}” is missing in “{message}”");
    }

    /// The last subscribe was refused, first for old clients, then for the channel's own listeners.
    pub async fn expect_refused(&mut self, channel: &str, fragment: &str) -> Value {
        self.expect_error_frame(&Value::Null, fragment).await;
        let frame = self.expect("pusher:subscription_error").await;
        assert_eq!(frame["channel"], channel);
        let data = data_of(&frame);
        assert!(data["type"].is_string() && data["error"].is_string(), "in {data}");
        assert!(data["status"].is_u64(), "in {data}");
        self.expect_nothing().await;
        data
    }

    /// The last command was answered by an error without a code, with or without a subscription error.
    pub async fn expect_declined(&mut self, fragment: &str) {
        self.expect_error_frame(&Value::Null, fragment).await;
        let rest = self.round().await;
        let only = |frame: &Value| frame["event"] == "pusher:subscription_error";
        assert!(rest.len() <= 1 && rest.iter().all(only), "after the error came {rest:?}");
    }

    /// Nothing has come: the answer to a ping is the next thing heard.
    pub async fn expect_nothing(&mut self) {
        let before = self.round().await;
        assert!(before.is_empty(), "expected nothing, heard {before:?}");
    }

    /// Pings, and returns the frames that came before the pong.
    pub async fn round(&mut self) -> Vec<Value> {
        self.send(json!({"event": "pusher:ping", "data": {}})).await;
        let mut before = Vec::new();
        loop {
            let frame = self.frame().await;
            if frame["event"] == "pusher:pong" {
                assert_eq!(frame["data"], "{}");
                return before;
            }
            before.push(frame);
        }
    }

    /// The broker closes with this code, and the client agrees; returns the reason.
    pub async fn closed_with(&mut self, expected: u16) -> String {
        match self.hear().await {
            Heard::Closed { code, reason } => {
                assert_eq!(code, expected, "closed because “{reason}”");
                assert!(!reason.is_empty() && reason.len() <= LONGEST_REASON, "reason “{reason}”");
                assert!(matches!(self.hear().await, Heard::Gone), "something after the close");
                let _ = self.socket.get_mut().shutdown().await;
                reason
            }
            other => panic!("expected a close with {expected}, heard {other:?}"),
        }
    }

    /// Leaves politely.
    pub async fn close(mut self) {
        in_time("a close", self.socket.close(None)).await.expect("an open socket closes");
        while !matches!(self.hear().await, Heard::Closed { .. } | Heard::Gone) {}
    }

    /// Subscribes, signing where the channel asks for it, and is told of success.
    pub async fn subscribe(&mut self, channel: &str) {
        let command = self.subscription(channel);
        self.send(command).await;
        self.expect_subscribed(channel).await;
    }

    /// The command that subscribes, signed where the channel asks for it.
    pub fn subscription(&self, channel: &str) -> Value {
        let auth = match channel.starts_with("private-") || channel.starts_with("presence-") {
            true => APP.auth(&self.socket_id, channel, None),
            false => String::new(),
        };
        subscribe_with(json!({"auth": auth, "channel": channel}))
    }

    /// The next frame is the success of a channel without members.
    pub async fn expect_subscribed(&mut self, channel: &str) {
        let frame = self.frame().await;
        let success = "pusher_internal:subscription_succeeded";
        assert_eq!(frame, json!({"event": success, "channel": channel, "data": "{}"}));
    }

    /// Joins a presence channel with this channel data, and returns who is there.
    pub async fn join(&mut self, channel: &str, channel_data: &str) -> Value {
        self.ask_to_join(channel, channel_data).await;
        self.expect_joined(channel).await
    }

    /// Sends the signed command that joins a presence channel.
    pub async fn ask_to_join(&mut self, channel: &str, channel_data: &str) {
        let auth = APP.auth(&self.socket_id, channel, Some(channel_data));
        let data = json!({"auth": auth, "channel": channel, "channel_data": channel_data});
        self.send(subscribe_with(data)).await;
    }

    /// The next frame is the success of a presence channel; returns who is there.
    pub async fn expect_joined(&mut self, channel: &str) -> Value {
        let frame = self.expect("pusher_internal:subscription_succeeded").await;
        assert_eq!(frame["channel"], channel);
        data_of(&frame)["presence"].take()
    }

    /// Unsubscribes; there is no answer to wait for.
    pub async fn unsubscribe(&mut self, channel: &str) {
        self.send(json!({"event": "pusher:unsubscribe", "data": {"channel": channel}})).await;
    }

    /// Sends a client event.
    pub async fn whisper(&mut self, channel: &str, name: &str, data: Value) {
        self.send(json!({"event": name, "channel": channel, "data": data})).await;
    }
}

/// A subscribe command with this data.
pub fn subscribe_with(data: Value) -> Value {
    json!({"event": "pusher:subscribe", "data": data})
}

/// What every frame of the broker has in common, whatever it says.
pub fn checked(text: &str) -> Value {
    let frame: Value = serde_json::from_str(text).expect("a frame is JSON");
    let event = frame["event"].as_str().unwrap_or_else(|| panic!("no event in {frame}"));
    match event {
        "pusher:error" => {
            assert!(frame["data"]["message"].is_string(), "no message in {frame}");
            let code = frame["data"].get("code").unwrap_or_else(|| panic!("no code in {frame}"));
            assert!(code.is_null() || code.is_u64(), "the code of {frame}");
        }
        _ => assert!(frame["data"].is_string(), "data is not a string in {frame}"),
    }
    frame
}
