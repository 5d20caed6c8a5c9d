//! Who may call the API: the request's signature, checked in constant time (protocol.md §6.2).

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use md5::{Digest, Md5};

use super::super::query::{Plus, Query, decode};
use super::super::{Pusher, json};
use super::Refusal;
use crate::metrics::Cause;
use crate::model::app::{App, KeyPair};
use crate::model::secret::{encode_hex, is_lower_hex_of};

/// Seconds that a request's timestamp may differ from the broker's clock; this many is too much.
const WINDOW_S: u64 = 600;

const LOCKED_OUT: &str = "Too many requests from this address were not signed as they should be";

fn missing(text: &str) -> Refusal {
    Refusal::unproven(Cause::Missing, text)
}

fn no_key() -> Refusal {
    missing("Missing parameter: auth_key")
}

fn unknown_key() -> Refusal {
    Refusal::unproven(Cause::Key, "auth_key should be a valid app key")
}

fn malformed(text: impl Into<String>) -> Refusal {
    Refusal::unproven(Cause::Malformed, text)
}

/// A request whose signature is right, body aside.
pub(super) struct Signed {
    body_md5: Option<String>,
    /// How the signer reads a `+`.
    plus: Plus,
}

/// As [`admit`]. Once too many requests of `client` had a wrong signature, further ones are not told what
/// is wrong with them.
///
/// # Errors
/// 429 in place of 401 then; otherwise the same.
pub(super) fn admit_from<'a>(
    client: IpAddr,
    pusher: &Pusher,
    request: &'a Parts,
    path: &str,
) -> Result<(Arc<App>, Query<'a>, Signed), Refusal> {
    let admitted = admit(pusher, request, path);
    if !admitted.as_ref().is_err_and(|refusal| refusal.unproven.is_some()) {
        // Whoever signs rightly is let in from anywhere: an address may be that of many.
        return admitted;
    }
    if let Some(seconds) = pusher.addresses.locked_out(client) {
        let refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, LOCKED_OUT);
        return Err(Refusal { retry_after: Some(seconds), ..refusal });
    }
    pusher.addresses.failed(client);
    admitted
}

/// Finds the app of a request, and checks all but its body.
///
/// # Errors
/// 401 when it is not signed for this app, 403 and 404 when the app is disabled or unknown.
fn admit<'a>(
    pusher: &Pusher,
    request: &'a Parts,
    path: &str,
) -> Result<(Arc<App>, Query<'a>, Signed), Refusal> {
    let query = || {
        Query::parse(request.uri.query().unwrap_or_default())
            .ok_or_else(|| Refusal::bad_request("The query string is not UTF-8"))
    };
    let (app, mut query) = match path.strip_prefix("/apps/") {
        Some(rest) => (app_by_id(pusher, rest)?, query()?),
        None => app_by_key(pusher, query()?)?,
    };
    let signed = check_signature(&app, &request.method, path, &query)?;
    query.read_plus_as(signed.plus);
    if !app.enabled {
        return Err(Refusal::new(StatusCode::FORBIDDEN, "Application disabled"));
    }
    Ok((app, query, signed))
}

fn app_by_id(pusher: &Pusher, rest: &str) -> Result<Arc<App>, Refusal> {
    let id = rest.split('/').next().and_then(|id| decode(id, Plus::Literal));
    let app = id.and_then(|id| pusher.apps.by_id(&id));
    app.ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "Unknown app id"))
}

/// The app of a path that names none: that of the key which signs.
fn app_by_key<'q>(pusher: &Pusher, query: Query<'q>) -> Result<(Arc<App>, Query<'q>), Refusal> {
    let key = query.get("auth_key").ok_or_else(no_key)?;
    let app = pusher.apps.by_key(&key).ok_or_else(unknown_key)?;
    let now = Arc::clone(&app.now());
    drop(key);
    Ok((now, query))
}

/// Checks all that the query says: key, version, time and signature.
///
/// # Errors
/// 401 with a text that says what is wrong.
fn check_signature(app: &App, method: &Method, path: &str, query: &Query<'_>) -> Result<Signed, Refusal> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    check_signature_at(now, app, method.as_str(), path, query)
}

fn check_signature_at(
    now: u64,
    app: &App,
    method: &str,
    path: &str,
    query: &Query<'_>,
) -> Result<Signed, Refusal> {
    for name in ["auth_key", "auth_timestamp", "auth_version", "auth_signature", "body_md5"] {
        if query.count(name) > 1 {
            return Err(malformed(format!("Duplicate parameter: {name}")));
        }
    }
    let key = query.get("auth_key").ok_or_else(no_key)?;
    let pair = app.key_pair(&key).ok_or_else(unknown_key)?;
    match query.get("auth_version").as_deref() {
        None => return Err(missing("Version required")),
        Some("1.0") => {}
        Some(_) => return Err(malformed("Version not supported")),
    }
    check_time(now, query.get("auth_timestamp").as_deref())?;
    let given = query.get("auth_signature").ok_or_else(|| missing("Missing parameter: auth_signature"))?;
    let plus = verify(pair, method, path, query, &given)?;
    Ok(Signed { body_md5: query.get("body_md5").map(Cow::into_owned), plus })
}

