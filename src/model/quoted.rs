//! A JSON string as it stands on the wire.

use bytes::Bytes;

/// A JSON string literal, quotes and escapes included.
///
/// A publisher's `data` and event name go from the request into every frame in this form, so
/// that nothing is decoded and encoded again on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quoted(Bytes);

impl Quoted {
    /// Quotes `text`.
    pub fn from_text(text: &str) -> Self {
        let mut out = Vec::with_capacity(text.len() + 2);
        push_quoted(&mut out, text);
        Self(out.into())
    }

    /// Takes a literal that a JSON parser has already accepted as a value; `None` when that
    /// value is not a string.
    pub fn from_valid_json(literal: Bytes) -> Option<Self> {
        (literal.len() >= 2 && literal[0] == b'"').then_some(Self(literal))
    }

    /// The literal.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// A copy that does not keep the buffer alive which this literal was cut from.
    pub fn detached(&self) -> Self {
        Self(Bytes::copy_from_slice(&self.0))
    }

    /// Bytes of the decoded string in UTF-8; a lone surrogate counts as three.
    pub fn decoded_len(&self) -> usize {
        let inner = &self.0[1..self.0.len() - 1];
        match memchr::memchr(b'\\', inner) {
            None => inner.len(),
            Some(first) => first + escaped_len(&inner[first..]),
        }
    }
}

fn escaped_len(mut rest: &[u8]) -> usize {
    let mut len = 0;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        len += at;
        rest = &rest[at..];
        let escape = if rest.get(1) == Some(&b'u') { 6 } else { 2 };
        let (bytes, used) = match (escape, hex4(rest)) {
            (6, Some(high @ 0xd800..=0xdbff)) => match rest.get(6..).and_then(hex4) {
                Some(0xdc00..=0xdfff) if high < 0xdc00 => (4, 12),
                _ => (3, 6),
            },
            (6, Some(unit)) => (char::from_u32(unit).map_or(3, char::len_utf8), 6),
            _ => (1, escape),
        };
        len += bytes;
        rest = rest.get(used..).unwrap_or_default();
    }
    len + rest.len()
}

/// Appends the literal with U+FFFD for each lone surrogate: JSON's grammar has them, but few parsers
/// outside of JavaScript take them.
pub fn push_without_lone_surrogates(out: &mut Vec<u8>, quoted: &Quoted) {
    let mut rest = quoted.as_bytes();
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        rest = &rest[at..];
        let used = match hex4(rest) {
            Some(high @ 0xd800..=0xdfff) => match rest.get(6..).and_then(hex4) {
                Some(0xdc00..=0xdfff) if high < 0xdc00 => 12,
                _ => {
                    out.extend_from_slice(b"\\ufffd");
                    rest = &rest[6..];
                    continue;
                }
            },
            // Whatever is escaped, the backslash of another escape is not to be taken for one.
            _ => 2,
        };
        let (escape, after) = rest.split_at(used.min(rest.len()));
        out.extend_from_slice(escape);
        rest = after;
    }
    out.extend_from_slice(rest);
}

/// The code unit of a leading `\uXXXX`.
fn hex4(text: &[u8]) -> Option<u32> {
    let digits = text.strip_prefix(b"\\u")?.get(..4)?;
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Appends `text` as a JSON string literal.
pub fn push_quoted(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    push_escaped(out, text.as_bytes());
    out.push(b'"');
}

/// Appends UTF-8 `text` as it stands inside a JSON string literal.
pub fn push_escaped(out: &mut Vec<u8>, text: &[u8]) {
    let mut clean_from = 0;
    for (i, &byte) in text.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&text[clean_from..i]);
        clean_from = i + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                const DIGITS: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.push(DIGITS[usize::from(byte >> 4)]);
                out.push(DIGITS[usize::from(byte & 15)]);
            }
        }
    }
    out.extend_from_slice(&text[clean_from..]);
}

/// Appends valid JSON without the white space between its tokens.
pub fn push_compact(out: &mut Vec<u8>, json: &str) {
    let mut in_string = false;
    let mut escaped = false;
    for &byte in json.as_bytes() {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else if byte.is_ascii_whitespace() {
            continue;
        } else {
            in_string = byte == b'"';
        }
        out.push(byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_like_the_json_library() {
        for text in ["", "plain", "a\"b\\c", "\n\r\t\u{0}\u{1f}", "ä😀", "\u{7f}"] {
            let quoted = Quoted::from_text(text);
            let decoded: String = serde_json::from_slice(quoted.as_bytes()).expect("valid JSON");
            assert_eq!(decoded, text);
            assert_eq!(quoted.decoded_len(), text.len(), "{text:?}");
        }
    }

    #[test]
    fn counts_decoded_bytes_whatever_the_escapes() {
        for literal in [r#""\u00e4""#, r#""\ud83d\ude00x""#, r#""a\/b\b\f\\""#, r#""\u0041\u20ac""#] {
            let decoded: String = serde_json::from_str(literal).expect("valid JSON");
            let quoted = Quoted::from_valid_json(Bytes::from(literal)).expect("a string");
            assert_eq!(quoted.decoded_len(), decoded.len(), "{literal}");
        }
        let lone = Quoted::from_valid_json(Bytes::from(r#""\ud83dx""#)).expect("a string");
        assert_eq!(lone.decoded_len(), 4);
    }

    #[test]
    fn lone_surrogates_are_replaced_and_nothing_else() {
        for (literal, written) in [
            (r#""\ud800""#, r#""\ufffd""#),
            (r#""a\uDFFFb\ud83d""#, r#""a\ufffdb\ufffd""#),
            (r#""\ud800\ud83d\ude00""#, r#""\ufffd\ud83d\ude00""#),
            (r#""\ude00\ud83d""#, r#""\ufffd\ufffd""#),
            (r#""\ud83d\u0041\ud83dx""#, r#""\ufffd\u0041\ufffdx""#),
            (r#""\\ud800\\\ud800\"\/ä\u00e4""#, r#""\\ud800\\\ufffd\"\/ä\u00e4""#),
            (r#""plain""#, r#""plain""#),
            (r#""""#, r#""""#),
        ] {
            let quoted = Quoted::from_valid_json(Bytes::from(literal)).expect("a string");
            let mut out = Vec::new();
            push_without_lone_surrogates(&mut out, &quoted);
            assert_eq!(String::from_utf8_lossy(&out), written, "{literal}");
            assert!(serde_json::from_slice::<String>(&out).is_ok(), "{literal}");
        }
    }

    #[test]
    fn only_strings_are_quoted() {
        for other in ["1", "null", "[\"a\"]", "{}"] {
            assert_eq!(Quoted::from_valid_json(Bytes::from(other)), None, "{other}");
        }
    }

    #[test]
    fn compacts_outside_strings_only() {
        let mut out = Vec::new();
        push_compact(&mut out, "{ \"a b\" : [ 1 , \"\\\" x\" ],\n\"c\":1.50 }");
        assert_eq!(String::from_utf8_lossy(&out), "{\"a b\":[1,\"\\\" x\"],\"c\":1.50}");
    }
}
