//! A WebSocket without manners: frames as bytes, and no answer to anything.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::in_time;

pub const CONTINUATION: u8 = 0x0;
pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xa;
/// The bit that ends a message.
pub const FIN: u8 = 0x80;

/// A frame as it came.
#[derive(Debug)]
pub struct Frame {
    pub opcode: u8,
    pub payload: Vec<u8>,
}

/// How a connection ended.
#[derive(Debug, PartialEq)]
pub enum End {
    Closed(u16, String),
    Dropped,
}

/// A WebSocket connection of which every byte is ours to choose.
pub struct Raw {
    pub reader: OwnedReadHalf,
    pub writer: OwnedWriteHalf,
}

impl Raw {
    /// Completes the upgrade over this connection.
    pub async fn open(stream: TcpStream, path: &str) -> Self {
        let (reader, writer) = stream.into_split();
        let mut raw = Self { reader, writer };
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: broker.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==\r\n\r\n"
        );
        raw.write(request.as_bytes()).await;
        let head = in_time("the upgrade", raw.read_head()).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "not upgraded: {head}");
        raw
    }

    async fn read_head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.reader.read_u8().await.expect("a whole head"));
        }
        String::from_utf8(head).expect("a readable head")
    }

    /// Sends bytes that need not be a frame.
    pub async fn write(&mut self, bytes: &[u8]) {
        in_time("sent bytes", self.writer.write_all(bytes)).await.expect("the connection takes bytes");
    }

    /// Sends a whole text message.
    pub async fn text(&mut self, text: &str) {
        self.write(&frame(FIN | TEXT, text.as_bytes())).await;
    }

    /// The next frame, or none when the connection is dropped.
    pub async fn frame(&mut self) -> Option<Frame> {
        in_time("a frame", read_frame(&mut self.reader)).await.ok()
    }

    /// Reads on until the connection ends, and returns the text messages that came before.
    pub async fn until_end(&mut self) -> (Vec<String>, End) {
        read_until_end(&mut self.reader).await
    }

    /// Sends bytes that the broker need not take, and reads on until the connection ends.
    pub async fn force(&mut self, bytes: &[u8]) -> (Vec<String>, End) {
        let Self { reader, writer } = self;
        let sending = in_time("bytes sent or refused", writer.write_all(bytes));
        tokio::join!(read_until_end(reader), sending).0
    }
}

async fn read_until_end(reader: &mut OwnedReadHalf) -> (Vec<String>, End) {
    let mut texts = Vec::new();
    while let Ok(frame) = in_time("a frame", read_frame(reader)).await {
        match frame.opcode {
            TEXT => texts.push(String::from_utf8(frame.payload).expect("UTF-8")),
            CLOSE if frame.payload.len() >= 2 => {
                let code = u16::from_be_bytes([frame.payload[0], frame.payload[1]]);
                let reason = String::from_utf8(frame.payload[2..].to_vec()).expect("UTF-8");
                return (texts, End::Closed(code, reason));
            }
            _ => (),
        }
    }
    (texts, End::Dropped)
}

async fn read_frame(reader: &mut OwnedReadHalf) -> std::io::Result<Frame> {
    let first = reader.read_u8().await?;
    assert_eq!(first & FIN, FIN, "the broker sends whole messages");
    let length = match reader.read_u8().await? {
        126 => usize::from(reader.read_u16().await?),
        127 => usize::try_from(reader.read_u64().await?).expect("a length"),
        short => usize::from(short),
    };
    let mut payload = vec![0; length];
    reader.read_exact(&mut payload).await?;
    Ok(Frame { opcode: first & 0x0f, payload })
}

/// A masked frame with this first byte.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [7, 77, 177, 27];
    let mut bytes = header(first, 0x80, payload.len() as u64);
    bytes.extend(MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// A frame as only servers may send them.
pub fn unmasked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(first, 0, payload.len() as u64);
    bytes.extend(payload);
    bytes
}

/// The start of a frame that claims this length.
pub fn header(first: u8, masked: u8, length: u64) -> Vec<u8> {
    let mut bytes = vec![first];
    match length {
        0..=125 => bytes.push(masked | length as u8),
        126..=0xffff => {
            bytes.push(masked | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        _ => {
            bytes.push(masked | 127);
            bytes.extend(length.to_be_bytes());
        }
    }
    bytes
}
