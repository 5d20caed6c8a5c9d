//! Watchlists: a user is told who of those it watches is online.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::users::{channel_of, user, watched_in, watching};
use common::{Broker, Client, Settings, boot, settings};
use serde_json::json;

/// A broker that tells at once who has left.
fn at_once() -> Settings {
    told_after("0s")
}

fn told_after(offline_delay: &str) -> Settings {
    settings().feature("watchlist_events", true).limit("offline_delay", offline_delay)
}

async fn signed_in(broker: &Broker, user_data: &str) -> Client {
    let mut client = broker.connect().await;
    client.sign_in(user_data).await;
    client
}

/// Signs in as somebody who watches these, and returns who of them is online and who is not.
async fn watcher(broker: &Broker, ids: &[&str]) -> (Client, (Vec<String>, Vec<String>)) {
    let mut client = signed_in(broker, &watching("watcher", ids)).await;
    let first = client.expect_watched().await;
    (client, first)
}

async fn is_told(client: &mut Client, online: &[&str], offline: &[&str]) {
    let (told_online, told_offline) = client.expect_watched().await;
    assert_eq!((told_online, told_offline), (owned(online), owned(offline)));
}

fn owned(ids: &[&str]) -> Vec<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn c102_a_watcher_is_told_how_it_is_and_then_what_changes() {
    let broker = boot(at_once()).await;
    let b = signed_in(&broker, &user("b")).await;
    let (mut a, first) = watcher(&broker, &["b", "c"]).await;
    assert_eq!(first, (owned(&["b"]), owned(&["c"])));
    let c = signed_in(&broker, &user("c")).await;
    is_told(&mut a, &["c"], &[]).await;
    b.close().await;
    is_told(&mut a, &[], &["b"]).await;
    drop(c);
    is_told(&mut a, &[], &["c"]).await;
    a.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c102_a_group_of_nobody_is_left_out() {
    let broker = boot(at_once()).await;
    let (a, all_offline) = watcher(&broker, &["b"]).await;
    assert_eq!(all_offline, (vec![], owned(&["b"])));
    let mut b = signed_in(&broker, &watching("b", &["watcher"])).await;
    is_told(&mut b, &["watcher"], &[]).await;
    a.close().await;
    is_told(&mut b, &[], &["watcher"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c102_each_connection_of_the_watcher_is_told() {
    let broker = boot(at_once()).await;
    let (mut one, _) = watcher(&broker, &["b"]).await;
    let (mut two, _) = watcher(&broker, &["b"]).await;
    let b = signed_in(&broker, &user("b")).await;
    is_told(&mut one, &["b"], &[]).await;
    is_told(&mut two, &["b"], &[]).await;
    one.close().await;
    b.close().await;
    is_told(&mut two, &[], &["b"]).await;
    two.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c103_of_a_watchlist_too_long_the_first_hundred_are_watched() {
    let broker = boot(at_once()).await;
    let ids: Vec<_> = (0..101).map(|number| format!("u{number}")).collect();
    let data = json!({"id": "watcher", "watchlist": ids}).to_string();
    let mut client = signed_in(&broker, &data).await;
    client.expect_error_frame(&json!(4302), "100").await;
    assert_eq!(client.expect_watched().await, (vec![], ids[..100].to_vec()));
    let mut online = Vec::new();
    for id in ["u100", "u0", "u99"] {
        online.push(signed_in(&broker, &user(id)).await);
    }
    is_told(&mut client, &["u0"], &[]).await;
    is_told(&mut client, &["u99"], &[]).await;
    client.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c103_a_watchlist_of_a_hundred_is_not_too_long() {
    let broker = boot(at_once()).await;
    let ids: Vec<_> = (0..100).map(|number| format!("u{number}")).collect();
    let watchlist = [&ids[..], &ids[..50]].concat();
    let data = json!({"id": "watcher", "watchlist": watchlist}).to_string();
    let mut client = signed_in(&broker, &data).await;
    assert_eq!(client.expect_watched().await, (vec![], ids));
    client.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c104_a_user_is_online_until_its_last_connection_leaves() {
    let broker = boot(at_once()).await;
    let (one, two) = (signed_in(&broker, &user("c")).await, signed_in(&broker, &user("c")).await);
    let (mut a, first) = watcher(&broker, &["c"]).await;
    assert_eq!(first, (owned(&["c"]), vec![]));
    let three = signed_in(&broker, &user("c")).await;
    one.close().await;
    drop(two);
    broker.has_sockets(2).await;
    a.expect_nothing().await;
    three.close().await;
    is_told(&mut a, &[], &["c"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_told_anything_where_the_feature_is_off() {
    let broker = boot(settings()).await;
    let ids: Vec<_> = (0..101).map(|number| format!("u{number}")).collect();
    let data = json!({"id": "watcher", "watchlist": ids}).to_string();
    let mut client = signed_in(&broker, &data).await;
    let other = signed_in(&broker, &user("u0")).await;
    client.expect_nothing().await;
    assert_eq!(broker.metrics().await.table("users"), 2.0, "nobody is watched");
    other.close().await;
    broker.has_users(1).await;
    client.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_back_in_time_was_never_gone() {
    let broker = boot(told_after("1h")).await;
    let mut b = signed_in(&broker, &user("b")).await;
    let (mut a, _) = watcher(&broker, &["b"]).await;
    for _ in 0..20 {
        b.close().await;
        broker.has_users(1).await;
        let (late, first) = watcher(&broker, &["b"]).await;
        assert_eq!(first, (owned(&["b"]), vec![]), "for those who come meanwhile as well");
        late.close().await;
        b = signed_in(&broker, &user("b")).await;
    }
    a.expect_nothing().await;
    assert_eq!(broker.metrics().await.table("jobs"), 1.0, "however often it left");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_stays_away_is_offline_after_the_delay() {
    let broker = boot(told_after("50ms")).await;
    let (mut a, _) = watcher(&broker, &["b"]).await;
    for _ in 0..3 {
        let b = signed_in(&broker, &user("b")).await;
        is_told(&mut a, &["b"], &[]).await;
        b.close().await;
        is_told(&mut a, &[], &["b"]).await;
    }
    broker.becomes("fanfare_table_entries{table=\"jobs\"}", 0.0).await;
    a.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_back_in_time_is_not_told_of_when_the_time_has_come() {
    let broker = boot(told_after("4s")).await;
    let (b, c) = (signed_in(&broker, &user("b")).await, signed_in(&broker, &user("c")).await);
    let (mut a, _) = watcher(&broker, &["b", "c"]).await;
    b.close().await;
    broker.has_users(2).await;
    let _b = signed_in(&broker, &user("b")).await;
    c.close().await;
    is_told(&mut a, &[], &["c"]).await;
    a.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_back_only_to_leave_again_is_offline_in_the_end() {
    let broker = boot(told_after("200ms")).await;
    let (mut a, _) = watcher(&broker, &["b"]).await;
    for _ in 0..3 {
        signed_in(&broker, &user("b")).await.close().await;
        broker.has_users(1).await;
    }
    let mut last = watched_in(&a.frame().await);
    loop {
        last = match a.round().await.last() {
            Some(frame) => watched_in(frame),
            None if last.1 == ["b"] => break,
            None => watched_in(&a.frame().await),
        };
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_sign_in_brings_another_watchlist() {
    let broker = boot(at_once()).await;
    let (mut a, _) = watcher(&broker, &["b", "c"]).await;
    a.sign_in(&watching("watcher", &["c", "d"])).await;
    is_told(&mut a, &[], &["c", "d"]).await;
    let b = signed_in(&broker, &user("b")).await;
    let d = signed_in(&broker, &user("d")).await;
    is_told(&mut a, &["d"], &[]).await;
    a.sign_in(&user("watcher")).await;
    drop((b, d));
    broker.has_users(1).await;
    a.expect_nothing().await;
    assert_eq!(broker.metrics().await.table("users"), 1.0, "nobody is watched any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_sign_in_leaves_the_watchlist_alone() {
    let broker = boot(at_once()).await;
    let (mut a, _) = watcher(&broker, &["b"]).await;
    a.send(a.signing_in(&watching("another", &["c"]))).await;
    a.expect_error("another user").await;
    let _c = signed_in(&broker, &user("c")).await;
    let _b = signed_in(&broker, &user("b")).await;
    is_told(&mut a, &["b"], &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_may_watch_itself() {
    let broker = boot(at_once()).await;
    let (mut one, first) = watcher(&broker, &["watcher"]).await;
    assert_eq!(first, (owned(&["watcher"]), vec![]));
    let (two, first) = watcher(&broker, &["watcher"]).await;
    assert_eq!(first, (owned(&["watcher"]), vec![]));
    two.close().await;
    broker.has_sockets(1).await;
    one.expect_nothing().await;
    one.close().await;
    broker.becomes("fanfare_table_entries{table=\"users\"}", 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_huge_watchlist_is_cut() {
    let broker = boot(at_once().limit("max_event_bytes", "100KiB")).await;
    let ids: Vec<_> = (0..10_000).map(|number| format!("user-{number}")).collect();
    let data = json!({"id": "watcher", "watchlist": ids}).to_string();
    let mut client = signed_in(&broker, &data).await;
    client.expect_error_frame(&json!(4302), "").await;
    assert_eq!(client.expect_watched().await.1, ids[..100]);
    client.expect_nothing().await;
    assert_eq!(broker.metrics().await.table("users"), 101.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_id_is_left_out_of_a_watchlist() {
    let broker = boot(at_once()).await;
    let mut client = broker.connect().await;
    let mixed = json!(["b", 5, null, {"id": "x"}, ["y"], "", true, "b", "c", "no such ä", "b"]);
    client.sign_in(&json!({"id": "watcher", "watchlist": mixed}).to_string()).await;
    is_told(&mut client, &[], &["b", "c"]).await;
    for none in [json!([]), json!("b"), json!(5), json!({"0": "b"}), json!([5, null]), json!(null)] {
        client.sign_in(&json!({"id": "watcher", "watchlist": none}).to_string()).await;
        client.expect_nothing().await;
    }
}

/// The only one who watched was once told "offline" at once when it signed in again; and what was
/// planned for the absent user outlived everybody.
#[tokio::test(flavor = "multi_thread")]
async fn who_signs_in_again_to_watch_finds_those_who_are_away_for_a_moment() {
    let broker = boot(told_after("1h")).await;
    let b = signed_in(&broker, &user("b")).await;
    let (mut a, _) = watcher(&broker, &["b"]).await;
    b.close().await;
    broker.becomes("fanfare_table_entries{table=\"jobs\"}", 1.0).await;
    a.sign_in(&watching("watcher", &["b"])).await;
    is_told(&mut a, &["b"], &[]).await;
    a.close().await;
    for table in ["jobs", "users"] {
        broker.becomes(&format!("fanfare_table_entries{{table=\"{table}\"}}"), 0.0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_shown_out_goes_offline() {
    let broker = boot(at_once()).await;
    let (mut a, _) = watcher(&broker, &["b"]).await;
    let (mut one, mut two) = (signed_in(&broker, &user("b")).await, signed_in(&broker, &user("b")).await);
    is_told(&mut a, &["b"], &[]).await;
    broker.api().terminate("b").await;
    one.closed_with(4009).await;
    two.closed_with(4009).await;
    is_told(&mut a, &[], &["b"]).await;
    a.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_own_events_come_beside_those_of_its_watchlist() {
    let broker = boot(at_once()).await;
    let (mut a, _) = watcher(&broker, &["b"]).await;
    let _b = signed_in(&broker, &user("b")).await;
    broker.api().publish(&channel_of("watcher"), "e", "d").await;
    is_told(&mut a, &["b"], &[]).await;
    a.expect_event(&channel_of("watcher"), "e", "d").await;
}
