//! Watchlists where many watch one, and one comes and goes quickly: all are told, in order, and what
//! they are told last is how it is.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::users::{user, watched_in, watching};
use common::{Broker, Client, DEADLINE, Settings, boot, eventually_within, settings};
use tokio::task::JoinSet;

/// More than are told in one go.
const WATCHERS: usize = 300;

fn at_once() -> Settings {
    settings().feature("watchlist_events", true).limit("offline_delay", "0s")
}

/// Somebody who watches `star`, and what it has been told so far.
struct Watcher {
    client: Client,
    is_online: bool,
    changes: usize,
}

impl Watcher {
    async fn new(broker: &Broker, id: &str) -> Self {
        Self::among(broker, id, 0).await
    }

    /// Watches so many others too, who never come.
    async fn among(broker: &Broker, id: &str, others: usize) -> Self {
        let mut client = broker.connect().await;
        let others: Vec<_> = (0..others).map(|number| format!("other{number}")).collect();
        let watchlist: Vec<_> = ["star"].into_iter().chain(others.iter().map(String::as_str)).collect();
        client.sign_in(&watching(id, &watchlist)).await;
        let (online, _) = client.expect_watched().await;
        Self { client, is_online: !online.is_empty(), changes: 0 }
    }

    /// Takes in what has come, and says how much it was. Each change must be one.
    async fn listen(&mut self) -> usize {
        let heard = self.client.round().await;
        for frame in &heard {
            assert_eq!(frame["event"], "pusher_internal:watchlist_events");
            let (online, offline) = watched_in(frame);
            assert_eq!(online.len() + offline.len(), 1, "in {frame}");
            let is_online = online == ["star"];
            assert_ne!(is_online, self.is_online, "told twice, by {frame}");
            self.is_online = is_online;
        }
        self.changes += heard.len();
        heard.len()
    }
}

async fn watchers(broker: &Broker) -> Vec<Watcher> {
    let mut watchers = Vec::new();
    for number in 0..WATCHERS {
        watchers.push(Watcher::new(broker, &format!("w{number}")).await);
    }
    watchers
}

async fn star(broker: &Broker) -> Client {
    let mut star = broker.connect().await;
    star.sign_in(&user("star")).await;
    star
}

/// All learn how it is, and hear nothing else in a whole round of asking.
async fn all_learn(watchers: &mut [Watcher], is_online: bool) {
    // There may be many thousand frames to read.
    eventually_within(2 * DEADLINE, "all know how it is", async || {
        let mut heard = 0;
        for watcher in &mut *watchers {
            heard += watcher.listen().await;
        }
        heard == 0 && watchers.iter().all(|watcher| watcher.is_online == is_online)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_a_crowd_is_told_once() {
    let broker = boot(at_once()).await;
    let mut watchers = watchers(&broker).await;
    let star = star(&broker).await;
    all_learn(&mut watchers, true).await;
    star.close().await;
    all_learn(&mut watchers, false).await;
    assert!(watchers.iter().all(|watcher| watcher.changes == 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crowd_is_told_last_is_true_however_quickly_it_changes() {
    let broker = boot(at_once()).await;
    let mut watchers = watchers(&broker).await;
    for number in 0..50 {
        let star = star(&broker).await;
        if number % 2 == 0 {
            star.close().await;
        }
    }
    all_learn(&mut watchers, false).await;
    let _star = star(&broker).await;
    all_learn(&mut watchers, true).await;
}

/// Comes and goes until it is told to stop.
async fn restless(broker: &Broker, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        star(broker).await.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_begins_to_watch_amid_changes_learns_how_it_is() {
    let broker = Arc::new(boot(at_once()).await);
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for _ in 0..2 {
        let (broker, stop) = (Arc::clone(&broker), Arc::clone(&stop));
        tasks.spawn(async move { restless(&broker, &stop).await });
    }
    let mut late = Vec::new();
    for number in 0..WATCHERS / 2 {
        let mut watcher = Watcher::among(&broker, &format!("late{number}"), 99).await;
        watcher.listen().await;
        late.push(watcher);
    }
    stop.store(true, Ordering::Relaxed);
    tasks.join_all().await;
    all_learn(&mut late, false).await;
    let _star = star(&broker).await;
    all_learn(&mut late, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changing_watchlists_amid_changes_leave_nobody_behind() {
    let broker = boot(at_once()).await;
    let mut tasks = JoinSet::new();
    for number in 0..20 {
        let mut client = broker.connect().await;
        tasks.spawn(async move {
            for round in 0..20 {
                let watched = format!("u{}", (number + round) % 20);
                let data = watching(&format!("u{number}"), &[&watched, "star"]);
                client.send(client.signing_in(&data)).await;
                assert!(client.round().await.len() >= 2, "a success and a state");
            }
            client.close().await;
        });
    }
    for _ in 0..50 {
        star(&broker).await.close().await;
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("one of the crowd");
    }
    broker.becomes("fanfare_table_entries{table=\"users\"}", 0.0).await;
}
