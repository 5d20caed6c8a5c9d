//! Nothing is left of a crowd: when all have gone, every table of the broker is empty.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::client::{Heard, subscribe_with};
use common::users::{channel_of, user, watched_in, watching};
use common::{APP, Api, Broker, Client, HOME, Settings, boot, eventually, settings};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// Sockets at a time; with those who have not quite left it is a crowd to be counted in a while.
const WAVE: usize = 125;
const WAVES: usize = 80;
const USERS: usize = 50;
/// What must be 0 in the end.
const GAUGES: [&str; 8] = [
    "fanfare_table_entries",
    "fanfare_connections",
    "fanfare_channels",
    "fanfare_subscriptions",
    "fanfare_members",
    "fanfare_users",
    "fanfare_cached_events",
    "fanfare_cached_bytes",
];

fn every_feature() -> Settings {
    ["client_events", "subscription_count", "watchlist_events", "authorized_connections"]
        .iter()
        .fold(settings(), |settings, feature| settings.feature(feature, true))
        .limit("authorization_timeout", "1h")
        .limit("offline_delay", "20ms")
        .limit("cache_ttl", "100ms")
        .limit("max_presence_members", 1000)
}

fn id_of(number: usize) -> String {
    format!("u{}", number % USERS)
}

/// One socket's way through every feature.
async fn visitor(address: SocketAddr, number: usize) -> Client {
    let mut client = Client::open(address, HOME, &[]).await.expect("the upgrade is completed");
    client.expect_established().await;
    let commands = visit(&client, number);
    client.send_together(commands).await;
    let heard = client.round().await;
    let succeeded = |frame: &&Value| frame["event"] == "pusher_internal:subscription_succeeded";
    assert_eq!(heard.iter().filter(succeeded).count(), 7, "in {heard:?}");
    assert!(heard.iter().all(|frame| frame["event"] != "pusher:error"), "in {heard:?}");
    client
}

fn visit(client: &Client, number: usize) -> Vec<Value> {
    let id = id_of(number);
    let (next, other) = (id_of(number + 1), id_of(number * 7));
    let rooms = ["presence-signed-in", "presence-given"];
    let channel_data = json!({"user_id": format!("m{}", number % 70), "user_info": {}}).to_string();
    let mine = format!("private-{number}");
    let mut commands = vec![
        client.signing_in(&watching(&id, &[&next, &other, &id, "nobody"])),
        client.subscription(&channel_of(&id)),
        client.subscription(rooms[0]),
        subscribe_with(json!({
            "auth": APP.auth(&client.socket_id, rooms[1], Some(&channel_data)),
            "channel": rooms[1],
            "channel_data": channel_data,
        })),
    ];
    commands.extend(["private-all", &mine, "cache-all", "all"].map(|name| client.subscription(name)));
    commands.push(json!({"event": "client-x", "channel": mine, "data": {}}));
    if number.is_multiple_of(3) {
        commands.push(json!({"event": "client-x", "channel": "private-all", "data": {}}));
        commands.push(client.signing_in(&watching(&id, &[&other])));
    }
    for left in ["all", &channel_of(&id)].into_iter().take(number % 3) {
        commands.push(json!({"event": "pusher:unsubscribe", "data": {"channel": left}}));
    }
    commands
}

/// What the backend does while a wave is there; shows one user out.
async fn backend(api: &mut Api, shown_out: &str) {
    for channel in ["all", "cache-all", "cache-empty", "private-all", "presence-given", "nowhere"] {
        api.publish(channel, "e", "d").await;
    }
    api.publish(&channel_of(&id_of(1)), "e", "d").await;
    api.publish(&channel_of("nobody"), "e", "d").await;
    api.get("/channels", &[("info", "subscription_count")]).await.expect_ok();
    api.get("/channels/cache-all", &[("info", "subscription_count,cache")]).await.expect_ok();
    api.get("/channels/unheard-of", &[]).await.expect_ok();
    api.get("/channels/presence-given/users", &[]).await.expect_ok();
    api.terminate(shown_out).await;
    api.terminate("nobody").await;
}

