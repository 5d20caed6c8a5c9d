//! A client of the HTTP fallbacks over bare HTTP connections: line by line, and with the manners of
//! pusher-js only where a test asks for them.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt};
use tokio::net::TcpStream;

use super::client::{checked, subscribe_with};
use super::{APP, Broker, Http, Reply, data_of, in_time};

/// What a session begins with, as pusher-js asks for it.
pub const QUERY: &str = "?protocol=7&client=js&version=8.6.0&t=1&n=1";
/// Where streams are.
pub const STREAM: &str = "xhr_streaming";
/// Where polls are.
pub const POLL: &str = "xhr";

static DRAWN: AtomicU32 = AtomicU32::new(0);

/// A session's address that nobody else has.
pub fn draw(key: &str) -> String {
    format!("/pusher/app/{key}/7/s{}", DRAWN.fetch_add(1, Ordering::Relaxed))
}

/// The bytes of a POST of this body.
pub fn post(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: broker.test\r\nContent-Type: application/json\r\n\
         {headers}Content-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// Sends a body to this address, on a connection of its own.
pub async fn post_to(address: SocketAddr, path: &str, body: &[u8]) -> Reply {
    let mut http = Http::to(address).await;
    http.write(&post(path, "", body)).await;
    http.reply().await.expect("a reply")
}

/// A line of a reply, or how the reply ended.
#[derive(Debug, PartialEq)]
pub enum Line {
    Prelude,
    Opened,
    Beat,
    Messages(Vec<String>),
    Closed(u16, String),
    /// As a reply ends that is whole.
    End,
    /// As one ends that is not.
    Broken,
}

/// One reply, read as it comes.
pub struct Receiving {
    pub http: Http,
    pub head: Reply,
    unread: Vec<u8>,
    /// UTF-16 code units of the lines so far: what pusher-js counts.
    pub units: usize,
}

impl Receiving {
    /// Asks on this connection, and is answered by a head.
    pub async fn over(mut http: Http, path: &str, headers: &str) -> Self {
        http.write(&post(path, headers, b"")).await;
        Self::head(http).await.expect("a reply")
    }

    /// The next head on this connection, if there is one.
    pub async fn head(mut http: Http) -> Option<Self> {
        let head = http.reply_to_head().await?;
        Some(Self { http, head, unread: Vec::new(), units: 0 })
    }

    /// The next line.
    pub async fn line(&mut self) -> Line {
        in_time("a line", self.read_line()).await
    }

    /// As [`Receiving::line`], for as long as it takes.
    pub async fn read_line(&mut self) -> Line {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                let line = String::from_utf8(line).expect("UTF-8");
                self.units += line.encode_utf16().count();
                return parse(&line[..line.len() - 1]);
            }
            let end = match self.read_chunk().await {
                None => Line::Broken,
                Some(0) => Line::End,
                Some(_) => continue,
            };
            assert!(end == Line::Broken || self.unread.is_empty(), "half a line at the end");
            return end;
        }
    }

    /// All lines up to the end.
    pub async fn lines(&mut self) -> Vec<Line> {
        let mut lines = Vec::new();
        while !matches!(lines.last(), Some(Line::End | Line::Broken)) {
            lines.push(self.line().await);
        }
        lines
    }

    /// Reads more; says how much that was, 0 for the end.
    async fn read_chunk(&mut self) -> Option<usize> {
        if let Some(length) = self.head.header("content-length") {
            let length = length.parse().expect("a length");
            self.head.headers.retain(|(name, _)| name != "content-length");
            self.head.headers.push(("transfer-encoding".to_owned(), "none".to_owned()));
            self.unread.resize(length, 0);
            self.http.reader.read_exact(&mut self.unread).await.ok()?;
            return Some(length);
        }
        if self.head.header("transfer-encoding") != Some("chunked") {
            return Some(0);
        }
        let mut size = String::new();
        self.http.reader.read_line(&mut size).await.ok()?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        let mut chunk = vec![0; size + 2];
        self.http.reader.read_exact(&mut chunk).await.ok()?;
        self.unread.extend_from_slice(&chunk[..size]);
        Some(size)
    }
}

