//! The app's backend ends the connections of a user.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::users::{channel_of, user};
use common::{APP, Broker, Client, HOME, OTHER, Signed, boot, settings};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

const REASON: &str = "You got disconnected by the app.";

async fn signed_in(broker: &Broker, id: &str) -> Client {
    let mut client = broker.connect().await;
    client.sign_in(&user(id)).await;
    client
}

async fn is_shown_out(client: &mut Client) {
    assert_eq!(client.closed_with(4009).await, REASON);
}

fn path_of(id: &str) -> String {
    format!("/apps/1/users/{id}/terminate_connections")
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn c098_all_connections_of_the_user_are_closed_and_no_others() {
    let broker = boot(settings()).await;
    let mut of_user = Vec::new();
    for _ in 0..3 {
        of_user.push(signed_in(&broker, "u1").await);
    }
    let (mut other, mut nobody) = (signed_in(&broker, "u2").await, broker.connect().await);
    let mut witness = broker.witness().await;
    broker.api().terminate("u1").await;
    for client in &mut of_user {
        is_shown_out(client).await;
    }
    other.expect_nothing().await;
    nobody.expect_nothing().await;
    witness.still_works().await;
    broker.has_sockets(3).await;
    broker.has_users(1).await;
    let closed = broker.metrics().await.get("fanfare_closed_connections_total{reason=\"terminated\"}");
    assert_eq!(closed, 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn c098_a_user_who_is_nowhere_is_no_error() {
    let broker = boot(settings()).await;
    let mut client = signed_in(&broker, "u1").await;
    let mut api = broker.api();
    for id in ["u2", "U1", "u", "u11", "x", "null"] {
        api.terminate(id).await;
    }
    client.expect_nothing().await;
    client.close().await;
    broker.has_users(0).await;
    api.terminate("u1").await;
    assert_eq!(broker.metrics().await.table("users"), 0.0, "asking leaves nothing behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn c098_the_user_may_come_back() {
    let broker = boot(settings()).await;
    let mut api = broker.api();
    for number in 0..5 {
        let mut client = signed_in(&broker, "u1").await;
        api.publish(&channel_of("u1"), "e", &number.to_string()).await;
        client.expect_event(&channel_of("u1"), "e", &number.to_string()).await;
        api.terminate("u1").await;
        is_shown_out(&mut client).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c098_what_was_published_before_still_arrives() {
    let broker = boot(settings()).await;
    let mut client = signed_in(&broker, "u1").await;
    let mut api = broker.api();
    api.publish(&channel_of("u1"), "goodbye", "d").await;
    api.terminate("u1").await;
    client.expect_event(&channel_of("u1"), "goodbye", "d").await;
    is_shown_out(&mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c098_whoever_is_closed_leaves_its_rooms() {
    let broker = boot(settings()).await;
    let (mut watcher, mut client) = (broker.connect().await, signed_in(&broker, "u1").await);
    watcher.join("presence-room", r#"{"user_id":"w"}"#).await;
    client.join("presence-room", r#"{"user_id":"other"}"#).await;
    watcher.expect("pusher_internal:member_added").await;
    broker.api().terminate("u1").await;
    is_shown_out(&mut client).await;
    let removed = common::data_of(&watcher.expect("pusher_internal:member_removed").await);
    assert_eq!(removed, json!({"user_id": "other"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn c098_protocol_5_hears_the_error_before_the_close() {
    let broker = boot(settings()).await;
    for protocol in [5, 6, 7] {
        let mut client = broker.dial(&format!("/app/app-key?protocol={protocol}")).await;
        client.expect_established().await;
        client.sign_in(&user("u1")).await;
        broker.api().terminate("u1").await;
        if protocol == 5 {
            client.expect_error_frame(&json!(4009), REASON).await;
        }
        is_shown_out(&mut client).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c098_a_client_that_reads_nothing_is_closed_as_well() {
    let broker = boot(settings()).await;
    let mut silent = signed_in(&broker, "u1").await;
    let mut api = broker.api();
    for _ in 0..20 {
        api.publish(&channel_of("u1"), "e", &"x".repeat(10_000)).await;
    }
    api.terminate("u1").await;
    broker.has_users(0).await;
    for _ in 0..20 {
        silent.expect("e").await;
    }
    is_shown_out(&mut silent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c099_a_member_who_is_not_signed_in_stays() {
    let broker = boot(settings()).await;
    let (mut member, mut both) = (broker.connect().await, signed_in(&broker, "u2").await);
    member.join("presence-room", r#"{"user_id":"u1"}"#).await;
    both.join("presence-room", r#"{"user_id":"u1"}"#).await;
    broker.api().terminate("u1").await;
    member.expect_nothing().await;
    both.expect_nothing().await;
    broker.api().terminate("u2").await;
    is_shown_out(&mut both).await;
    member.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c100_the_path_without_the_app_works_too() {
    let broker = boot(settings()).await;
    let (mut client, mut other) = (signed_in(&broker, "u1").await, signed_in(&broker, "u2").await);
    let mut theirs = broker.dial("/app/other-key?protocol=7").await;
    theirs.expect_established().await;
    theirs.send(theirs.signing_in_at(OTHER, &user("u1"))).await;
    theirs.expect_signed_in(&user("u1")).await;
    let path = "/users/u1/terminate_connections";
    let mut api = broker.api();
    api.terminate_by(&Signed::post(path, &json!({}))).await;
    is_shown_out(&mut client).await;
    other.expect_nothing().await;
    theirs.expect_nothing().await;
    api.terminate_by(&Signed::new("POST", path, OTHER, b"{}")).await;
    is_shown_out(&mut theirs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c100_the_path_without_the_app_leads_nowhere_else() {
    let broker = boot(settings()).await;
    let mut client = signed_in(&broker, "u1").await;
    let (path, body) = ("/users/u1/terminate_connections", json!({}));
    let mut api = broker.api();
    for request in [
        Signed::post(path, &body).with("auth_key", "nobody"),
        Signed::post(path, &body).with("auth_key", "other-key"),
        Signed::post(path, &body).without("auth_key"),
        Signed::post(path, &body).signature("00"),
        Signed::post(path, &body).sends_path("/users/u2/terminate_connections"),
        Signed::post(path, &body).sends_path("/apps/1/users/u1/terminate_connections"),
        Signed::post(&path_of("u1"), &body).sends_path(path),
    ] {
        api.send(&request).await.expect_error(401, "");
    }
    for request in [
        Signed::get(path),
        Signed::post("/users/u1", &body),
        Signed::post("/users/", &body),
        Signed::post("/users/u1/events", &body),
        Signed::post("/users/u1/terminate_connections/more", &body),
    ] {
        api.send(&request).await.expect_error(404, "");
    }
    client.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c100_a_path_prefix_stands_before_both_paths() {
    let broker = boot(settings().server("path_prefix", "/live")).await;
    for path in ["/users/u1/terminate_connections", "/apps/1/users/u1/terminate_connections"] {
        let mut client = broker.dial(&format!("/live{HOME}")).await;
        client.expect_established().await;
        client.sign_in(&user("u1")).await;
        let request = Signed::post(path, &json!({})).sends_path(&format!("/live{path}"));
        broker.api().terminate_by(&request).await;
        is_shown_out(&mut client).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_read_from_the_path_whatever_was_signed() {
    let broker = boot(settings()).await;
    let mut api = broker.api();
    for id in ["a;b", "a@b.c", "a=b,c", "-_"] {
        for (signed, sent) in [(id, encoded(id)), (&encoded(id), encoded(id)), (id, id.to_owned())] {
            let mut client = signed_in(&broker, id).await;
            let request = Signed::post(&path_of(signed), &json!({})).sends_path(&path_of(&sent));
            api.terminate_by(&request).await;
            is_shown_out(&mut client).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_nobody_can_have_is_no_error() {
    let broker = boot(settings()).await;
    let (mut client, mut api) = (signed_in(&broker, "a,b").await, broker.api());
    for id in ["a b", "a/b", "a%2Cb", "a%b", "ä", "💩", "a\u{0}b", "a+b", "a?b", "a#b", " ", "%"] {
        for signed in [id.to_owned(), encoded(id)] {
            let request = Signed::post(&path_of(&signed), &json!({})).sends_path(&path_of(&encoded(id)));
            api.terminate_by(&request).await;
        }
    }
    let long = "x".repeat(5000);
    api.terminate(&long).await;
    client.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_sign_ends_nothing() {
    let broker = boot(settings()).await;
    let mut client = signed_in(&broker, "u1").await;
    let (path, body) = (path_of("u1"), json!({}));
    let mut api = broker.api();
    for request in [
        Signed::post(&path, &body).sends_query(""),
        Signed::post(&path, &body).sends_query("auth_key=app-key"),
        Signed::post(&path, &body).signature("00"),
        Signed::post(&path, &body).without("body_md5"),
        Signed::post(&path, &body).sends_body(b"{} "),
        Signed::post(&path_of("u2"), &body).sends_path(&path),
        Signed::new("POST", &path, OTHER, b"{}"),
        Signed::new("PUT", &path, APP, b"{}").signature("00"),
    ] {
        api.send(&request).await.expect_error(401, "");
    }
    for method in ["GET", "PUT", "DELETE"] {
        api.send(&Signed::new(method, &path, APP, b"")).await.expect_error(404, "");
    }
    client.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_body_may_be_anything_that_is_signed() {
    let broker = boot(settings()).await;
    let mut api = broker.api();
    for body in [&b""[..], b"{}", b"[]", b"not json"] {
        let mut client = signed_in(&broker, "u1").await;
        api.terminate_by(&Signed::new("POST", &path_of("u1"), APP, body)).await;
        is_shown_out(&mut client).await;
    }
}