/// Goes in one of two ways, or is shown out.
async fn go(mut client: Client, number: usize, shown_out: bool) {
    match (shown_out, number % 2) {
        (true, _) => loop {
            match client.hear().await {
                Heard::Frame(_) => {}
                Heard::Closed { code: 4009, .. } => return,
                other => panic!("heard {other:?}"),
            }
        },
        (false, 0) => client.close().await,
        (false, _) => drop(client),
    }
}

async fn wave(broker: &Broker, api: &mut Api, first: usize) {
    let mut coming = JoinSet::new();
    for number in first..first + WAVE {
        let address = broker.address;
        coming.spawn(async move { (visitor(address, number).await, number) });
    }
    let visitors = coming.join_all().await;
    let shown_out = id_of(first);
    backend(api, &shown_out).await;
    let mut going = JoinSet::new();
    for (client, number) in visitors {
        going.spawn(go(client, number, id_of(number) == shown_out));
    }
    going.join_all().await;
}

/// All that waits for its time has had it by then.
async fn becomes_empty(broker: &Broker) {
    const LIMIT: Duration = Duration::from_secs(20);
    let started = Instant::now();
    loop {
        let metrics = broker.metrics().await;
        let left_over = metrics.left_over(&GAUGES);
        if left_over.is_empty() {
            return;
        }
        assert!(started.elapsed() < LIMIT, "left over: {left_over:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_ten_thousand_sockets_that_did_everything() {
    let broker = boot(every_feature()).await;
    let mut api = broker.api();
    let mut idle = broker.connect().await;
    for number in 0..WAVES {
        wave(&broker, &mut api, number * WAVE).await;
    }
    idle.subscribe("cache-all").await;
    let full = broker.metrics().await;
    assert_eq!(full.table("unauthorized_sockets"), 1.0);
    assert!(full.get("fanfare_connections{app=\"1\"}") >= 1.0, "{full:?}");
    assert!(full.get("fanfare_deliveries_total") > 100_000.0, "{full:?}");
    assert!(full.get("fanfare_opened_connections_total") == (WAVES * WAVE + 1) as f64, "{full:?}");
    idle.close().await;
    becomes_empty(&broker).await;
}

/// Comes and goes as `u1`, several times one after another.
async fn restless(address: SocketAddr, times: usize, seed: usize) {
    for number in 0..times {
        let mut client = Client::open(address, HOME, &[]).await.expect("the upgrade is completed");
        client.expect_established().await;
        client.sign_in(&user("u1")).await;
        match (seed + number) % 2 {
            0 => client.close().await,
            _ => drop(client),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_sign_ins_and_outs_of_one_user_end_true() {
    // The watcher does not wait between two looks.
    let busy = every_feature().limit("messages_per_second", 0);
    let broker = boot(busy.limit("offline_delay", "0s")).await;
    let mut watcher = broker.connect().await;
    watcher.sign_in(&watching("watcher", &["u1"])).await;
    assert_eq!(watcher.expect_watched().await, (vec![], vec!["u1".to_owned()]));
    let mut is_online = false;
    let mut changes = 0;
    for _ in 0..5 {
        let mut crowd = JoinSet::new();
        for seed in 0..20 {
            crowd.spawn(restless(broker.address, 10, seed));
        }
        crowd.join_all().await;
        broker.has_sockets(1).await;
        eventually("the watcher knows that the user has left", async || {
            for frame in watcher.round().await {
                let now_online = !watched_in(&frame).0.is_empty();
                assert_ne!(now_online, is_online, "told twice: {frame}");
                (is_online, changes) = (now_online, changes + 1);
            }
            !is_online && changes > 0
        })
        .await;
        watcher.expect_nothing().await;
    }
    assert!((2..=2000).contains(&changes) && changes % 2 == 0, "told {changes} times");
    watcher.close().await;
    becomes_empty(&broker).await;
}
