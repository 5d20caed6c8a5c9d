//! Users: signing in, being told who is there, and being shown out.

use serde_json::{Value, json};

use super::{APP, Api, Client, Credentials, Reply, Signed, data_of};

/// `user_data` with nothing but an id.
pub fn user(id: &str) -> String {
    json!({"id": id}).to_string()
}

/// `user_data` of somebody who watches others.
pub fn watching(id: &str, watchlist: &[&str]) -> String {
    json!({"id": id, "watchlist": watchlist}).to_string()
}

/// The channel of a user.
pub fn channel_of(id: &str) -> String {
    format!("#server-to-user-{id}")
}

/// The command that signs in with this data.
pub fn sign_in_with(data: Value) -> Value {
    json!({"event": "pusher:signin", "data": data})
}

impl Client {
    /// The command that signs in as this user, signed by the first app.
    pub fn signing_in(&self, user_data: &str) -> Value {
        self.signing_in_at(APP, user_data)
    }

    /// As [`Client::signing_in`], signed by any app.
    pub fn signing_in_at(&self, app: Credentials, user_data: &str) -> Value {
        sign_in_with(json!({"auth": app.user_auth(&self.socket_id, user_data), "user_data": user_data}))
    }

    /// Signs in, and is told of success.
    pub async fn sign_in(&mut self, user_data: &str) {
        self.send(self.signing_in(user_data)).await;
        self.expect_signed_in(user_data).await;
    }

    /// The next frame is the success of a sign-in with this data.
    pub async fn expect_signed_in(&mut self, user_data: &str) {
        let frame = self.expect("pusher:signin_success").await;
        assert!(frame.get("channel").is_none(), "in {frame}");
        assert_eq!(data_of(&frame), json!({"user_data": user_data}));
    }

    /// The next frame tells of watched users; returns who is online and who is not.
    pub async fn expect_watched(&mut self) -> (Vec<String>, Vec<String>) {
        watched_in(&self.expect("pusher_internal:watchlist_events").await)
    }
}

/// Who is online and who is not, by a frame that tells of watched users.
pub fn watched_in(frame: &Value) -> (Vec<String>, Vec<String>) {
    assert!(frame.get("channel").is_none(), "in {frame}");
    let data = data_of(frame);
    let (mut online, mut offline) = (Vec::new(), Vec::new());
    for event in data["events"].as_array().expect("an array of events") {
        let ids = event["user_ids"].as_array().expect("an array of ids").iter();
        let ids: Vec<_> = ids.map(|id| id.as_str().expect("a string").to_owned()).collect();
        assert!(!ids.is_empty(), "an empty group in {frame}");
        match event["name"].as_str() {
            Some("online") => online.extend(ids),
            Some("offline") => offline.extend(ids),
            _ => panic!("a group of no known name in {frame}"),
        }
    }
    (online, offline)
}

impl Api {
    /// Ends the connections of a user, and is told `{}`.
    pub async fn terminate(&mut self, user_id: &str) {
        let reply = self.post(&format!("/users/{user_id}/terminate_connections"), &json!({})).await;
        expect_done(&reply);
    }

    /// Ends the connections of a user by a request of one's own making, and is told `{}`.
    pub async fn terminate_by(&mut self, request: &Signed) {
        expect_done(&self.send(request).await);
    }
}

fn expect_done(reply: &Reply) {
    assert_eq!(reply.expect_ok(), json!({}));
    assert_eq!(reply.body, "{}");
}