fn parse(line: &str) -> Line {
    match line.as_bytes() {
        b"o" => Line::Opened,
        b"h" => Line::Beat,
        [b'a', ..] => Line::Messages(serde_json::from_str(&line[1..]).expect("a list of strings")),
        [b'c', ..] => {
            let (code, text) = serde_json::from_str(&line[1..]).expect("a code and a text");
            Line::Closed(code, text)
        }
        prelude => {
            assert_eq!(prelude, [b'h'; 2048], "not a line: {line}");
            Line::Prelude
        }
    }
}

/// One session.
pub struct Session {
    pub address: SocketAddr,
    /// Without its last part.
    pub path: String,
    /// That last part, of receiving requests.
    pub reading: &'static str,
    pub socket_id: String,
    /// The reply being read.
    pub reply: Option<Receiving>,
    inbox: VecDeque<Value>,
}

impl Broker {
    /// A session that has not begun.
    pub fn session(&self, reading: &'static str) -> Session {
        Session::new(self.address, &draw("app-key"), reading)
    }

    /// A session of the first app, begun and established.
    pub async fn carry(&self, reading: &'static str) -> Session {
        let mut session = self.session(reading);
        session.begin().await;
        session
    }

    /// Waits until each transport has so many sockets: WebSocket, streams, polls.
    pub async fn carries(&self, [websocket, streaming, polling]: [usize; 3]) {
        let counts = [("websocket", websocket), ("xhr_streaming", streaming), ("xhr_polling", polling)];
        for (transport, count) in counts {
            let sample = format!("fanfare_transport_connections{{transport=\"{transport}\"}}");
            self.becomes(&sample, count as f64).await;
        }
    }
}

impl Session {
    /// A session that has not begun.
    pub fn new(address: SocketAddr, path: &str, reading: &'static str) -> Self {
        let (path, socket_id) = (path.to_owned(), String::new());
        Self { address, path, reading, socket_id, reply: None, inbox: VecDeque::new() }
    }

    /// Begins, and is established.
    pub async fn begin(&mut self) {
        self.ask().await;
        if self.reading == STREAM {
            assert_eq!(self.line().await, Line::Prelude);
        }
        assert_eq!(self.line().await, Line::Opened);
        self.expect_established().await;
    }

    /// Its first frame establishes it.
    pub async fn expect_established(&mut self) -> Value {
        let data = data_of(&self.expect("pusher:connection_established").await);
        self.socket_id = data["socket_id"].as_str().expect("a socket id").to_owned();
        data
    }

    /// A receiving request with headers of its own, on a connection of its own.
    pub async fn receiving(&self, query: &str, headers: &str) -> Receiving {
        let path = format!("{}/{}{query}", self.path, self.reading);
        let reply = Receiving::over(Http::to(self.address).await, &path, headers).await;
        assert_eq!(reply.head.status, 200, "{:?}", reply.head);
        reply
    }

    /// Begins to receive.
    pub async fn ask(&mut self) {
        self.reply = Some(self.receiving(QUERY, "").await);
    }

    /// Gives up what it is receiving.
    pub fn abort(&mut self) {
        self.reply = None;
    }

    /// The next line, whatever it is.
    pub async fn line(&mut self) -> Line {
        self.reply.as_mut().expect("a reply").line().await
    }

    /// The next message, answering whatever asks for it and polling again, or the last line.
    pub async fn hear(&mut self) -> Result<Value, Line> {
        loop {
            if let Some(frame) = self.inbox.pop_front() {
                return Ok(frame);
            }
            if self.reply.is_none() {
                self.ask().await;
            }
            match self.line().await {
                Line::Messages(texts) => self.inbox.extend(texts.iter().map(|text| checked(text))),
                Line::Beat => self.say(b"[]").await,
                Line::Prelude => (),
                Line::End if self.reading == POLL => self.reply = None,
                last => return Err(last),
            }
        }
    }

