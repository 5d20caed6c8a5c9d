//! A running broker follows its configuration: apps change, come and go, and nobody else is disturbed.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::{Arc, mpsc};

use common::certificates::{Authority, Folder};
use common::stage::{REFUSED, RELOADS, Stage, by_hand};
use common::told::{told, told_of};
use common::{APP, Client, Credentials, Nodes, OTHER, Receiver, Settings, eventually, in_time, settings};
use fanfare::config::Config;
use serde_json::json;
use tokio::sync::{oneshot, watch};

/// The same app by the pair that it is to have next.
const NEXT: Credentials = Credentials { id: "1", key: "next-key", secret: "next-secret" };
const NEXT_HOME: &str = "/app/next-key?protocol=7&client=js&version=8.6.0&flash=false";
const NEIGHBOURS_HOME: &str = "/app/other-key?protocol=7&client=js&version=8.6.0&flash=false";

/// The config with only the second app.
fn without_the_first(settings: &Settings) -> String {
    let mut whole: toml::Table = settings.to_toml().parse().unwrap();
    whole["apps"].as_array_mut().unwrap().remove(0);
    whole.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn features_and_limits_change_for_who_is_connected() {
    let mut stage = Stage::new(by_hand().feature("client_events", false)).await;
    let mut one = stage.connect(common::HOME).await;
    let mut two = stage.connect(common::HOME).await;
    one.subscribe("private-a").await;
    two.subscribe("private-a").await;
    one.whisper("private-a", "client-e", json!("too early")).await;
    one.expect_error("").await;
    stage.reload(&by_hand().feature("client_events", true).limit("max_event_bytes", 20)).await;
    one.whisper("private-a", "client-e", json!("now")).await;
    two.expect_event("private-a", "client-e", "now").await;
    one.whisper("private-a", "client-e", json!("x".repeat(21))).await;
    one.expect_error("").await;
    two.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_changed_with_an_overlap() {
    let mut stage = Stage::new(by_hand()).await;
    let mut old = stage.connect(common::HOME).await;
    old.subscribe("a").await;
    assert_eq!(stage.publish(NEXT, "a").await, 401);
    let pair =
        toml::Table::from_iter([("key".into(), NEXT.key.into()), ("secret".into(), NEXT.secret.into())]);
    stage.reload(&by_hand().app("keys", vec![pair])).await;
    let mut new = stage.connect(NEXT_HOME).await;
    new.subscribe("a").await;
    for by in [APP, NEXT] {
        assert_eq!(stage.publish(by, "a").await, 200);
        old.expect_event("a", "e", "x").await;
        new.expect_event("a", "e", "x").await;
    }
    stage.reload(&by_hand().app("key", NEXT.key).app("secret", NEXT.secret)).await;
    assert_eq!(stage.publish(APP, "a").await, 401);
    stage.open(common::HOME).await.closed_with(4001).await;
    // Who came by the old key stays.
    assert_eq!(stage.publish(NEXT, "a").await, 200);
    old.expect_event("a", "e", "x").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_app_ends_its_sockets_and_comes_back() {
    let mut stage = Stage::new(by_hand()).await;
    let mut client = stage.connect(common::HOME).await;
    let mut neighbour = stage.connect(NEIGHBOURS_HOME).await;
    neighbour.subscribe("a").await;
    stage.reload(&by_hand().app("enabled", false)).await;
    client.closed_with(4003).await;
    stage.open(common::HOME).await.closed_with(4003).await;
    assert_eq!(stage.publish(APP, "a").await, 403);
    assert_eq!(stage.publish(OTHER, "a").await, 200);
    neighbour.expect_event("a", "e", "x").await;
    stage.reload(&by_hand()).await;
    stage.connect(common::HOME).await.subscribe("a").await;
    assert_eq!(stage.publish(APP, "a").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_app_ends_its_sockets_and_comes_back() {
    let mut stage = Stage::new(by_hand()).await;
    let mut client = stage.connect(common::HOME).await;
    client.subscribe("private-a").await;
    let mut neighbour = stage.connect(NEIGHBOURS_HOME).await;
    stage.reload_text(&without_the_first(&by_hand())).await;
    client.closed_with(4001).await;
    stage.open(common::HOME).await.closed_with(4001).await;
    assert_eq!(stage.publish(APP, "a").await, 404);
    assert!(neighbour.round().await.is_empty());
    let log = stage.node().program.log();
    assert!(log.contains("removed=[\"1\"]"), "{log}");
    stage.reload(&by_hand().limit("max_connections", 1)).await;
    // What was open before does not count.
    let mut again = stage.connect(common::HOME).await;
    again.subscribe("private-a").await;
    assert_eq!(stage.publish(APP, "private-a").await, 200);
    again.expect_event("private-a", "e", "x").await;
    stage.open(common::HOME).await.closed_with(4004).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_are_added_changed_and_removed() {
    let base = || by_hand().limit("webhook_delay", "0s");
    let (mut first, mut second) = (Receiver::new().await, Receiver::new().await);
    let mut stage = Stage::new(base()).await;
    let mut client = stage.connect(common::HOME).await;
    client.subscribe("before").await;
    stage.reload(&base().hook(&first.url()).of_hook("batch", false)).await;
    client.subscribe("one").await;
    first.expect([told("channel_occupied", "one")]).await;
    let both = base().hook(&second.url()).of_hook("events", vec!["member_added"]).hook(&first.url());
    stage.reload(&both.of_hook("batch", false)).await;
    client.join("presence-a", r#"{"user_id":"ada"}"#).await;
    second.expect([told_of("member_added", "presence-a", "ada")]).await;
    first
        .expect([told("channel_occupied", "presence-a"), told_of("member_added", "presence-a", "ada")])
        .await;
    stage.reload(&base().hook(&second.url()).of_hook("batch", false)).await;
    client.subscribe("three").await;
    second.expect([told("channel_occupied", "three")]).await;
    assert!(first.come().is_empty(), "it was removed");
    // With the key that signs from now on.
    let next = base().app("key", NEXT.key).app("secret", NEXT.secret);
    stage.reload(&next.hook(&second.url()).of_hook("batch", false)).await;
    let mut second = second.owned_by(NEXT);
    client.subscribe("four").await;
    second.expect([told("channel_occupied", "four")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_says_more_and_less() {
    let mut stage = Stage::new(by_hand()).await;
    let text = by_hand().to_toml();
    let debugging = format!("{text}\n[log]\nlevel = \"debug\"\n");
    stage.publish(OTHER, "").await;
    assert!(!stage.node().program.log().contains("DEBUG"));
    stage.reload_text(&debugging).await;
    stage.publish(OTHER, "").await;
    let said = async || stage.node().program.log().contains("API request refused");
    eventually("a line of debugging", said).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_changes_nothing_and_is_named() {
    let mut stage = Stage::new(by_hand()).await;
    let mut client = stage.connect(common::HOME).await;
    client.subscribe("a").await;
    let wrong = by_hand().app("enabled", false).limit("max_event_bytes", "a lot").to_toml();
    let log = stage.refuses(&wrong).await;
    assert!(log.contains("fanfare.toml:") && log.contains("apps[0].limits.max_event_bytes"), "{log}");
    let log = stage.refuses("apps = [").await;
    assert!(log.contains("not TOML"), "{log}");
    assert_eq!(stage.publish(APP, "a").await, 200);
    client.expect_event("a", "e", "x").await;
    stage.reload(&by_hand()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_change_is_named_and_nothing_else_changes() {
    let mut stage = Stage::new(by_hand().server("max_fallback_sessions", 0)).await;
    let other = by_hand().app("enabled", false).server("listen", vec!["127.0.0.1:1"]);
    let other = other.cluster("prefix", "other").server("max_fallback_sessions", 7);
    let log = stage.refuses(&other.to_toml()).await;
    let said = "server.listen, cluster: cannot change while the broker runs";
    assert!(log.contains(said), "{log}");
    stage.connect(common::HOME).await;
    assert!(!stage.has_room_for_a_fallback().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_followed_when_that_is_switched_on() {
    let mut stage = Stage::new(by_hand()).await;
    let mut client = stage.connect(common::HOME).await;
    let watching = by_hand().server("reload_on_change", true);
    stage.reload(&watching).await;
    stage.node().program.rewrite(&watching.app("enabled", false).to_toml());
    client.closed_with(4003).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_followed_without_being_asked() {
    let watching = || settings().cluster("engine", "local");
    let nodes = Nodes::alone(watching()).await;
    let mut client = nodes[0].connect().await;
    nodes[0].program.rewrite("apps = [");
    nodes[0].becomes(REFUSED, 1.0).await;
    nodes[0].program.rewrite(&watching().app("enabled", false).to_toml());
    client.closed_with(4003).await;
    nodes[0].becomes(RELOADS, 1.0).await;
}

/// A certificate and an app are no reason to refuse each other.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_read_again_by_themselves() {
    let (folder, authority) = (Folder::new("reload"), Authority::new());
    folder.hold(&authority.issue_number(1));
    let files = ["cert", "key"].map(|name| (name.to_owned(), folder.file(&format!("{name}.pem")).into()));
    let with_tls = |settings: Settings| {
        let settings = settings.server("listen", vec!["127.0.0.1:0", "tls://127.0.0.1:0"]);
        settings.server("tls", toml::Table::from_iter(files.clone()))
    };
    let mut stage = Stage::new(with_tls(by_hand())).await;
    let changed = "fanfare_tls_reloads_total{result=\"changed\"}";
    folder.hold(&authority.issue_number(2));
    stage.reload(&with_tls(by_hand())).await;
    stage.node().becomes(changed, 1.0).await;
    folder.write("cert.pem", "no certificate");
    stage.reload(&with_tls(by_hand().feature("client_events", true))).await;
    stage.node().becomes("fanfare_tls_reload_failed", 1.0).await;
    folder.hold(&authority.issue_number(3));
    stage.refuses("apps = [").await;
    stage.node().becomes(changed, 2.0).await;
    stage.node().becomes("fanfare_tls_reload_failed", 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_signals_loses_nothing() {
    let stage = Stage::new(by_hand()).await;
    let mut client = stage.connect(common::HOME).await;
    client.subscribe("a").await;
    for number in 0..100 {
        stage.node().program.hang_up();
        stage.node().api().publish("a", "e", &number.to_string()).await;
        client.expect_event("a", "e", &number.to_string()).await;
    }
    let reloaded = async || stage.node().metric(RELOADS).await > 0.0;
    eventually("a reload", reloaded).await;
    assert_eq!(stage.node().metric(REFUSED).await, 0.0);
    assert_eq!(stage.publish(APP, "a").await, 200);
}

/// Opening it would wait for ever for somebody who writes to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_in_place_of_the_file_is_refused() {
    let mut stage = Stage::new(by_hand()).await;
    let mut client = stage.connect(common::HOME).await;
    let log = stage.refuses_a_pipe().await;
    assert!(log.contains("fanfare.toml: cannot be read: it is not a regular file"), "{log}");
    assert!(client.round().await.is_empty());
    client.close().await;
    let ended = stage.nodes.pop().program.stop(common::DEADLINE).await;
    assert_eq!(ended.code, Some(0), "{}", ended.log);
}

/// One thread runs everything here: who blocked it would hear of nothing any more.
#[tokio::test]
async fn a_disk_that_does_not_answer_holds_nobody_up() {
    let config = |enabled: bool| Config::parse(&by_hand().app("enabled", enabled).to_toml()).unwrap();
    let broker = fanfare::Broker::bind(config(true)).await.unwrap();
    let (control, address) = (broker.control(), broker.public_addrs()[0]);
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(broker.run(async { drop(stopped.await) }));
    let mut client = Client::open(address, common::HOME, &[]).await.unwrap();
    client.expect_established().await;
    let (answer, disk) = mpsc::channel();
    let (asked, mut began) = watch::channel(0);
    let reload = |enabled: bool, disk: Option<mpsc::Receiver<()>>| {
        let (control, asked, config) = (Arc::clone(&control), asked.clone(), config(enabled));
        tokio::spawn(async move {
            let load = move || {
                asked.send_modify(|count| *count += 1);
                disk.map(|disk| disk.recv());
                Ok(config)
            };
            control.reload(load).await
        })
    };
    let first = reload(false, Some(disk));
    in_time("a reading", began.wait_for(|count| *count == 1)).await.unwrap();
    let second = reload(true, None);
    assert!(client.round().await.is_empty());
    assert_eq!(*began.borrow_and_update(), 1, "two read at once");
    answer.send(()).unwrap();
    // In turn: the first disables the app, the second serves it again.
    client.closed_with(4003).await;
    let ended = in_time("both", async { (first.await.unwrap(), second.await.unwrap()) }).await;
    assert!(
        ended.0.is_ok_and(|done| done.changed == ["1"]) && ended.1.is_ok_and(|done| done.changed == ["1"])
    );
    let (answer, disk) = mpsc::channel();
    let third = reload(true, Some(disk));
    in_time("a reading", began.wait_for(|count| *count == 3)).await.unwrap();
    stop.send(()).unwrap();
    in_time("the end", running).await.unwrap().unwrap();
    drop(answer);
    assert!(in_time("an answer", third).await.unwrap().is_err(), "it has stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reading_that_panics_changes_nothing() {
    let config = Config::parse(&by_hand().to_toml()).unwrap();
    let control = fanfare::Broker::bind(config.clone()).await.unwrap().control();
    assert!(control.reload(|| panic!("as this test wants it")).await.is_err());
    assert!(control.reload(|| Ok(config)).await.is_ok());
}
