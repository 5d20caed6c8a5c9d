//! Subscription counts: the subscribers of a channel are told how many they are.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::users::{channel_of, user};
use common::{Api, Broker, Client, Settings, boot, data_of, eventually, settings};
use serde_json::{Value, json};

const COUNT: &str = "pusher_internal:subscription_count";
/// Above this they are not told of each change.
const MANY: u64 = 100;

fn counting() -> Settings {
    settings().feature("subscription_count", true)
}

/// The next frame is this count of this channel, and carries nothing else.
async fn is_told(client: &mut Client, channel: &str, count: u64) {
    let data = format!("{{\"subscription_count\":{count}}}");
    assert_eq!(client.frame().await, json!({"event": COUNT, "channel": channel, "data": data}));
}

/// Subscribes, and is told the count as the first thing after the success.
async fn comes(broker: &Broker, channel: &str, count: u64) -> Client {
    let mut client = broker.connect().await;
    client.subscribe(channel).await;
    is_told(&mut client, channel, count).await;
    client
}

/// Nothing has been told since: a marker comes in the channel's order.
async fn nothing_more(api: &mut Api, channel: &str, clients: &mut [&mut Client]) {
    api.publish(channel, "marker", "").await;
    for client in clients {
        client.expect_event(channel, "marker", "").await;
    }
}

/// The counts that come before the next marker.
async fn counts_before_marker(client: &mut Client) -> Vec<u64> {
    let mut counts = Vec::new();
    loop {
        let frame = client.frame().await;
        match frame["event"].as_str() {
            Some(COUNT) => counts.push(count_in(&frame)),
            Some("marker") => return counts,
            _ => panic!("{frame} came"),
        }
    }
}

fn count_in(frame: &Value) -> u64 {
    data_of(frame)["subscription_count"].as_u64().expect("an integer")
}

