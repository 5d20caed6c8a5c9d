//! Signed requests, and a way to break each part of them.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::sign::{APP, Credentials, md5_hex};
use super::{Http, Reply, in_time};

/// Seconds since 1970.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    i64::try_from(since.as_secs()).expect("a near future")
}

/// A request that is signed when it is sent.
#[derive(Clone)]
pub struct Signed {
    pub method: String,
    path: String,
    sent_path: Option<String>,
    sent_query: Option<String>,
    sent_body: Option<Vec<u8>>,
    params: Vec<(String, String)>,
    signature: Option<String>,
    secret: &'static str,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Signed {
    /// A GET of this path, signed by the first app.
    pub fn get(path: &str) -> Self {
        Self::new("GET", path, APP, b"")
    }

    /// A POST of this JSON to this path, signed by the first app.
    pub fn post(path: &str, body: &Value) -> Self {
        Self::new("POST", path, APP, body.to_string().as_bytes())
    }

    /// A request with everything a proper one has.
    pub fn new(method: &str, path: &str, by: Credentials, body: &[u8]) -> Self {
        let mut params = vec![
            ("auth_key".to_owned(), by.key.to_owned()),
            ("auth_timestamp".to_owned(), now().to_string()),
            ("auth_version".to_owned(), "1.0".to_owned()),
        ];
        let mut headers = Vec::new();
        if !body.is_empty() {
            params.push(("body_md5".to_owned(), md5_hex(body)));
            headers.push(("Content-Type".to_owned(), "application/json".to_owned()));
        }
        Self {
            method: method.to_owned(),
            path: path.to_owned(),
            sent_path: None,
            sent_query: None,
            sent_body: None,
            params,
            signature: None,
            secret: by.secret,
            headers,
            body: body.to_vec(),
        }
    }

