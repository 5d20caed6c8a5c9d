//! A connection to the server's API: one request at a time, kept alive when the server does.

use std::rc::Rc;

use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::failure::Failure;
use super::socket::{PATIENCE, connect};
use super::target::Target;

/// With room left after an answer, one read is known to have taken all of it.
const USUAL_ANSWER: usize = 4096;
/// Longest answer.
const MAX_ANSWER: usize = 4 << 20;
/// How much of a refusal is told.
const TOLD: usize = 200;

/// A connection to the API.
#[derive(Debug)]
pub(super) struct Api {
    target: Rc<Target>,
    stream: Option<TcpStream>,
    input: Vec<u8>,
    connections: u64,
}

impl Api {
    /// Nothing is connected before the first request.
    pub(super) fn new(target: &Rc<Target>) -> Self {
        Self {
            target: Rc::clone(target),
            stream: None,
            input: Vec::with_capacity(USUAL_ANSWER),
            connections: 0,
        }
    }

    /// Connections so far: one, unless the server closes them.
    pub(super) fn connections(&self) -> u64 {
        self.connections
    }

    /// Connects if there is no connection that can still be used.
    ///
    /// # Errors
    /// No connection can be had.
    pub(super) async fn ready(&mut self) -> Result<(), Failure> {
        // A server may have closed it meanwhile.
        let unasked = self.stream.as_ref().map(|stream| stream.try_read(&mut [0]));
        if !matches!(unasked, Some(Err(error)) if error.kind() == std::io::ErrorKind::WouldBlock) {
            self.stream = Some(connect(self.target.address, None).await?);
            self.connections += 1;
        }
        Ok(())
    }

    /// Posts a body.
    ///
    /// # Errors
    /// The answer is not 200, or there is none.
    pub(super) async fn post(&mut self, what: &str, body: &str) -> Result<(), Failure> {
        let request = self.target.request(what, Some(body));
        self.exchange(&request).await
    }

    /// Asks for something.
    ///
    /// # Errors
    /// The answer is not 200, or there is none.
    pub(super) async fn get(&mut self, what: &str) -> Result<(), Failure> {
        let request = self.target.request(what, None);
        self.exchange(&request).await
    }

    async fn exchange(&mut self, request: &str) -> Result<(), Failure> {
        self.ready().await?;
        // Whatever ends this early leaves no connection behind on which an old answer could arrive.
        let Some(mut stream) = self.stream.take() else { return Err(Failure::TimedOut("a connection")) };
        self.input.clear();
        let work = timeout(PATIENCE, answer(&mut stream, request, &mut self.input));
        let answer = work.await.map_err(|_| Failure::TimedOut("an answer"))??;
        if !answer.closes {
            self.stream = Some(stream);
        }
        if answer.status == 200 {
            return Ok(());
        }
        let body = String::from_utf8_lossy(&self.input[answer.body..answer.end]);
        let line = body.lines().next().unwrap_or_default().chars().take(TOLD).collect();
        Err(Failure::Status(answer.status, line))
    }
}

async fn answer(stream: &mut TcpStream, request: &str, input: &mut Vec<u8>) -> Result<Answer, Failure> {
    let closed = |error: std::io::Error| Failure::Closed(format!(": {error}"));
    stream.write_all(request.as_bytes()).await.map_err(closed)?;
    loop {
        let read = stream.read_buf(input).await.map_err(closed)?;
        if let Some(answer) = Answer::parse(input, read == 0) {
            return Ok(answer);
        }
        if read == 0 || input.len() > MAX_ANSWER {
            return Err(Failure::Closed(" before it answered a request".to_owned()));
        }
    }
}

/// What of an answer matters.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    closes: bool,
    body: usize,
    end: usize,
}

impl Answer {
    /// Reads an answer once all of it is there.
    fn parse(input: &[u8], ended: bool) -> Option<Self> {
        let body = memmem::find(input, b"\r\n\r\n")? + 4;
        let head = std::str::from_utf8(&input[..body]).ok()?;
        let status = head.get(9..12)?.parse().ok()?;
        let header = |name: &str| {
            let mut lines = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
            lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
        };
        let closes = ended || header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        let end = match header("content-length") {
            Some(length) => body.checked_add(length.parse().ok()?)?,
            None if header("transfer-encoding").is_some() => {
                memmem::find(&input[body..], b"0\r\n\r\n")? + body + 5
            }
            None if closes && !ended => return None,
            None => input.len(),
        };
        (end <= input.len()).then_some(Self { status, closes, body, end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_end_where_they_say() {
        let parse = |text: &str, ended| {
            Answer::parse(text.as_bytes(), ended)
                .map(|a| (a.status, a.closes, text[a.body..a.end].to_owned()))
        };
        let whole = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(parse(whole, false), Some((200, false, "{}".to_owned())));
        for cut in 0..whole.len() {
            assert_eq!(parse(&whole[..cut], false), None);
        }
        let closing = "HTTP/1.1 401 No\r\nconnection: Close\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(parse(closing, false), Some((401, true, String::new())));
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
        assert_eq!(parse(chunked, false).map(|a| a.0), Some(200));
        assert_eq!(parse(&chunked[..chunked.len() - 1], false), None);
        let open = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{";
        assert_eq!(parse(open, false), None);
        assert_eq!(parse(open, true), Some((200, true, "{".to_owned())));
    }
}
