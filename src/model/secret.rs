//! A key's secret, ready to sign and to verify, and never printed.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// An app secret with its HMAC-SHA256 state already keyed.
///
/// Keying costs two of the four SHA-256 blocks of a short signature; a clone of the keyed
/// state saves them on every request.
#[derive(Clone)]
pub struct Secret {
    text: String,
    keyed: Hmac<Sha256>,
}

impl Secret {
    /// Keys a secret. Any length is accepted, as HMAC does.
    pub fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        let keyed = match Hmac::new_from_slice(text.as_bytes()) {
            Ok(keyed) => keyed,
            Err(_) => unreachable!("HMAC takes keys of any length"),
        };
        Self { text, keyed }
    }

    /// The secret itself. Only for comparing configurations; never log it.
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// Whether `given` is this secret. Takes the same time wherever the two differ.
    pub fn is(&self, given: &str) -> bool {
        let mut mine = self.signer();
        mine.update(self.text.as_bytes());
        mine.verify(&self.sign(given.as_bytes()))
    }

    /// Begins a signature over parts that are fed one by one.
    pub fn signer(&self) -> Signer {
        Signer(self.keyed.clone())
    }

    /// The lower-case hex HMAC-SHA256 of `message`.
    pub fn sign(&self, message: &[u8]) -> String {
        let mut signer = self.signer();
        signer.update(message);
        signer.hex()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

/// A signature in the making.
pub struct Signer(Hmac<Sha256>);

impl Signer {
    /// Feeds the next part of the signed string.
    pub fn update(&mut self, part: &[u8]) {
        self.0.update(part);
    }

    /// Whether `given` is exactly the lower-case hex of this signature. Takes the same time
    /// wherever the two differ.
    pub fn verify(self, given: &str) -> bool {
        let mut raw = [0u8; 32];
        decode_lower_hex(given.as_bytes(), &mut raw) && self.0.verify_slice(&raw).is_ok()
    }

    fn hex(self) -> String {
        encode_hex(&self.0.finalize().into_bytes())
    }
}

/// Lower-case hex of `bytes`.
pub fn encode_hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|byte| [hex_digit(byte >> 4), hex_digit(byte & 15)]).map(char::from).collect()
}

/// Whether `text` is the lower-case hex of `bytes`. Not for secrets: it ends at the first difference.
pub fn is_lower_hex_of(text: &str, bytes: &[u8]) -> bool {
    let pairs = text.as_bytes().chunks_exact(2);
    text.len() == bytes.len() * 2
        && pairs.zip(bytes).all(|(pair, byte)| pair == [hex_digit(byte >> 4), hex_digit(byte & 15)])
}

fn hex_digit(nibble: u8) -> u8 {
    if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 }
}

/// Reads exactly `out.len()` bytes of lower-case hex; upper case is refused, since signatures
/// are compared as received.
fn decode_lower_hex(text: &[u8], out: &mut [u8]) -> bool {
    if text.len() != out.len() * 2 {
        return false;
    }
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    for (pair, byte) in text.chunks_exact(2).zip(out) {
        match (digit(pair[0]), digit(pair[1])) {
            (Some(high), Some(low)) => *byte = high << 4 | low,
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_and_verifies_the_private_channel_vector() {
        let secret = Secret::new("7ad3773142a6692b25b8");
        let hex = "58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4";
        assert_eq!(secret.sign(b"1234.1234:private-foobar"), hex);
        let verify = |given: &str| {
            let mut signer = secret.signer();
            signer.update(b"1234.1234:");
            signer.update(b"private-foobar");
            signer.verify(given)
        };
        assert!(verify(hex));
        assert!(!verify(&hex.to_uppercase()), "received text is never lower-cased");
        assert!(!verify(&hex[..63]));
        assert!(!verify(""));
        assert!(!verify(&hex.replace('5', "6")));
    }

    #[test]
    fn never_prints_itself() {
        assert!(!format!("{:?}", Secret::new("s3cret")).contains("s3cret"));
    }
}