    /// Adds a parameter, also when there is one of this name.
    pub fn param(mut self, name: &str, value: &str) -> Self {
        self.params.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Gives a parameter another value, which is then signed.
    pub fn with(self, name: &str, value: &str) -> Self {
        self.without(name).param(name, value)
    }

    /// Leaves a parameter out, and signs the rest.
    pub fn without(mut self, name: &str) -> Self {
        self.params.retain(|(key, _)| key != name);
        self
    }

    /// Sends this instead of the right signature.
    pub fn signature(mut self, signature: &str) -> Self {
        self.signature = Some(signature.to_owned());
        self
    }

    /// Sends another path than the one that is signed.
    pub fn sends_path(mut self, path: &str) -> Self {
        self.sent_path = Some(path.to_owned());
        self
    }

    /// Sends the query in this form; `{signature}` is replaced by the signature.
    pub fn sends_query(mut self, query: impl Into<String>) -> Self {
        self.sent_query = Some(query.into());
        self
    }

    /// Sends another body than the one that is signed.
    pub fn sends_body(mut self, body: &[u8]) -> Self {
        self.sent_body = Some(body.to_vec());
        self
    }

    /// Sets a header, or removes it.
    pub fn header(mut self, name: &str, value: Option<&str>) -> Self {
        self.headers.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
        self.headers.extend(value.map(|value| (name.to_owned(), value.to_owned())));
        self
    }

    /// A parameter's value.
    pub fn value(&self, name: &str) -> &str {
        let found = self.params.iter().find(|(key, _)| key == name);
        &found.expect("a parameter of the request").1
    }

    /// The text that is signed.
    pub fn signed_text(&self) -> String {
        let mut params: Vec<_> =
            self.params.iter().map(|(key, value)| (key.to_lowercase(), value.as_str())).collect();
        params.sort_by(|a, b| a.0.cmp(&b.0));
        let params: Vec<_> = params.iter().map(|(key, value)| format!("{key}={value}")).collect();
        format!("{}\n{}\n{}", self.method, self.path, params.join("&"))
    }

    /// The signature.
    pub fn expected_signature(&self) -> String {
        Credentials { secret: self.secret, ..APP }.sign(&self.signed_text())
    }

    /// The query as it is sent.
    pub fn query(&self) -> String {
        let signature = self.signature.clone().unwrap_or_else(|| self.expected_signature());
        if let Some(query) = &self.sent_query {
            return query.replace("{signature}", &signature);
        }
        let mut pairs: Vec<_> =
            self.params.iter().map(|(key, value)| format!("{}={}", encoded(key), encoded(value))).collect();
        pairs.push(format!("auth_signature={}", encoded(&signature)));
        pairs.join("&")
    }

    /// The request line and headers, announcing a body of this length.
    pub fn head(&self, length: u64) -> Vec<u8> {
        let path = self.sent_path.as_ref().unwrap_or(&self.path);
        let mut head = format!("{} {path}?{} HTTP/1.1\r\nHost: broker.test\r\n", self.method, self.query());
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if length > 0 || self.method == "POST" {
            head += &format!("Content-Length: {length}\r\n");
        }
        head += "\r\n";
        head.into_bytes()
    }

    /// The whole request.
    pub fn bytes(&self) -> Vec<u8> {
        let body = self.sent_body.as_ref().unwrap_or(&self.body);
        let mut bytes = self.head(body.len() as u64);
        bytes.extend_from_slice(body);
        bytes
    }
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// A backend of one app on one kept-alive connection.
pub struct Api {
    address: SocketAddr,
    by: Credentials,
    http: Option<Http>,
}

impl Api {
    /// A backend that will connect when it has something to say.
    pub fn new(address: SocketAddr, by: Credentials) -> Self {
        Self { address, by, http: None }
    }

    /// Sends a request and returns the reply.
    pub async fn send(&mut self, request: &Signed) -> Reply {
        let mut http = match self.http.take() {
            Some(http) => http,
            None => {
                Http::over(in_time("a connection", TcpStream::connect(self.address)).await.expect("open"))
            }
        };
        http.write(&request.bytes()).await;
        let reply = match request.method == "HEAD" {
            true => http.reply_to_head().await,
            false => http.reply().await,
        };
        let reply = reply.expect("the request is answered");
        if !reply.closes() {
            self.http = Some(http);
        }
        reply
    }

    /// GETs a path below the app.
    pub async fn get(&mut self, path: &str, params: &[(&str, &str)]) -> Reply {
        let request = Signed::new("GET", &format!("/apps/{}{path}", self.by.id), self.by, b"");
        let request = params.iter().fold(request, |request, (name, value)| request.param(name, value));
        self.send(&request).await
    }

    /// POSTs JSON to a path below the app.
    pub async fn post(&mut self, path: &str, body: &Value) -> Reply {
        let body = body.to_string();
        let request = Signed::new("POST", &format!("/apps/{}{path}", self.by.id), self.by, body.as_bytes());
        self.send(&request).await
    }

    /// Publishes an event to one channel, and is told `{}`.
    pub async fn publish(&mut self, channel: &str, name: &str, data: &str) {
        let reply = self.post("/events", &json!({"name": name, "channels": [channel], "data": data})).await;
        assert_eq!(reply.expect_ok(), json!({}));
        assert_eq!(reply.body, "{}");
    }

    /// The occupied channels with nothing but their names.
    pub async fn occupied(&mut self) -> Vec<String> {
        let listed = self.get("/channels", &[]).await.expect_ok();
        let channels = listed["channels"].as_object().expect("an object of channels");
        assert!(channels.values().all(|info| *info == json!({})), "in {listed}");
        channels.keys().cloned().collect()
    }

    /// What a cache channel keeps, if anything.
    pub async fn cached(&mut self, channel: &str) -> Option<String> {
        let reply = self.get(&format!("/channels/{channel}"), &[("info", "cache")]).await;
        reply.expect_ok()["cache"]["data"].as_str().map(str::to_owned)
    }

    /// How many sockets are subscribed to a channel.
    pub async fn subscribers(&mut self, channel: &str) -> u64 {
        let reply = self.get(&format!("/channels/{channel}"), &[("info", "subscription_count")]).await;
        reply.expect_ok()["subscription_count"].as_u64().expect("a count")
    }
}