fn check_time(now: u64, given: Option<&str>) -> Result<(), Refusal> {
    let given = given.ok_or_else(|| missing("Timestamp required"))?;
    let time: u64 =
        given.parse().map_err(|_| malformed("Timestamp required: auth_timestamp is not an integer"))?;
    if now.abs_diff(time) < WINDOW_S {
        return Ok(());
    }
    let iso = |seconds: u64| {
        // Years beyond 9999 cannot be written; no such time is near.
        UNIX_EPOCH
            .checked_add(Duration::from_secs(seconds.min(253_402_300_799)))
            .map(|time| humantime::format_rfc3339_seconds(time).to_string())
            .unwrap_or_default()
    };
    let (given, server) = (iso(time), iso(now));
    let text = format!(
        "Timestamp expired: Given timestamp ({given}) not within {WINDOW_S}s of server time ({server})"
    );
    Err(Refusal::unproven(Cause::Time, text))
}

/// Libraries sign the path before they encode it, and some write a space as `+`: what was signed
/// is tried in the readings that differ.
fn verify(pair: &KeyPair, method: &str, path: &str, query: &Query<'_>, given: &str) -> Result<Plus, Refusal> {
    let decoded = decode(path, Plus::Literal).unwrap_or(Cow::Borrowed(path));
    let paths = if decoded == path { &[path][..] } else { &[decoded.as_ref(), path][..] };
    let readings = if query.has_plus() { &[Plus::Space, Plus::Literal][..] } else { &[Plus::Space][..] };
    let parameters = query.sorted_without("auth_signature");
    for &path in paths {
        for &plus in readings {
            let mut signer = pair.secret.signer();
            feed_signed(method, path, &parameters, plus, |part| signer.update(part.as_bytes()));
            if signer.verify(given) {
                return Ok(plus);
            }
        }
    }
    let mut signed = String::new();
    feed_signed(method, &decoded, &parameters, Plus::Space, |part| signed.push_str(part));
    let signed = json::shown(&signed).escape_debug();
    let given = json::shown(given);
    let text = format!(
        "Invalid signature: you should have sent HmacSHA256Hex(\"{signed}\", your_secret_key), but you sent \"{given}\""
    );
    Err(Refusal::unproven(Cause::Signature, text))
}

