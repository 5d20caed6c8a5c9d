//! A very small HTTP/1.1 client: what it sends is up to the test, byte by byte.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::in_time;

/// A request without a body on a connection of its own.
pub async fn ask(address: SocketAddr, method: &str, path: &str) -> Reply {
    Http::to(address).await.ask(method, path).await
}

/// One HTTP connection.
pub struct Http {
    pub reader: BufReader<OwnedReadHalf>,
    pub writer: OwnedWriteHalf,
}

/// One HTTP reply.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Http {
    /// Speaks HTTP over this connection.
    pub fn over(stream: TcpStream) -> Self {
        let (reader, writer) = stream.into_split();
        Self { reader: BufReader::new(reader), writer }
    }

    /// A connection to this address.
    pub async fn to(address: SocketAddr) -> Self {
        Self::over(in_time("a TCP connection", TcpStream::connect(address)).await.expect("open"))
    }

    /// Sends a request without a body, and waits for the reply.
    pub async fn ask(&mut self, method: &str, path: &str) -> Reply {
        self.write(format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await;
        self.reply().await.expect("a reply")
    }

    /// Sends bytes.
    pub async fn write(&mut self, bytes: &[u8]) {
        in_time("sent bytes", self.writer.write_all(bytes)).await.expect("the connection takes bytes");
    }

    /// The next reply, or none when the connection ends first.
    pub async fn reply(&mut self) -> Option<Reply> {
        in_time("a reply", read_reply(&mut self.reader, true)).await
    }

    /// The next reply to a HEAD request.
    pub async fn reply_to_head(&mut self) -> Option<Reply> {
        in_time("a reply", read_reply(&mut self.reader, false)).await
    }

    /// Waits for the end of the connection, and returns what came before it.
    pub async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // A reset is an end as well.
        let _ = in_time("the end of the connection", self.reader.read_to_end(&mut rest)).await;
        rest
    }

    /// Sends all requests, many at a time, and returns their replies.
    pub async fn pipeline(&mut self, requests: &[Vec<u8>]) -> Vec<Reply> {
        const AT_A_TIME: usize = 100;
        let mut replies = Vec::new();
        for together in requests.chunks(AT_A_TIME) {
            let Self { reader, writer } = self;
            let bytes = together.concat();
            let sending = async {
                in_time("sent bytes", writer.write_all(&bytes)).await.expect("the connection takes bytes");
            };
            let receiving = async {
                for _ in together {
                    let reply = in_time("a pipelined reply", read_reply(reader, true)).await;
                    replies.push(reply.expect("every request is answered"));
                }
            };
            tokio::join!(sending, receiving);
        }
        replies
    }

    /// Sends this piece again and again until the connection fails; returns the reply, if there was
    /// one, and how many bytes were taken.
    pub async fn pour(&mut self, piece: &[u8]) -> (Option<Reply>, usize) {
        let Self { reader, writer } = self;
        let pouring = async {
            let mut taken = 0;
            while let Ok(length @ 1..) = writer.write(piece).await {
                taken += length;
            }
            taken
        };
        let answer = async {
            let reply = read_reply(reader, true).await;
            let _ = reader.read_to_end(&mut Vec::new()).await;
            reply
        };
        in_time("the end of the connection", async { tokio::join!(answer, pouring) }).await
    }
}

impl Reply {
    /// A header by its name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Whether the broker ends the connection after this reply.
    pub fn closes(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    /// The reply is a success, and this its JSON object.
    pub fn expect_ok(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        let value: Value = serde_json::from_str(&self.body).expect("a JSON body");
        assert!(value.is_object(), "{self:?}");
        value
    }

    /// The reply is a refusal: one line of plain text.
    pub fn expect_error(&self, status: u16, fragment: &str) {
        assert_eq!(self.status, status, "{self:?}");
        let kind = self.header("content-type").unwrap_or_default();
        assert!(kind.starts_with("text/plain"), "{self:?}");
        assert_eq!(self.body.find('\n'), Some(self.body.len() - 1), "one line, ended: {self:?}");
        assert!(self.body.contains(fragment), "“{fragment}” is missing in {self:?}");
    }
}

async fn read_reply(reader: &mut BufReader<OwnedReadHalf>, has_body: bool) -> Option<Reply> {
    let status_line = read_line(reader).await?;
    let status = status_line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.unwrap_or_else(|| panic!("not a status line: {status_line}"));
    let mut headers = Vec::new();
    loop {
        let line = read_line(reader).await?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut reply = Reply { status, headers, body: String::new() };
    if has_body && status != 204 && status >= 200 {
        reply.body = String::from_utf8(read_body(reader, &reply).await).expect("a UTF-8 body");
    }
    Some(reply)
}

async fn read_line(reader: &mut BufReader<OwnedReadHalf>) -> Option<String> {
    let mut line = String::new();
    match reader.read_line(&mut line).await {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(line.trim_end_matches(['\r', '\n']).to_owned()),
    }
}

async fn read_body(reader: &mut BufReader<OwnedReadHalf>, reply: &Reply) -> Vec<u8> {
    let mut body = Vec::new();
    if reply.header("transfer-encoding") == Some("chunked") {
        while let Some(size) = read_line(reader).await {
            let size = usize::from_str_radix(&size, 16).expect("a chunk size");
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk).await.expect("a whole chunk");
            body.extend_from_slice(&chunk[..size]);
            if size == 0 {
                break;
            }
        }
        return body;
    }
    match reply.header("content-length") {
        Some(length) => {
            body.resize(length.parse().expect("a length"), 0);
            reader.read_exact(&mut body).await.expect("a whole body");
        }
        None => {
            let _ = reader.read_to_end(&mut body).await;
        }
    }
    body
}
