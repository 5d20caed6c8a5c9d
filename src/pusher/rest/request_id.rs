//! What a request goes by in the log and in its reply: the name that its sender gave it, or one of ours
//! (protocol.md §6.13).

use std::sync::atomic::{AtomicU64, Ordering};

use data_encoding::HEXLOWER;
use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};

/// Where the name stands, in requests and replies.
pub(super) const HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// Bytes of a name that is taken over.
const MAX_LENGTH: usize = 64;

/// Names for requests that have none.
pub struct RequestIds(AtomicU64);

impl RequestIds {
    /// Those of a broker that has just been started; nobody else is likely to have them.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn begin() -> Result<Self, getrandom::Error> {
        Ok(Self(AtomicU64::new(getrandom::u64()?)))
    }

    /// The request's own name if it is 1 to 64 visible ASCII characters; a new one otherwise.
    pub(super) fn of(&self, headers: &HeaderMap) -> HeaderValue {
        match headers.get(&HEADER) {
            Some(given) if is_sane(given) => given.clone(),
            _ => self.next(),
        }
    }

    fn next(&self) -> HeaderValue {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        let mut text = [0; 16];
        HEXLOWER.encode_mut(&number.to_be_bytes(), &mut text);
        HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("-"))
    }
}

fn is_sane(name: &HeaderValue) -> bool {
    let bytes = name.as_bytes();
    (1..=MAX_LENGTH).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(ids: &RequestIds, name: &[u8]) -> HeaderValue {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, HeaderValue::from_bytes(name).unwrap());
        ids.of(&headers)
    }

    #[test]
    fn a_sane_name_is_taken_over() {
        let ids = RequestIds::begin().unwrap();
        for name in
            ["a", "8e03978e-40d5-43dd-bc93-6894a57f9324", "Root=1-67891233-abc;x=\"~\"", &"x".repeat(64)]
        {
            assert_eq!(named(&ids, name.as_bytes()), name);
        }
    }

    #[test]
    fn every_other_request_gets_a_new_one() {
        let ids = RequestIds(AtomicU64::new(0xabc));
        assert_eq!(ids.of(&HeaderMap::new()), "0000000000000abc");
        let long = "x".repeat(65);
        for (at, name) in
            [&b""[..], b"a b", b"a\tb", b"\xff", "ä".as_bytes(), long.as_bytes()].iter().enumerate()
        {
            assert_eq!(named(&ids, name), format!("{:016x}", 0xabd + at));
        }
    }
}