    /// The next message.
    pub async fn frame(&mut self) -> Value {
        self.hear().await.unwrap_or_else(|line| panic!("expected a frame, heard {line:?}"))
    }

    /// The next message is this event.
    pub async fn expect(&mut self, event: &str) -> Value {
        let frame = self.frame().await;
        assert_eq!(frame["event"], event, "in {frame}");
        frame
    }

    /// The next message is this published event and carries nothing else.
    pub async fn expect_event(&mut self, channel: &str, name: &str, data: &str) {
        assert_eq!(self.frame().await, json!({"event": name, "channel": channel, "data": data}));
    }

    /// Nothing has come: the answer to a ping is the next message.
    pub async fn expect_nothing(&mut self) {
        self.send(json!({"event": "pusher:ping", "data": {}})).await;
        self.expect("pusher:pong").await;
    }

    /// The session ends with this code; returns the text.
    pub async fn closed_with(&mut self, expected: u16) -> String {
        match self.hear().await {
            Err(Line::Closed(code, text)) => {
                assert_eq!(code, expected, "closed because “{text}”");
                assert_eq!(self.line().await, Line::End, "something after the close");
                text
            }
            other => panic!("expected a close with {expected}, heard {other:?}"),
        }
    }

    /// Sends this body, on a connection of its own.
    pub async fn sends(&self, body: &[u8]) -> Reply {
        post_to(self.address, &format!("{}/xhr_send?t=2&n=2", self.path), body).await
    }

    /// Sends this list, which is taken.
    pub async fn say(&self, body: &[u8]) {
        let reply = self.sends(body).await;
        assert_eq!(reply.status, 204, "{reply:?}");
    }

    /// Sends a command.
    pub async fn send(&self, command: Value) {
        self.say(json!([command.to_string()]).to_string().as_bytes()).await;
    }

    /// Subscribes, signing where the channel asks for it, and is told of success.
    pub async fn subscribe(&mut self, channel: &str) {
        let auth = match channel.starts_with("private-") {
            true => APP.auth(&self.socket_id, channel, None),
            false => String::new(),
        };
        self.send(subscribe_with(json!({"auth": auth, "channel": channel}))).await;
        let frame = self.expect("pusher_internal:subscription_succeeded").await;
        assert_eq!(frame["channel"], channel);
    }

    /// Joins a presence channel with this channel data.
    pub async fn join(&mut self, channel: &str, channel_data: &str) -> Value {
        let auth = APP.auth(&self.socket_id, channel, Some(channel_data));
        let data = json!({"auth": auth, "channel": channel, "channel_data": channel_data});
        self.send(subscribe_with(data)).await;
        data_of(&self.expect("pusher_internal:subscription_succeeded").await)["presence"].take()
    }
}

/// Whether a session that begins now finds a place; its reply is given up.
pub async fn is_let_in(session: &Session, headers: &str) -> bool {
    let mut receiving = session.receiving(QUERY, headers).await;
    let mut opened = false;
    loop {
        match receiving.line().await {
            Line::Prelude => (),
            Line::Opened => opened = true,
            Line::Closed(code, _) => {
                assert!(opened && code == 4100, "{opened} {code}");
                return false;
            }
            line => {
                assert!(opened && matches!(line, Line::Messages(_) | Line::End), "{line:?}");
                return true;
            }
        }
    }
}

/// A connection whose kernel buffers are as small as they get, with this receiving request on it.
pub async fn narrow(broker: &Broker, path: &str) -> TcpStream {
    let mut stream = broker.narrow_tcp().await;
    let request = post(path, "", b"");
    tokio::io::AsyncWriteExt::write_all(&mut stream, &request).await.expect("the connection takes bytes");
    stream
}