/// The signed string, part by part: nothing is put together for the sake of hashing it.
fn feed_signed(
    method: &str,
    path: &str,
    parameters: &[&super::super::query::Parameter<'_>],
    plus: Plus,
    mut feed: impl FnMut(&str),
) {
    feed(method);
    feed("\n");
    feed(path);
    feed("\n");
    for (i, parameter) in parameters.iter().enumerate() {
        if i > 0 {
            feed("&");
        }
        feed(&parameter.key);
        feed("=");
        feed(&parameter.value(plus).unwrap_or_default());
    }
}

/// Checks that the body is the one that was signed.
///
/// # Errors
/// 401 when it is another, or when a body has no MD5.
pub(super) fn check_body(signed: &Signed, body: &Bytes) -> Result<(), Refusal> {
    match &signed.body_md5 {
        None if body.is_empty() => Ok(()),
        None => Err(missing("Missing parameter: body_md5")),
        Some(given) => {
            let expected = Md5::digest(body);
            if is_lower_hex_of(given, &expected) {
                return Ok(());
            }
            let expected = encode_hex(&expected);
            let text = format!("Invalid body_md5: expected {expected}, but got {}", json::shown(given));
            Err(Refusal::unproven(Cause::Body, text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::app::{Features, Limits};
    use crate::model::secret::Secret;

    const NOW: u64 = 1_353_088_179;
    const AUTH: &str = "auth_key=278d425bdf160c739803&auth_timestamp=1353088179&auth_version=1.0";

    fn app() -> App {
        let secret = Secret::new("7ad3773142a6692b25b8");
        App {
            id: Arc::from("3"),
            keys: vec![KeyPair { key: "278d425bdf160c739803".into(), secret }],
            enabled: true,
            features: Features::default(),
            limits: Limits::default(),
            webhooks: Vec::new(),
        }
    }

    fn check(now: u64, method: &str, path: &str, query: &str) -> Result<Signed, String> {
        let query = Query::parse(query).expect("a query");
        check_signature_at(now, &app(), method, path, &query).map_err(|refusal| refusal.text)
    }

    fn passes(method: &str, path: &str, more: &str, signature: &str) {
        let query = |signature: &str| format!("auth_signature={signature}&{AUTH}{more}");
        assert_eq!(check(NOW, method, path, &query(signature)).err(), None, "{method} {path} {more}");
        let forged = query(&format!("00{}", &signature[2..]));
        assert!(check(NOW, method, path, &forged).is_err_and(|text| text.starts_with("Invalid signature")));
    }

    #[test]
    fn accepts_the_verified_vectors() {
        let body = br#"{"name":"foo","channels":["project-3"],"data":"{\"some\":\"data\"}"}"#;
        let signature = "da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c";
        passes("POST", "/apps/3/events", "&body_md5=ec365a775a4cd0599faeb73354201b6f", signature);
        let signed = Signed { body_md5: Some("ec365a775a4cd0599faeb73354201b6f".into()), plus: Plus::Space };
        assert!(check_body(&signed, &Bytes::from_static(body)).is_ok());
        assert!(check_body(&signed, &Bytes::from_static(b"{}")).is_err());

        let (channels, users) = ("/apps/3/channels", "/apps/3/channels/presence-a/users");
        passes(
            "GET",
            channels,
            "&info=user_count&filter_by_prefix=presence-",
            "16819168891cb5dfd72b5c7a5d3d602605b26c6ba1930033b5e2eeeb65010291",
        );
        for info in ["user_count,subscription_count", "user_count%2Csubscription_count"] {
            passes(
                "GET",
                "/apps/3/channels/presence-a",
                &format!("&Info={info}"),
                "cb95e8fdce356a7c0822801195ea86a96b35fda672140e65120a4cc3568caf2b",
            );
        }
        passes("GET", users, "", "baf2d614368d599454434555e21511d77c16816508aaa9a364a26de9cf7813e5");
        passes(
            "GET",
            users,
            "&body_md5=d41d8cd98f00b204e9800998ecf8427e",
            "ab454b3672fd32a6498d8b280981cc20f7d9fd541eaa5a3ab8c19b30e5284cd4",
        );
        passes(
            "POST",
            "/apps/3/batch_events",
            "&body_md5=MD5"
                .replace("MD5", &md5_of(br#"{"batch":[{"channel":"a","name":"e","data":"d"}]}"#))
                .as_str(),
            "99ffe938ce26ffce7cc0df3579f8021e451d3f0703708f4857b6a61a66049acf",
        );
    }

    fn md5_of(body: &[u8]) -> String {
        encode_hex(&Md5::digest(body))
    }

    #[test]
    fn a_path_signed_before_encoding_is_accepted() {
        let signature = "8b02fa5c413c4f47396086c5df755ac659b1097ae2b97cca6bd583d925d5699d";
        let more = "&body_md5=99914b932bd37a50b983c5e7c90ae93b";
        passes("POST", "/apps/3/users/u%201/terminate_connections", more, signature);
        passes("POST", "/apps/3/users/u 1/terminate_connections", more, signature);
    }

    #[test]
    fn the_window_is_less_than_ten_minutes_either_way() {
        let signature = "baf2d614368d599454434555e21511d77c16816508aaa9a364a26de9cf7813e5";
        let query = format!("{AUTH}&auth_signature={signature}");
        let at = |now| check(now, "GET", "/apps/3/channels/presence-a/users", &query).map(|_| ());
        assert_eq!((at(NOW + 599), at(NOW - 599)), (Ok(()), Ok(())));
        for now in [NOW + 600, NOW - 600, 0, u64::MAX] {
            assert!(at(now).is_err_and(|text| text.starts_with("Timestamp expired")), "{now}");
        }
    }

    #[test]
    fn each_missing_or_wrong_part_is_named() {
        for (query, text) in [
            ("", "Missing parameter: auth_key"),
            ("auth_key=other", "auth_key should be a valid app key"),
            ("auth_key=278d425bdf160c739803", "Version required"),
            ("auth_key=278d425bdf160c739803&auth_version=2.0", "Version not supported"),
            ("auth_key=278d425bdf160c739803&auth_version=1.0", "Timestamp required"),
            (
                "auth_key=278d425bdf160c739803&auth_version=1.0&auth_timestamp=x",
                "Timestamp required: auth_timestamp is not an integer",
            ),
            (AUTH, "Missing parameter: auth_signature"),
            ("auth_key=a&auth_key=b", "Duplicate parameter: auth_key"),
        ] {
            assert_eq!(check(NOW, "GET", "/apps/3/channels", query).err().as_deref(), Some(text), "{query}");
        }
        let unsigned = Signed { body_md5: None, plus: Plus::Space };
        assert!(check_body(&unsigned, &Bytes::new()).is_ok());
        assert!(check_body(&unsigned, &Bytes::from_static(b"{}")).is_err());
    }
}
