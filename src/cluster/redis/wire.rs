//! RESP, the protocol of Redis, in its third version: commands go out as arrays, replies come in as
//! values, and pushes in between. Every size is bounded; the bounds' end is an error.

use bytes::{Buf, Bytes, BytesMut};

/// Bytes of the longest single value.
const LONGEST: usize = 64 << 20;
/// Bytes of the longest line: lengths, numbers, errors.
const LONGEST_LINE: usize = 64 << 10;
/// Values in one reply.
const MOST: usize = 16 << 20;
/// How deep values hold values.
const DEEPEST: usize = 8;

/// What Redis says.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Reply {
    Text(Bytes),
    Number(i64),
    Nothing,
    List(Vec<Reply>),
    /// Belongs to no command.
    Push(Vec<Reply>),
    Error(String),
}

/// What came is not RESP, or too much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it answers what this node does not understand")]
pub(super) struct Garbled;

impl Reply {
    /// Its bytes; nothing where it has none.
    pub(super) fn bytes(&self) -> Bytes {
        match self {
            Self::Text(bytes) => bytes.clone(),
            _ => Bytes::new(),
        }
    }

    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// As a number, also where it is written as text.
    pub(super) fn number(&self) -> Option<i64> {
        match self {
            Self::Number(number) => Some(*number),
            other => other.text()?.parse().ok(),
        }
    }

    /// As a count, see [`Self::number`].
    pub(super) fn count(&self) -> Option<usize> {
        usize::try_from(self.number()?).ok()
    }

    pub(super) fn list(&self) -> Option<&[Reply]> {
        match self {
            Self::List(items) => Some(items),
            _ => None,
        }
    }
}

/// Appends a command.
pub(super) fn push_command(out: &mut Vec<u8>, parts: &[&[u8]]) {
    let mut digits = itoa::Buffer::new();
    let mut head = |out: &mut Vec<u8>, kind: u8, len: usize| {
        out.push(kind);
        out.extend_from_slice(digits.format(len).as_bytes());
        out.extend_from_slice(b"\r\n");
    };
    head(out, b'*', parts.len());
    for part in parts {
        head(out, b'$', part.len());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
}

/// Takes replies out of what was read, however it is cut.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    open: Vec<Open>,
    values: usize,
}

/// A list that is not complete.
#[derive(Debug)]
struct Open {
    push: bool,
    missing: usize,
    items: Vec<Reply>,
}

enum Element {
    Whole(Reply),
    Begins(Open),
}

impl Decoder {
    /// The next reply, or nothing until there is more to read.
    pub(super) fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Reply>, Garbled> {
        loop {
            let Some(element) = element(buffer)? else { return Ok(None) };
            self.values += 1;
            if self.values > MOST {
                return Err(Garbled);
            }
            let mut done = match element {
                Element::Whole(reply) => reply,
                Element::Begins(open) if open.missing == 0 => open.finish(),
                Element::Begins(_) if self.open.len() >= DEEPEST => return Err(Garbled),
                Element::Begins(open) => {
                    self.open.push(open);
                    continue;
                }
            };
            loop {
                let Some(mut open) = self.open.pop() else {
                    self.values = 0;
                    return Ok(Some(done));
                };
                open.items.push(done);
                open.missing -= 1;
                if open.missing > 0 {
                    self.open.push(open);
                    break;
                }
                done = open.finish();
            }
        }
    }
}

impl Open {
    fn finish(self) -> Reply {
        if self.push { Reply::Push(self.items) } else { Reply::List(self.items) }
    }
}

fn element(buffer: &mut BytesMut) -> Result<Option<Element>, Garbled> {
    let Some(end) = memchr::memchr(b'\n', buffer) else {
        return if buffer.len() > LONGEST_LINE { Err(Garbled) } else { Ok(None) };
    };
    if !(2..=LONGEST_LINE).contains(&end) || buffer[end - 1] != b'\r' {
        return Err(Garbled);
    }
    let (kind, line) = (buffer[0], &buffer[1..end - 1]);
    let whole = match kind {
        b'$' | b'=' | b'!' => return bulk(buffer, end + 1),
        b'*' | b'%' | b'~' | b'>' => {
            let begins = list(kind, line)?;
            buffer.advance(end + 1);
            return Ok(Some(begins));
        }
        b'+' | b',' | b'(' => Reply::Text(Bytes::copy_from_slice(line)),
        b'#' => Reply::Number(i64::from(line == b"t")),
        b':' => Reply::Number(number(line).ok_or(Garbled)?),
        b'-' => Reply::Error(String::from_utf8_lossy(line).into_owned()),
        b'_' => Reply::Nothing,
        _ => return Err(Garbled),
    };
    buffer.advance(end + 1);
    Ok(Some(Element::Whole(whole)))
}

fn list(kind: u8, line: &[u8]) -> Result<Element, Garbled> {
    let each = if kind == b'%' { 2 } else { 1 };
    match number(line).ok_or(Garbled)? {
        -1 => Ok(Element::Whole(Reply::Nothing)),
        len => {
            let missing = usize::try_from(len).ok().filter(|&len| len <= MOST).ok_or(Garbled)? * each;
            let items = Vec::with_capacity(missing.min(256));
            Ok(Element::Begins(Open { push: kind == b'>', missing, items }))
        }
    }
}

