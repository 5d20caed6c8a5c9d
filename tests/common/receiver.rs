//! An app's own server, to which webhooks are sent: it answers as it is told to, and remembers what came.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader,
};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use super::api::now;
use super::sign::{APP, Credentials};
use super::within;

/// How long a test waits for a request: it may be a late try.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Stock validators refuse what is older, in seconds.
const MAX_AGE: i64 = 300;
/// More of an answer than anybody should want to read.
const HUGE: usize = 64 << 20;

/// What a receiver does with a request.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Answers with this status and a small body.
    Status(u16),
    /// Sends the caller somewhere else.
    Redirect(String),
    /// Never answers.
    Hang,
    /// Answers 200, once the caller has given up.
    Late,
    /// Answers 200 in a header without end, byte by byte.
    Trickle,
    /// Answers in no HTTP.
    Babble,
    /// Hangs up in the middle of the header.
    Cut,
    /// Answers 200, and hangs up in the middle of the body.
    CutBody,
    /// Answers 200, and never ends the body.
    HangInBody,
    /// Answers 200 with a body without measure.
    Huge,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Received {
    /// The request line.
    pub line: String,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// Exactly as it came.
    pub body: String,
}

#[derive(Default)]
struct Script {
    first: VecDeque<Answer>,
    then: Option<Answer>,
    /// Bytes that the caller took of all answers.
    written: usize,
}

/// A server on a port of its own. Every request is expected to be one of the app's webhooks.
pub struct Receiver {
    pub address: SocketAddr,
    scheme: &'static str,
    owner: Credentials,
    script: Arc<Mutex<Script>>,
    requests: mpsc::UnboundedReceiver<Received>,
    events: VecDeque<Value>,
    accepting: JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Receiver {
    /// One that answers 200.
    pub async fn new() -> Self {
        Self::scripted([], Answer::Status(200)).await
    }

    /// One that gives these answers, and then always the same.
    pub async fn scripted(first: impl IntoIterator<Item = Answer>, then: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        Self::on(listener, None, first, then)
    }

    /// One that answers 200 on a socket that is bound already.
    pub fn at(socket: TcpSocket) -> Self {
        let listener = socket.listen(16).expect("listen");
        Self::on(listener, None, [], Answer::Status(200))
    }

    /// One that is reached by TLS as `localhost`; its certificate is returned as PEM.
    pub async fn secure() -> (Self, String) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("a usable certificate");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let tls = TlsAcceptor::from(Arc::new(config));
        (Self::on(listener, Some(tls), [], Answer::Status(200)), made.cert.pem())
    }

    fn on(
        listener: TcpListener,
        tls: Option<TlsAcceptor>,
        first: impl IntoIterator<Item = Answer>,
        then: Answer,
    ) -> Self {
        let address = listener.local_addr().expect("an address");
        let first = first.into_iter().collect();
        let script = Arc::new(Mutex::new(Script { first, then: Some(then), written: 0 }));
        let (told, requests) = mpsc::unbounded_channel();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let accepting = tokio::spawn(accept(listener, tls, Arc::clone(&script), told));
        Self { address, scheme, owner: APP, script, requests, events: VecDeque::new(), accepting }
    }

    /// The same for the webhooks of another app.
    pub fn owned_by(mut self, owner: Credentials) -> Self {
        self.owner = owner;
        self
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("{}://{}/hook", self.scheme, self.host())
    }

    /// The same, with a name and a password, and a query.
    pub fn secret_url(&self) -> String {
        format!("{}://name:pass%2Fword@{}/hook?token=hidden", self.scheme, self.host())
    }

    fn host(&self) -> String {
        match self.scheme {
            "https" => format!("localhost:{}", self.address.port()),
            _ => self.address.to_string(),
        }
    }

    /// What it answers from now on.
    pub fn answers(&self, answer: Answer) {
        let mut script = self.script.lock().expect("a lock");
        script.first.clear();
        script.then = Some(answer);
    }

    /// Bytes of bodies that callers took so far.
    pub fn written(&self) -> usize {
        self.script.lock().expect("a lock").written
    }

    /// The next request.
    pub async fn request(&mut self) -> Received {
        within(PATIENCE, "a webhook", self.requests.recv()).await.expect("the receiver runs")
    }

    /// The requests that have come and that nobody has asked for yet.
    pub fn come(&mut self) -> Vec<Received> {
        std::iter::from_fn(|| self.requests.try_recv().ok()).collect()
    }

    /// The next event, of a request that stock validators accept.
    pub async fn event(&mut self) -> Value {
        while self.events.is_empty() {
            let request = self.request().await;
            self.events.extend(request.events(self.owner));
        }
        self.events.pop_front().expect("an event")
    }

    /// The next events are these.
    pub async fn expect(&mut self, events: impl IntoIterator<Item = Value>) {
        for expected in events {
            assert_eq!(self.event().await, expected);
        }
    }
}