#[tokio::test(flavor = "multi_thread")]
async fn c078_all_subscribers_are_told_at_each_coming_and_going() {
    let broker = boot(counting()).await;
    for channel in ["public", "private-a", "private-encrypted-a"] {
        let mut a = comes(&broker, channel, 1).await;
        let mut b = comes(&broker, channel, 2).await;
        is_told(&mut a, channel, 2).await;
        let mut c = comes(&broker, channel, 3).await;
        is_told(&mut a, channel, 3).await;
        is_told(&mut b, channel, 3).await;
        b.unsubscribe(channel).await;
        is_told(&mut a, channel, 2).await;
        is_told(&mut c, channel, 2).await;
        b.expect_nothing().await;
        nothing_more(&mut broker.api(), channel, &mut [&mut a, &mut c]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c078_whoever_leaves_in_whatever_way_is_counted_out() {
    let broker = boot(counting()).await;
    let mut a = comes(&broker, "a", 1).await;
    for abruptly in [false, true, false, true] {
        let b = comes(&broker, "a", 2).await;
        is_told(&mut a, "a", 2).await;
        match abruptly {
            true => drop(b),
            false => b.close().await,
        }
        is_told(&mut a, "a", 1).await;
    }
    let mut ended = broker.connect().await;
    ended.sign_in(&user("u1")).await;
    ended.subscribe("a").await;
    is_told(&mut a, "a", 2).await;
    broker.api().terminate("u1").await;
    is_told(&mut a, "a", 1).await;
    nothing_more(&mut broker.api(), "a", &mut [&mut a]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c078_the_last_to_leave_tells_nobody_and_the_next_is_the_first() {
    let broker = boot(counting()).await;
    for channel in ["a", "cache-a"] {
        let mut api = broker.api();
        api.publish(channel, "e", "kept").await;
        for _ in 0..3 {
            let mut client = broker.connect().await;
            client.subscribe(channel).await;
            if channel == "cache-a" {
                client.expect_event(channel, "e", "kept").await;
            }
            is_told(&mut client, channel, 1).await;
            client.unsubscribe(channel).await;
            client.expect_nothing().await;
        }
        assert_eq!(api.subscribers(channel).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c078_a_cache_channel_tells_its_event_first() {
    let broker = boot(counting()).await;
    for channel in ["cache-a", "private-cache-a", "private-encrypted-cache-a"] {
        let mut a = broker.connect().await;
        a.subscribe(channel).await;
        assert_eq!(a.expect("pusher:cache_miss").await["channel"], channel);
        is_told(&mut a, channel, 1).await;
        broker.api().publish(channel, "e", "kept").await;
        a.expect_event(channel, "e", "kept").await;
        let mut b = broker.connect().await;
        b.subscribe(channel).await;
        b.expect_event(channel, "e", "kept").await;
        is_told(&mut b, channel, 2).await;
        is_told(&mut a, channel, 2).await;
        let cached = broker.api().cached(channel).await;
        assert_eq!(cached.as_deref(), Some("kept"), "the count is not what is kept");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c078_connections_are_counted_not_users() {
    let broker = boot(counting()).await;
    let (mut one, mut two) = (broker.connect().await, broker.connect().await);
    one.sign_in(&user("u1")).await;
    two.sign_in(&user("u1")).await;
    one.subscribe("a").await;
    is_told(&mut one, "a", 1).await;
    two.subscribe("a").await;
    is_told(&mut two, "a", 2).await;
    is_told(&mut one, "a", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c078_a_subscribe_that_is_refused_changes_no_count() {
    let broker = boot(counting()).await;
    let mut a = comes(&broker, "private-a", 1).await;
    let mut b = broker.connect().await;
    b.send(common::client::subscribe_with(json!({"auth": "app-key:00", "channel": "private-a"}))).await;
    b.expect_refused("private-a", "Invalid signature").await;
    a.send(a.subscription("private-a")).await;
    a.expect_error("Existing subscription").await;
    nothing_more(&mut broker.api(), "private-a", &mut [&mut a]).await;
}

/// Clients that are connected and no more.
async fn crowd(broker: &Broker, size: u64) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..size {
        clients.push(broker.connect().await);
    }
    clients
}

/// Subscribes all of them, without a pause.
async fn all_come(clients: &mut [Client], channel: &str) {
    for client in &mut *clients {
        client.send(client.subscription(channel)).await;
    }
    for client in clients {
        client.expect_subscribed(channel).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c079_a_crowd_is_told_once_in_a_while_and_then_how_many_it_is() {
    let broker = boot(counting().limit("messages_per_second", 0)).await;
    let mut api = broker.api();
    let mut first = comes(&broker, "a", 1).await;
    let mut clients = crowd(&broker, MANY + 50).await;
    all_come(&mut clients[..MANY as usize], "a").await;
    api.publish("a", "marker", "").await;
    let few = counts_before_marker(&mut first).await;
    assert_eq!(few[..99], (2..=MANY).collect::<Vec<_>>());
    assert!(few.len() <= 100, "at most one more: {few:?}");
    all_come(&mut clients[MANY as usize..], "a").await;
    api.publish("a", "marker", "").await;
    let many = counts_before_marker(&mut first).await;
    assert!(many.len() <= 1, "of 50 who came: {many:?}");
    let mut told = Vec::new();
    eventually("the number of the crowd", async || {
        told.extend(first.round().await.iter().map(count_in));
        told.last() == Some(&(MANY + 51))
    })
    .await;
    assert!(told.len() <= 2, "told {told:?}");
}

/// Waits until a member of a crowd is told this count. What else it is told does not matter.
async fn learns(client: &mut Client, count: u64) {
    eventually("the number of the crowd", async || {
        client.round().await.iter().any(|frame| count_in(frame) == count)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c079_whoever_takes_anothers_place_in_a_crowd_learns_the_number_too() {
    let broker = boot(counting().limit("messages_per_second", 0)).await;
    let mut clients = crowd(&broker, MANY + 3).await;
    let (newcomer, others) = clients.split_last_mut().unwrap();
    all_come(others, "a").await;
    learns(&mut others[0], MANY + 2).await;
    others[1].unsubscribe("a").await;
    others[1].round().await;
    newcomer.subscribe("a").await;
    learns(newcomer, MANY + 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c079_a_crowd_that_breaks_up_is_told_of_each_again() {
    let broker = boot(counting()).await;
    let mut first = comes(&broker, "a", 1).await;
    let mut clients = crowd(&broker, MANY + 20).await;
    all_come(&mut clients, "a").await;
    for client in clients.drain(..40) {
        client.close().await;
    }
    broker.has_sockets(81).await;
    broker.api().publish("a", "marker", "").await;
    let told = counts_before_marker(&mut first).await;
    let downwards: Vec<_> = (81..=MANY).rev().collect();
    assert!(told.ends_with(&downwards), "told {told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn c080_members_and_users_are_never_counted() {
    let broker = boot(counting()).await;
    let mut api = broker.api();
    for channel in ["presence-a", "presence-cache-a"] {
        let (mut a, mut b) = (broker.connect().await, broker.connect().await);
        a.join(channel, r#"{"user_id":"a"}"#).await;
        b.join(channel, r#"{"user_id":"b"}"#).await;
        if channel == "presence-cache-a" {
            a.expect("pusher:cache_miss").await;
            b.expect("pusher:cache_miss").await;
        }
        a.expect("pusher_internal:member_added").await;
        nothing_more(&mut api, channel, &mut [&mut a, &mut b]).await;
        b.close().await;
        a.expect("pusher_internal:member_removed").await;
        nothing_more(&mut api, channel, &mut [&mut a]).await;
    }
    let (mut a, mut b) = (broker.connect().await, broker.connect().await);
    for client in [&mut a, &mut b] {
        client.sign_in(&user("u1")).await;
        client.subscribe(&channel_of("u1")).await;
    }
    nothing_more(&mut api, &channel_of("u1"), &mut [&mut a, &mut b]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c080_nobody_is_told_where_the_feature_is_off() {
    let broker = boot(settings()).await;
    let mut api = broker.api();
    for channel in ["a", "private-a", "private-encrypted-a"] {
        let (mut a, mut b) = (broker.connect().await, broker.connect().await);
        a.subscribe(channel).await;
        b.subscribe(channel).await;
        nothing_more(&mut api, channel, &mut [&mut a, &mut b]).await;
        b.unsubscribe(channel).await;
        b.expect_nothing().await;
        nothing_more(&mut api, channel, &mut [&mut a]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_scheduled_for_a_crowd_ends_with_it() {
    let broker = boot(counting()).await;
    let mut clients = crowd(&broker, MANY + 10).await;
    all_come(&mut clients, "a").await;
    assert_eq!(broker.metrics().await.table("jobs"), 1.0, "however many came");
    drop(clients);
    broker.has_sockets(0).await;
    broker.becomes("fanfare_table_entries{table=\"jobs\"}", 0.0).await;
    assert_eq!(broker.metrics().await.table("channels"), 0.0);
}
