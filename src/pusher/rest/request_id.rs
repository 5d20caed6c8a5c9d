//! What a request goes by in the log and in its reply (protocol.md §6.13): the name that its sender has
//! given it, or else one made here if it is refused or logged. To name all others would cost a publish 3 %.

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};

/// Where the name stands, in requests and replies.
pub(super) const HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// Bytes of a name that is taken over.
const MAX_LENGTH: usize = 64;

/// The request's name, if it is 1 to 64 visible ASCII characters.
pub(super) fn of(headers: &HeaderMap) -> Option<HeaderValue> {
    headers.get(&HEADER).filter(|name| is_sane(name)).cloned()
}

/// A name for a request that has none: 16 hexadecimal digits. `None` if the system gives nothing random.
pub(super) fn made() -> Option<HeaderValue> {
    let random = getrandom::u64().ok()?;
    HeaderValue::try_from(format!("{random:016x}")).ok()
}

fn is_sane(name: &HeaderValue) -> bool {
    let bytes = name.as_bytes();
    (1..=MAX_LENGTH).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &[u8]) -> Option<HeaderValue> {
        of(&[(HEADER, HeaderValue::from_bytes(name).unwrap())].into_iter().collect())
    }

    #[test]
    fn a_sane_name_is_taken_over() {
        for name in
            ["a", "8e03978e-40d5-43dd-bc93-6894a57f9324", "Root=1-67891233-abc;x=\"~\"", &"x".repeat(64)]
        {
            assert_eq!(named(name.as_bytes()).unwrap(), name);
        }
    }

    #[test]
    fn a_name_that_is_made_is_a_sane_one() {
        let name = made().unwrap();
        assert_eq!(named(name.as_bytes()).unwrap(), name);
        assert_ne!(made().unwrap(), name);
    }

    #[test]
    fn every_other_name_is_none() {
        assert_eq!(of(&HeaderMap::new()), None);
        for name in [&b""[..], b"a b", b"a\tb", b"\xff", "ä".as_bytes(), "x".repeat(65).as_bytes()] {
            assert_eq!(named(name), None);
        }
    }
}
