//! Requests that a backend can safely repeat, by `Idempotency-Key` (protocol.md §6.11).

use std::sync::atomic::Ordering;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderName};
use sha2::{Digest, Sha256};

use super::{Call, Refusal, batch_events, empty_object, events};
use crate::http::Reply;
use crate::idempotency::{Claim, Denied, Fingerprint, Turn};

const HEADER: HeaderName = HeaderName::from_static("idempotency-key");
const MAX_KEY_LENGTH: usize = 255;

/// What looks at the header.
#[derive(Debug, Clone, Copy)]
pub(super) enum Endpoint {
    Events,
    BatchEvents,
}

impl Endpoint {
    async fn trigger(self, call: &Call<'_>, body: Bytes) -> Result<Reply, Refusal> {
        match self {
            Self::Events => events::trigger(call, body).await,
            Self::BatchEvents => batch_events::trigger(call, body).await,
        }
    }

    /// What makes a request the same as another.
    fn fingerprint(self, body: &Bytes) -> Fingerprint {
        let name: &[u8] = match self {
            Self::Events => b"events\n",
            Self::BatchEvents => b"batch_events\n",
        };
        Sha256::new().chain_update(name).chain_update(body).finalize().into()
    }
}

/// Publishes; with a key, only for the first of all requests that bear it.
///
/// # Errors
/// What the endpoint refuses; 400 for what is no key, 409 and 422 when another request has it.
pub(super) async fn publish(
    call: &Call<'_>,
    headers: &HeaderMap,
    endpoint: Endpoint,
    body: Bytes,
) -> Result<Reply, Refusal> {
    let body = match endpoint {
        Endpoint::Events if body.is_empty() => events::body_from_query(call),
        _ => body,
    };
    let Some(key) = key(headers)? else { return endpoint.trigger(call, body).await };
    let claim = match call.pusher.idempotency.begin(call.app, key, endpoint.fingerprint(&body)).await? {
        Turn::First(claim) => claim,
        Turn::Again(reply) => return Ok(reply),
    };
    // A refused request, or one whose client hangs up before it is published, gives the key back.
    let mut claimed = Claimed { call, claim: Some(claim) };
    let reply = endpoint.trigger(call, body).await?;
    if let Some(claim) = claimed.claim.take() {
        claim.keep(&reply);
    }
    Ok(reply)
}

/// A key while its request is carried out.
struct Claimed<'a> {
    call: &'a Call<'a>,
    claim: Option<Claim>,
}

impl Drop for Claimed<'_> {
    /// A client that hangs up after its events were published, while other nodes are asked for numbers,
    /// must not publish them again.
    fn drop(&mut self) {
        if let Some(claim) = self.claim.take().filter(|_| self.call.published.load(Ordering::Relaxed)) {
            claim.keep(&empty_object());
        }
    }
}

/// The request's key, if it has one.
fn key(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut lines = headers.get_all(HEADER).iter();
    let Some(key) = lines.next() else { return Ok(None) };
    if lines.next().is_some() {
        return Err(Refusal::bad_request("Duplicate header: Idempotency-Key"));
    }
    let is_visible = |key: &&str| key.bytes().all(|c| c.is_ascii_graphic());
    let key = key.to_str().ok().filter(is_visible);
    let key = key.filter(|key| (1..=MAX_KEY_LENGTH).contains(&key.len()));
    key.map(Some).ok_or_else(|| {
        Refusal::bad_request("Invalid Idempotency-Key: expected 1 to 255 visible ASCII characters")
    })
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::OtherRequest => {
                let text = "This Idempotency-Key belongs to another request: its endpoint or body differs";
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, text)
            }
            Denied::UnderWay => {
                let text = "Another request with this Idempotency-Key is still under way, try again";
                Self::new(StatusCode::CONFLICT, text)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_of_the_endpoint_and_the_body() {
        let bodies = [Bytes::new(), Bytes::from_static(b"{}"), Bytes::from_static(b"{ }")];
        let of_all = |endpoint: Endpoint| bodies.clone().map(|body| endpoint.fingerprint(&body));
        let all = [of_all(Endpoint::Events), of_all(Endpoint::BatchEvents)].concat();
        let distinct: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), 6);
        assert_eq!(of_all(Endpoint::Events).as_slice(), &all[..3]);
    }

    #[test]
    fn keys_are_visible_ascii_of_a_bounded_length() {
        let read = |values: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(HEADER, hyper::header::HeaderValue::from_bytes(value).expect("a value"));
            }
            key(&headers).map(|key| key.map(str::to_owned)).map_err(|refusal| refusal.text)
        };
        assert_eq!(read(&[]), Ok(None));
        for good in ["a", "!~", "\"8e03978e-40d5-43dd-bc93-6894a57f9324\"", &"k".repeat(255)] {
            assert_eq!(read(&[good.as_bytes()]), Ok(Some(good.to_owned())));
        }
        for bad in ["", "a b", "a\tb", "clé", &"k".repeat(256)] {
            assert!(read(&[bad.as_bytes()]).is_err_and(|text| text.starts_with("Invalid")), "{bad}");
        }
        assert!(read(&[b"\xff"]).is_err());
        assert!(read(&[b"a", b"a"]).is_err_and(|text| text.starts_with("Duplicate")));
    }
}
