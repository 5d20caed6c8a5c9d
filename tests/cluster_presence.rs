//! Presence on several nodes: everybody sees everybody, and is told of each coming and going once.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use common::nodes::{PATIENCE, mortal};
use common::{Client, Dice, Listener, Nodes, Receiver, Redis, Settings, settings, within};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const ROOM: &str = "presence-room";

fn crowded() -> Settings {
    settings().limit("max_presence_members", 2000)
}

fn member(id: &str) -> String {
    json!({"user_id": id, "user_info": {"name": id}}).to_string()
}

fn ids(present: &Value) -> BTreeSet<String> {
    present["ids"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect()
}

/// One in the room on every node.
async fn observers(nodes: &Nodes) -> Vec<Listener> {
    let mut observers = Vec::new();
    for (number, node) in nodes.iter().enumerate() {
        let observer = node.listener().await;
        observer.join(ROOM, &format!("observer-{number}")).await;
        observers.push(observer);
    }
    observers
}

fn with_observers(nodes: &Nodes, ids: impl IntoIterator<Item = String>) -> Vec<String> {
    ids.into_iter().chain((0..nodes.len()).map(|number| format!("observer-{number}"))).collect()
}

/// Joins, and sees itself and all who were told before that they are there.
async fn arrive(mut client: Client, id: String, confirmed: Arc<Mutex<BTreeSet<String>>>) -> Client {
    let before = confirmed.lock().unwrap().clone();
    let present = client.join(ROOM, &member(&id)).await;
    let seen = ids(&present);
    assert!(seen.contains(&id) && before.is_subset(&seen), "missing: {:?}", before.difference(&seen));
    assert_eq!(present["hash"][&id], json!({"name": id}));
    confirmed.lock().unwrap().insert(id);
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn users_spread_over_nodes_are_one_crowd() {
    let mut dice = Dice::printed("users_spread_over_nodes_are_one_crowd");
    let redis = Redis::start().await;
    let nodes = Nodes::start(3, &redis.url(), crowded()).await;
    let confirmed = Arc::<Mutex<BTreeSet<String>>>::default();
    let mut arrivals = JoinSet::new();
    for number in 0..300 {
        let client = nodes[dice.index(3)].connect().await;
        arrivals.spawn(arrive(client, format!("u{number}"), Arc::clone(&confirmed)));
    }
    let crowd = within(PATIENCE, "all of them", arrivals.join_all()).await;
    let all: Vec<_> = confirmed.lock().unwrap().iter().cloned().collect();
    assert_eq!(all.len(), 300);
    for node in nodes.iter() {
        let mut late = node.connect().await;
        let present = late.join(ROOM, &member("u0")).await;
        assert_eq!(ids(&present), all.iter().cloned().collect(), "what the last to come sees");
        late.close().await;
        node.lists_users(ROOM, &all).await;
        node.counts(ROOM, 300).await;
        let info = [("filter_by_prefix", "presence-"), ("info", "user_count,subscription_count")];
        let listed = node.api().get("/channels", &info).await.expect_ok();
        assert_eq!(listed["channels"], json!({ROOM: {"user_count": 300, "subscription_count": 300}}));
    }
    drop(crowd);
    for node in nodes.iter() {
        node.lists_users(ROOM, &[]).await;
        node.lists(&[]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_on_two_nodes_comes_once_and_goes_once() {
    let redis = Redis::start().await;
    let nodes = Nodes::start(3, &redis.url(), settings()).await;
    let observer = nodes[2].listener().await;
    observer.join(ROOM, "observer").await;
    let (mut one, mut two) = (nodes[0].connect().await, nodes[1].connect().await);
    one.join(ROOM, &member("ada")).await;
    let changed = json!({"user_id": "ada", "user_info": "other"}).to_string();
    let present = two.join(ROOM, &changed).await;
    assert_eq!(present["hash"]["ada"], json!({"name": "ada"}), "the first info stays");
    let everybody = ["ada".to_owned(), "observer".to_owned()];
    observer.sees(ROOM, &everybody).await;
    one.close().await;
    nodes[2].counts(ROOM, 2).await;
    nodes[2].lists_users(ROOM, &everybody).await;
    observer.look(|ear| assert_eq!((ear.sub(ROOM).added, ear.sub(ROOM).removed), (1, 0)));
    two.unsubscribe(ROOM).await;
    observer.sees(ROOM, &["observer".to_owned()]).await;
    observer.look(|ear| assert_eq!((ear.sub(ROOM).added, ear.sub(ROOM).removed), (1, 1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_room_is_full_for_the_whole_cluster() {
    let redis = Redis::start().await;
    let nodes = Nodes::start(3, &redis.url(), settings().limit("max_presence_members", 10)).await;
    let mut rush = JoinSet::new();
    for number in 0..60 {
        let mut client = nodes[number % 3].connect().await;
        rush.spawn(async move {
            client.ask_to_join(ROOM, &member(&format!("u{}", number / 2))).await;
            let frame = client.frame().await;
            (client, frame["event"] == "pusher_internal:subscription_succeeded", number / 2)
        });
    }
    let arrived = within(PATIENCE, "all of them", rush.join_all()).await;
    let inside: BTreeSet<_> = arrived.iter().filter(|arrived| arrived.1).map(|arrived| arrived.2).collect();
    assert_eq!(inside.len(), 10, "{inside:?}");
    let all: Vec<_> = inside.iter().map(|number| format!("u{number}")).collect();
    for node in nodes.iter() {
        node.lists_users(ROOM, &all).await;
        let mut again = node.connect().await;
        again.join(ROOM, &member(&all[0])).await;
        let mut stranger = node.connect().await;
        stranger.ask_to_join(ROOM, &member("stranger")).await;
        assert_eq!(stranger.expect_refused(ROOM, "").await["type"], "LimitReached");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_node_takes_its_members_along_once() {
    const CROWD: usize = 1000;
    let mut receiver = Receiver::new().await;
    let redis = Redis::start().await;
    let settings = mortal(crowded()).limit("webhook_delay", "0s").hook(&receiver.url());
    let mut nodes = Nodes::start(3, &redis.url(), settings).await;
    let observers = [nodes[1].listener().await, nodes[2].listener().await];
    for (observer, id) in observers.iter().zip(["one", "two"]) {
        observer.join(ROOM, id).await;
    }
    let mut crowd = Vec::new();
    for number in 0..CROWD {
        let mut client = nodes[0].connect().await;
        client.ask_to_join(ROOM, &member(&format!("u{number}"))).await;
        crowd.push(client);
    }
    let mut left = nodes[0].connect().await;
    left.subscribe("of-the-dead").await;
    let both = ["one".to_owned(), "two".to_owned()];
    let all: Vec<_> = (0..CROWD).map(|number| format!("u{number}")).chain(both.clone()).collect();
    for observer in &observers {
        observer.sees(ROOM, &all).await;
    }
    nodes[0].program.kill().await;
    for (observer, node) in observers.iter().zip(&nodes.iter().collect::<Vec<_>>()[1..]) {
        observer.sees(ROOM, &both).await;
        observer.look(|ear| assert_eq!(ear.sub(ROOM).removed, CROWD as u64));
        node.lists_users(ROOM, &both).await;
        node.counts(ROOM, 2).await;
        node.lists(&[ROOM]).await;
    }
    told_once(&mut receiver, &nodes, CROWD).await;
    // Whoever comes later is news again, and finds nobody who is not there.
    let mut late = nodes[2].connect().await;
    assert_eq!(late.join(ROOM, &member("u1")).await["count"], 3);
    for observer in &observers {
        observer.look(|ear| assert_eq!(ear.sub(ROOM).removed, CROWD as u64));
    }
}

/// Two channels were occupied, one of them vacated; the crowd came and went. The dead node may have
/// taken along what it had not sent, but no departure is told by two.
async fn told_once(receiver: &mut Receiver, nodes: &Nodes, crowd: usize) {
    let (mut removed, mut vacated, mut markers) = (BTreeSet::new(), 0, 0);
    let mut clients = Vec::new();
    while removed.len() < crowd || vacated == 0 || markers < 2 {
        // Each node tells what happens to it in order: nothing is on its way any more when these come.
        if removed.len() == crowd && vacated == 1 && clients.is_empty() {
            for index in [1, 2] {
                let mut client = nodes[index].connect().await;
                client.subscribe(&format!("marker-{index}")).await;
                clients.push(client);
            }
        }
        let event = receiver.event().await;
        match event["name"].as_str().unwrap() {
            "member_removed" => {
                let id = event["user_id"].as_str().unwrap();
                assert!(removed.insert(id.to_owned()), "told twice: {event}");
            }
            "channel_vacated" => {
                assert_eq!(event["channel"], "of-the-dead");
                vacated += 1;
            }
            "channel_occupied" if event["channel"].as_str().unwrap().starts_with("marker") => markers += 1,
            "member_added" | "channel_occupied" => {}
            _ => panic!("told of {event}"),
        }
    }
}

/// The same user joins and leaves on two nodes at once, again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_hops_between_nodes_comes_and_goes_in_turns() {
    const ROUNDS: usize = 5_000;
    const USERS: usize = 10;
    let redis = Redis::start().await;
    let nodes = Nodes::start(3, &redis.url(), settings()).await;
    let observers = observers(&nodes).await;
    let mut hoppers = JoinSet::new();
    let mut dice = Dice::printed("a_user_who_hops_between_nodes_comes_and_goes_in_turns");
    for number in 0..2 * USERS {
        let client = nodes[number % 2].connect().await;
        hoppers.spawn(hop(client, format!("u{}", number / 2), ROUNDS / USERS, dice.child()));
    }
    let ended = within(PATIENCE * 6, "all rounds", hoppers.join_all()).await;
    let here = ended.iter().filter(|(_, _, stays)| *stays).map(|(_, id, _)| id.clone());
    let here: BTreeSet<_> = here.collect();
    let wanted = with_observers(&nodes, here);
    for (observer, node) in observers.iter().zip(nodes.iter()) {
        observer.sees(ROOM, &wanted).await;
        node.lists_users(ROOM, &wanted).await;
    }
}

/// Joins and leaves; at the end it stays or not.
async fn hop(mut client: Client, id: String, rounds: usize, mut dice: Dice) -> (Client, String, bool) {
    for _ in 0..rounds {
        client.ask_to_join(ROOM, &member(&id)).await;
        let frames = client.round().await;
        let success = "pusher_internal:subscription_succeeded";
        let joined = frames.iter().any(|frame| frame["event"] == success);
        if !joined {
            // The answer may have to wait for Redis, while a pong does not.
            while client.frame().await["event"] != success {}
        }
        client.unsubscribe(ROOM).await;
        client.round().await;
    }
    let stays = dice.below(2) == 0;
    if stays {
        client.ask_to_join(ROOM, &member(&id)).await;
        while client.frame().await["event"] != "pusher_internal:subscription_succeeded" {}
    }
    (client, id, stays)
}
