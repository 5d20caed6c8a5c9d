//! The little of Redis's protocol that a test speaks by itself.

use std::io::{Error, Result};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    Nothing,
    Number(i64),
    Text(String),
    List(Vec<Said>),
    Error(String),
}

impl Said {
    /// The text, or the number as one.
    pub fn text(&self) -> String {
        match self {
            Self::Text(text) | Self::Error(text) => text.clone(),
            Self::Number(number) => number.to_string(),
            Self::Nothing | Self::List(_) => panic!("no text: {self:?}"),
        }
    }

    /// All texts in it.
    pub fn texts(&self) -> Vec<String> {
        match self {
            Self::List(list) => list.iter().flat_map(Self::texts).collect(),
            Self::Nothing => Vec::new(),
            one => vec![one.text()],
        }
    }

    /// Whether one of its texts has this in it.
    pub fn holds(&self, part: &str) -> bool {
        self.texts().iter().any(|text| text.contains(part))
    }
}

/// Sends a command and reads its answer.
pub async fn ask(stream: &mut TcpStream, words: &[&str]) -> Result<Said> {
    let mut command = format!("*{}\r\n", words.len());
    for word in words {
        command += &format!("${}\r\n{word}\r\n", word.len());
    }
    stream.write_all(command.as_bytes()).await?;
    read(&mut BufReader::new(stream)).await
}

async fn read(stream: &mut BufReader<&mut TcpStream>) -> Result<Said> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Err(Error::other("the end"));
    }
    let (kind, rest) = line.trim_end().split_at_checked(1).ok_or_else(|| Error::other("no answer"))?;
    let number = || rest.parse::<i64>().map_err(Error::other);
    Ok(match kind {
        "+" => Said::Text(rest.to_owned()),
        "-" => Said::Error(rest.to_owned()),
        ":" => Said::Number(number()?),
        "$" => match usize::try_from(number()?) {
            Err(_) => Said::Nothing,
            Ok(length) => {
                let mut text = vec![0; length + 2];
                stream.read_exact(&mut text).await?;
                Said::Text(String::from_utf8_lossy(&text[..length]).into_owned())
            }
        },
        "*" => {
            let mut list = Vec::new();
            for _ in 0..number()? {
                list.push(Box::pin(read(stream)).await?);
            }
            Said::List(list)
        }
        _ => return Err(Error::other(format!("no answer: {line}"))),
    })
}