fn bulk(buffer: &mut BytesMut, begin: usize) -> Result<Option<Element>, Garbled> {
    let kind = buffer[0];
    let len = match number(&buffer[1..begin - 2]).ok_or(Garbled)? {
        -1 => {
            buffer.advance(begin);
            return Ok(Some(Element::Whole(Reply::Nothing)));
        }
        len => usize::try_from(len).ok().filter(|&len| len <= LONGEST).ok_or(Garbled)?,
    };
    let end = begin + len + 2;
    if buffer.len() < end {
        buffer.reserve(end - buffer.len());
        return Ok(None);
    }
    if &buffer[end - 2..end] != b"\r\n" {
        return Err(Garbled);
    }
    buffer.advance(begin);
    let mut bytes = buffer.split_to(len).freeze();
    buffer.advance(2);
    if kind == b'=' {
        // Three characters and a colon say what kind of text follows.
        bytes.advance(bytes.len().min(4));
    }
    let reply = match kind {
        b'!' => Reply::Error(String::from_utf8_lossy(&bytes).into_owned()),
        _ => Reply::Text(bytes),
    };
    Ok(Some(Element::Whole(reply)))
}

fn number(digits: &[u8]) -> Option<i64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Takes `length:bytes` apart, as scripts write what they publish.
#[derive(Debug)]
pub(super) struct Fields(pub(super) Bytes);

impl Fields {
    pub(super) fn bytes(&mut self) -> Option<Bytes> {
        let colon = memchr::memchr(b':', &self.0[..self.0.len().min(20)])?;
        let len = usize::try_from(number(&self.0[..colon])?).ok()?;
        let end = (colon + 1).checked_add(len).filter(|&end| end <= self.0.len())?;
        let field = self.0.slice(colon + 1..end);
        self.0.advance(end);
        Some(field)
    }

    pub(super) fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }

    pub(super) fn count(&mut self) -> Option<usize> {
        self.text()?.parse().ok()
    }

    pub(super) fn hex(&mut self) -> Option<u64> {
        u64::from_str_radix(&self.text()?, 16).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &[u8] = b"+OK\r\n-ERR x\r\n:-5\r\n$3\r\na\nb\r\n$0\r\n\r\n$-1\r\n_\r\n*-1\r\n*0\r\n#t\r\n,1.5\r\n=6\r\ntxt:ab\r\n\
        *2\r\n*1\r\n:1\r\n$1\r\nx\r\n%1\r\n+k\r\n:2\r\n>2\r\n+message\r\n$1\r\ny\r\n!3\r\nE x\r\n";

    fn decode(bytes: &[u8], step: usize) -> Vec<Reply> {
        let (mut decoder, mut buffer, mut out) = (Decoder::default(), BytesMut::new(), Vec::new());
        for part in bytes.chunks(step) {
            buffer.extend_from_slice(part);
            while let Some(reply) = decoder.next(&mut buffer).expect("valid") {
                out.push(reply);
            }
        }
        assert!(buffer.is_empty() && decoder.open.is_empty());
        out
    }

    #[test]
    fn however_replies_are_cut_they_are_the_same() {
        let text = |text: &'static str| Reply::Text(text.into());
        let all = decode(ALL, ALL.len());
        assert_eq!(all[..4], [text("OK"), Reply::Error("ERR x".into()), Reply::Number(-5), text("a\nb")]);
        assert_eq!(all[4..8], [text(""), Reply::Nothing, Reply::Nothing, Reply::Nothing]);
        assert_eq!(all[8..12], [Reply::List(vec![]), Reply::Number(1), text("1.5"), text("ab")]);
        assert_eq!(all[12], Reply::List(vec![Reply::List(vec![Reply::Number(1)]), text("x")]));
        assert_eq!(all[14..], [Reply::Push(vec![text("message"), text("y")]), Reply::Error("E x".into())]);
        for step in 1..9 {
            assert_eq!(decode(ALL, step), all);
        }
    }

    #[test]
    fn what_is_garbled_is_an_error_and_never_more() {
        let deep = "*1\r\n".repeat(9);
        for bad in ["?\r\n", "$x\r\n", "$-2\r\n", "*99999999999\r\n", "$99999999999\r\n", "\n", "+a\n", &deep]
        {
            let mut buffer = BytesMut::from(bad);
            assert_eq!(Decoder::default().next(&mut buffer), Err(Garbled), "{bad}");
        }
        let mut endless = BytesMut::from(&[b'+'; LONGEST_LINE + 1][..]);
        assert_eq!(Decoder::default().next(&mut endless), Err(Garbled));
        for at in 0..ALL.len() {
            for byte in 0..=255 {
                let mut bytes = ALL.to_vec();
                bytes[at] = byte;
                let (mut decoder, mut buffer) = (Decoder::default(), BytesMut::from(&bytes[..]));
                while let Ok(Some(_)) = decoder.next(&mut buffer) {}
            }
        }
    }

    #[test]
    fn fields_are_taken_apart() {
        let mut fields = Fields(Bytes::from("2:a:0:3:1f0x"));
        assert_eq!((fields.text().as_deref(), fields.text().as_deref()), (Some("a:"), Some("")));
        assert_eq!((fields.hex(), fields.bytes()), (Some(0x1f0), None));
        for bad in ["", ":", "5:abcd", "-1:", "99999999999999999999:", "x:"] {
            assert_eq!(Fields(Bytes::from(bad)).bytes(), None, "{bad}");
        }
    }
}
