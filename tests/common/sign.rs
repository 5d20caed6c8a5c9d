//! Signatures as a customer's backend makes them.

use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use sha2::Sha256;

/// What a backend knows of its app.
#[derive(Clone, Copy, Debug)]
pub struct Credentials {
    pub id: &'static str,
    pub key: &'static str,
    pub secret: &'static str,
}

/// The app most tests talk about.
pub const APP: Credentials = Credentials { id: "1", key: "app-key", secret: "app-secret" };

/// Another app on the same broker.
pub const OTHER: Credentials = Credentials { id: "2", key: "other-key", secret: "other-secret" };

/// The credentials under which the reference's example signatures were made.
pub const SAMPLE: Credentials =
    Credentials { id: "3", key: "278d425bdf160c739803", secret: "7ad3773142a6692b25b8" };

impl Credentials {
    /// HMAC-SHA256 of a text under the app's secret, in lower-case hex.
    pub fn sign(&self, text: &str) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.secret.as_bytes()).expect("any key will do");
        mac.update(text.as_bytes());
        hex(&mac.finalize().into_bytes())
    }

    /// The `auth` of a subscription.
    pub fn auth(&self, socket_id: &str, channel: &str, channel_data: Option<&str>) -> String {
        let text = match channel_data {
            Some(data) => format!("{socket_id}:{channel}:{data}"),
            None => format!("{socket_id}:{channel}"),
        };
        format!("{}:{}", self.key, self.sign(&text))
    }

    /// The `auth` of a sign-in.
    pub fn user_auth(&self, socket_id: &str, user_data: &str) -> String {
        format!("{}:{}", self.key, self.sign(&format!("{socket_id}::user::{user_data}")))
    }
}

/// The MD5 of a request body in lower-case hex.
pub fn md5_hex(bytes: &[u8]) -> String {
    hex(&Md5::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