impl Received {
    /// A header, which must not be there twice.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let value = values.next();
        assert!(values.next().is_none(), "{name} twice in {self:?}");
        value
    }

    /// Does what the SDKs' validators do, and returns the body.
    pub fn validate(&self, owner: Credentials) -> Value {
        assert!(self.line.starts_with("POST /"), "{self:?}");
        assert_eq!(self.header("x-pusher-key"), Some(owner.key), "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        let signature = owner.sign(&self.body);
        assert_eq!(self.header("x-pusher-signature"), Some(signature.as_str()), "{self:?}");
        let body: Value = serde_json::from_str(&self.body).expect("JSON");
        let time = body["time_ms"].as_i64().expect("time_ms is an integer");
        assert!((now() - time / 1000).abs() < MAX_AGE, "{self:?}");
        body
    }

    /// Its events, each of which has a name and a channel.
    pub fn events(&self, owner: Credentials) -> Vec<Value> {
        let body = self.validate(owner);
        let events = body["events"].as_array().expect("a list").clone();
        assert!(
            !events.is_empty() && events.iter().all(|e| e["name"].is_string() && e["channel"].is_string())
        );
        events
    }
}

async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    script: Arc<Mutex<Script>>,
    told: mpsc::UnboundedSender<Received>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, script, told) = (tls.clone(), Arc::clone(&script), told.clone());
        tokio::spawn(async move {
            match tls {
                None => converse(BufReader::new(stream), &script, &told).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        converse(BufReader::new(stream), &script, &told).await;
                    }
                }
            }
        });
    }
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: BufReader<S>,
    script: &Mutex<Script>,
    told: &mpsc::UnboundedSender<Received>,
) {
    while let Some(request) = read(&mut stream).await {
        let answer = {
            let mut script = script.lock().expect("a lock");
            script.first.pop_front().or_else(|| script.then.clone()).expect("an answer")
        };
        let _ = told.send(request);
        if reply(&mut stream, &answer, script).await.is_err() {
            return;
        }
    }
}

async fn read(stream: &mut (impl AsyncBufRead + Unpin)) -> Option<Received> {
    let line = read_line(stream).await?;
    let mut headers = Vec::new();
    loop {
        let line = read_line(stream).await?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length").expect("a length of the body");
    let mut body = vec![0; length.1.parse().expect("a number")];
    stream.read_exact(&mut body).await.ok()?;
    Some(Received { line, headers, body: String::from_utf8(body).expect("UTF-8") })
}

async fn read_line(stream: &mut (impl AsyncBufRead + Unpin)) -> Option<String> {
    let mut line = String::new();
    match stream.read_line(&mut line).await {
        Ok(1..) => Some(line.trim_end().to_owned()),
        Ok(0) | Err(_) => None,
    }
}

/// An error ends the connection.
async fn reply<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufReader<S>,
    answer: &Answer,
    script: &Mutex<Script>,
) -> std::io::Result<()> {
    let head = |length: usize| format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
    let (text, stays) = match answer {
        Answer::Status(204) => ("HTTP/1.1 204 Told\r\n\r\n".to_owned(), true),
        Answer::Status(status) => (format!("HTTP/1.1 {status} Told\r\nContent-Length: 2\r\n\r\nok"), true),
        Answer::Redirect(to) => {
            (format!("HTTP/1.1 301 Moved\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n"), true)
        }
        Answer::Hang => (String::new(), false),
        Answer::Late => {
            gone(stream).await;
            (head(0), false)
        }
        Answer::Trickle => return trickle(stream).await,
        Answer::Babble => ("220 mail.test ESMTP\r\n".to_owned(), false),
        Answer::Cut => ("HTTP/1.1 200 OK\r\nContent-Le".to_owned(), false),
        Answer::CutBody | Answer::HangInBody => (format!("{}half", head(8)), false),
        Answer::Huge => (head(HUGE), false),
    };
    stream.write_all(text.as_bytes()).await?;
    stream.flush().await?;
    match answer {
        Answer::Hang | Answer::HangInBody => gone(stream).await,
        Answer::Huge => pour(stream, script).await?,
        _ => {}
    }
    if stays { Ok(()) } else { Err(std::io::Error::other("the end")) }
}

async fn trickle(stream: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    for byte in b"HTTP/1.1 200 OK\r\nX-Long: ".iter().chain(std::iter::repeat(&b'x')) {
        pace.tick().await;
        stream.write_all(&[*byte]).await?;
        stream.flush().await?;
    }
    Ok(())
}

async fn pour(stream: &mut (impl AsyncWrite + Unpin), script: &Mutex<Script>) -> std::io::Result<()> {
    let piece = [b'x'; 4096];
    for _ in 0..HUGE / piece.len() {
        stream.write_all(&piece).await?;
        stream.flush().await?;
        script.lock().expect("a lock").written += piece.len();
    }
    Ok(())
}

/// Waits for the caller to hang up.
async fn gone(stream: &mut (impl AsyncRead + Unpin)) {
    while let Ok(1..) = stream.read(&mut [0; 64]).await {}
}
