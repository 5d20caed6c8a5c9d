//! What bounds webhooks: requests, queues, the list of failed events, and the grace of a stop.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::Arc;

use common::receiver::PATIENCE;
use common::{APP, Answer, Client, HOME, Program, Receiver, Settings, boot, http, settings};
use fanfare::apps::LiveApp;
use fanfare::config::Config;
use fanfare::hub::{Fact, Observer};
use fanfare::model::channel::ChannelName;
use fanfare::model::quoted::Quoted;
use fanfare::model::socket::SocketId;
use fanfare::pusher::PusherWebhooks;
use fanfare::webhook::{self, Endpoint, Webhooks};
use serde_json::{Value, json};
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Events in one request, at most.
const MAX_BATCH: usize = 100;
/// What an event costs in a queue beside its bytes.
const OVERHEAD: usize = 64;
const FLOOD: usize = 200_000;

/// Webhooks without a broker: what the hub would report is told to them directly.
struct Stage {
    webhooks: Arc<Webhooks>,
    observer: Arc<dyn Observer>,
    endpoint: Arc<Endpoint>,
    socket: SocketId,
}

impl Stage {
    fn new(settings: &Settings) -> Self {
        let config = Config::parse(&settings.to_toml()).expect("a config");
        let apps: Vec<_> = config.apps.into_iter().map(|app| Arc::new(LiveApp::new(app))).collect();
        let webhooks = Webhooks::new(&apps, &config.webhooks, Arc::new(PusherWebhooks)).expect("webhooks");
        let observer = webhooks.observers().pop().expect("an app with webhooks").1;
        let endpoint = webhooks.endpoints().remove(0);
        let socket = SocketId::draw().expect("an id");
        Self { webhooks: Arc::new(webhooks), observer, endpoint, socket }
    }

    fn run(&self) -> JoinHandle<()> {
        tokio::spawn(Arc::clone(&self.webhooks).run())
    }

    /// The channel of this number is occupied and vacated in turns.
    fn note(&self, number: usize) {
        let name = ChannelName::parse(&format!("c-{}", number / 2), 200).expect("a name");
        self.observer.note(&name, if number.is_multiple_of(2) { Fact::Occupied } else { Fact::Vacated });
    }

    /// A client event whose length is always the same.
    fn whisper(&self, number: usize) {
        let (name, data) = (Quoted::from_text("client-e"), Quoted::from_text(&format!("{number:08}")));
        let socket = self.socket;
        let channel = ChannelName::parse("private-a", 200).expect("a name");
        self.observer.note(&channel, Fact::ClientEvent { name, data, socket, user_id: None });
    }

    fn dropped(&self) -> usize {
        usize::try_from(self.endpoint.stats.dropped.get()).expect("a count")
    }

    fn dead(&self) -> usize {
        usize::try_from(self.endpoint.stats.dead.get()).expect("a count")
    }
}

fn noted(number: usize) -> Value {
    let name = if number.is_multiple_of(2) { "channel_occupied" } else { "channel_vacated" };
    json!({"name": name, "channel": format!("c-{}", number / 2)})
}

/// The channels that a crowd leaves together.
const CROWD: usize = 30_000;

fn crowd() -> impl Iterator<Item = String> {
    (0..CROWD).map(|number| format!("c-{number}"))
}

fn crowd_leaves(stage: &Stage) {
    for channel in crowd() {
        stage.observer.note(&ChannelName::parse(&channel, 200).expect("a name"), Fact::Vacated);
    }
}

fn vacated(channel: &str) -> Value {
    json!({"name": "channel_vacated", "channel": channel})
}

fn told_to(url: &str) -> Settings {
    settings().feature("client_events", true).limit("webhook_delay", "0s").hook(url)
}

/// A port that is ours, and where nobody listens.
fn nobody() -> (TcpSocket, String) {
    let (socket, address) = common::nobody();
    (socket, format!("http://{address}/"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_has_a_hundred_events_at_most_and_all_come_in_order() {
    let mut receiver = Receiver::new().await;
    let stage = Stage::new(&told_to(&receiver.url()));
    (0..250).for_each(|number| stage.note(number));
    let running = stage.run();
    let mut events = Vec::new();
    for count in [100, 100, 50] {
        let batch = receiver.request().await.events(APP);
        assert_eq!(batch.len(), count);
        events.extend(batch);
    }
    assert_eq!(events, (0..250).map(noted).collect::<Vec<_>>());
    running.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_at_a_dead_endpoint_leaves_the_latest_events_and_counts_the_rest() {
    const BOUND: usize = 500;
    let (socket, url) = nobody();
    let stage = Stage::new(&told_to(&url).webhooks("max_queue_events", BOUND as i64));
    let running = stage.run();
    for number in 0..FLOOD {
        stage.note(number);
        assert!(stage.endpoint.unsent() <= BOUND + MAX_BATCH, "after {number}");
        if number.is_multiple_of(1_000) {
            tokio::task::yield_now().await;
        }
    }
    // The request under way does not count as waiting.
    let under_way = stage.endpoint.unsent() - BOUND;
    assert_eq!(stage.dropped(), FLOOD - BOUND - under_way);
    assert_eq!((stage.webhooks.departures(), stage.webhooks.failed_len()), (0, 0));
    let mut receiver = Receiver::at(socket);
    let mut events = Vec::new();
    while events.len() < under_way + BOUND {
        events.push(receiver.event().await);
    }
    assert_eq!(events[under_way..], (FLOOD - BOUND..FLOOD).map(noted).collect::<Vec<_>>());
    running.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_at_a_hanging_endpoint_is_bounded_in_bytes() {
    let hanging = Receiver::scripted([], Answer::Hang).await;
    let stage = Stage::new(&told_to(&hanging.url()).webhooks("max_queue_bytes", "64KiB"));
    let event = r#"{"name":"client_event","channel":"private-a","event":"client-e","data":"00000000","#;
    let event = format!(r#"{event}"socket_id":"{}"}}"#, stage.socket);
    let bound = 64 * 1024 / (event.len() + OVERHEAD);
    let running = stage.run();
    for number in 0..FLOOD {
        stage.whisper(number);
        assert!(stage.endpoint.unsent() <= bound + MAX_BATCH, "after {number}");
        if number.is_multiple_of(1_000) {
            tokio::task::yield_now().await;
        }
    }
    assert!((bound..=bound + MAX_BATCH).contains(&stage.endpoint.unsent()));
    assert_eq!(stage.dropped() + stage.endpoint.unsent(), FLOOD);
    running.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_events_are_bounded_and_counted() {
    let (_socket, url) = nobody();
    let settings = told_to(&url).webhooks("retry_for", "0s").webhooks("max_failed_events", 50);
    let stage = Stage::new(&settings.of_hook("batch", false).webhooks("max_queue_events", 1_000));
    let running = stage.run();
    for number in 0..FLOOD {
        stage.whisper(number);
        assert!(stage.webhooks.failed_len() <= 50, "after {number}");
        if number.is_multiple_of(100) {
            tokio::task::yield_now().await;
        }
    }
    common::eventually("an empty queue", async || stage.endpoint.unsent() == 0).await;
    assert_eq!(stage.dropped() + stage.dead(), FLOOD);
    let failed: Value = serde_json::from_str(&stage.webhooks.failed(&webhook::Selection::default())).unwrap();
    assert_eq!(failed["failed"].as_array().expect("a list").len(), 50);
    assert_eq!(failed["failed"][49]["event"]["data"], format!("{:08}", FLOOD - 1));
    assert_eq!(failed["forgotten"], stage.dead() - 50);
    running.abort();
}

/// Two thirds of them were once forgotten, though the endpoint answers at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_that_leaves_together_is_told_of_whole() {
    let mut receiver = Receiver::new().await;
    let stage = Stage::new(&told_to(&receiver.url()).limit("webhook_delay", "100ms"));
    let running = stage.run();
    crowd_leaves(&stage);
    receiver.expect(crowd().map(|channel| vacated(&channel))).await;
    assert_eq!((stage.dropped(), stage.webhooks.departures()), (0, 0));
    running.abort();
}

/// The same, and the log said that all was well.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_tells_of_a_crowd_whole() {
    let mut receiver = Receiver::new().await;
    let stage = Stage::new(&told_to(&receiver.url()).limit("webhook_delay", "1h"));
    let running = stage.run();
    crowd_leaves(&stage);
    stage.webhooks.hurry();
    assert_eq!(stage.webhooks.drain(Instant::now() + PATIENCE).await, 0);
    let told: Vec<Value> = receiver.come().iter().flat_map(|request| request.events(APP)).collect();
    assert_eq!(told.len(), CROWD);
    assert!(told.iter().zip(crowd()).all(|(event, channel)| *event == vacated(&channel)));
    running.abort();
}

/// Nobody waits for room at an endpoint that is down.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_down_holds_no_departures_back() {
    let (mut well, (_socket, url)) = (Receiver::new().await, nobody());
    let settings = told_to(&well.url()).hook(&url).limit("webhook_delay", "1h");
    let stage = Stage::new(&settings.webhooks("max_queue_events", 1_000));
    let running = stage.run();
    crowd_leaves(&stage);
    stage.webhooks.hurry();
    well.expect(crowd().map(|channel| vacated(&channel))).await;
    assert_eq!((stage.dropped(), stage.webhooks.departures()), (0, 0));
    // Both what did not find room and what was left at the end is lost, and told so.
    let lost = async || stage.webhooks.drain(Instant::now()).await;
    common::eventually("all lost at the other", async || lost().await == CROWD).await;
    running.abort();
}

/// What only another channel's endpoints want is not remembered either.
#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_wants_is_not_remembered() {
    let (_socket, url) = nobody();
    let settings = told_to(&url).limit("webhook_delay", "1h").of_hook("channel_prefix", "cache-a");
    let stage = Stage::new(&settings.of_hook("events", vec!["channel_occupied", "cache_miss"]));
    let note = |channel: &str, fact| {
        stage.observer.note(&ChannelName::parse(channel, 200).expect("a name"), fact);
    };
    for channel in ["cache-b", "cache-a"] {
        assert_eq!((stage.webhooks.departures(), stage.webhooks.misses()), (0, 0), "before {channel}");
        note(channel, Fact::CacheMiss);
        note(channel, Fact::Vacated);
        stage.whisper(0);
        note(channel, Fact::Counted(1));
    }
    // A departure that is not told still has the return not told.
    assert_eq!((stage.webhooks.departures(), stage.webhooks.misses(), stage.endpoint.unsent()), (1, 1, 1));
}

fn user(id: &str) -> String {
    json!({"user_id": id}).to_string()
}

fn told(name: &str, user_id: Option<&str>) -> Value {
    let mut told = json!({"name": name, "channel": "presence-room"});
    if let Some(user_id) = user_id {
        told["user_id"] = json!(user_id);
    }
    told
}

/// The first try of the second endpoint fails; there is time for another.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_tells_the_departures_of_the_sockets_that_it_closes() {
    let (mut well, mut recovers) =
        (Receiver::new().await, Receiver::scripted([Answer::Status(503)], Answer::Status(200)).await);
    let settings = told_to(&well.url()).limit("webhook_delay", "1h").hook(&recovers.url());
    let mut broker = boot(settings.server("shutdown_grace", "10s")).await;
    let (mut ada, mut bob) = (broker.connect().await, broker.connect().await);
    ada.join("presence-room", &user("ada")).await;
    bob.join("presence-room", &user("bob")).await;
    bob.unsubscribe("presence-room").await;
    bob.round().await;
    broker.begin_stop();
    ada.expect("pusher_internal:member_added").await;
    ada.expect("pusher_internal:member_removed").await;
    ada.closed_with(4200).await;
    bob.closed_with(4200).await;
    broker.ended(PATIENCE).await;
    let expected = [
        told("channel_occupied", None),
        told("member_added", Some("ada")),
        told("member_added", Some("bob")),
        told("member_removed", Some("bob")),
        told("member_removed", Some("ada")),
        told("channel_vacated", None),
    ];
    // All had come when the broker ended.
    let come = |receiver: &mut Receiver| -> Vec<Value> {
        receiver.come().iter().flat_map(|request| request.events(APP)).collect()
    };
    assert_eq!(come(&mut well), expected);
    let mut twice = come(&mut recovers);
    let tried = twice.len() - expected.len();
    assert!(tried > 0, "the failed try");
    assert_eq!(twice.split_off(tried), expected);
}

/// One that never answers a close takes all of the grace, of which nothing was once left for webhooks.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_tells_what_it_can_while_it_waits_for_the_stubborn() {
    let mut receiver = Receiver::new().await;
    let settings = told_to(&receiver.url()).limit("webhook_delay", "1h");
    let mut broker = boot(settings.server("shutdown_grace", "4900ms")).await;
    let mut ada = broker.connect().await;
    ada.join("presence-room", &user("ada")).await;
    let _stubborn = broker.raw().await;
    broker.begin_stop();
    ada.closed_with(4200).await;
    drop(ada);
    broker.ended(PATIENCE).await;
    let come: Vec<Value> = receiver.come().iter().flat_map(|request| request.events(APP)).collect();
    let expected = [
        told("channel_occupied", None),
        told("member_added", Some("ada")),
        told("member_removed", Some("ada")),
        told("channel_vacated", None),
    ];
    assert_eq!(come, expected);
}

/// Through the program itself, whose log is read: one line about what is forgotten, and the last one
/// about what is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_a_hanging_endpoint_no_longer_than_the_grace_and_counts_what_is_lost() {
    const WHISPERS: i64 = 30;
    let mut hanging = Receiver::scripted([], Answer::Hang).await;
    let settings = told_to(&hanging.secret_url())
        .of_hook("events", vec!["client_event"])
        .of_hook("batch", false)
        .limit("client_events_per_second", 0)
        .webhooks("timeout", "1h")
        .webhooks("max_queue_events", 5)
        .server("shutdown_grace", "3s");
    let program = Program::start("hanging", &settings, "").await;
    let mut client = Client::open(program.address, HOME, &[]).await.expect("a WebSocket");
    client.expect_established().await;
    client.subscribe("private-room").await;
    client.whisper("private-room", "client-0", json!("")).await;
    hanging.request().await;
    for _ in 1..WHISPERS {
        client.whisper("private-room", "client-e", json!("")).await;
    }
    client.round().await;
    let metrics = http::ask(program.admin, "GET", "/metrics").await.body;
    let dropped = "fanfare_webhook_dropped_events_total{app=\"1\",endpoint=\"0\"} 24";
    let waiting = "fanfare_webhook_queue_events{app=\"1\",endpoint=\"0\"} 6";
    assert!(metrics.contains(dropped) && metrics.contains(waiting), "{metrics}");
    let (ended, _) = tokio::join!(program.stop(PATIENCE), client.closed_with(4200));
    let last = ended.log.trim_end().lines().last().expect("a line");
    assert!(last.contains("the rest is lost") && last.contains("webhook_events=6"), "{}", ended.log);
    assert_eq!(ended.log.matches("too many events wait").count(), 1, "{}", ended.log);
    assert!(!["hidden", "pass", "word"].iter().any(|secret| ended.log.contains(secret)), "{}", ended.log);
}

/// The log once said "stopped", as if nothing had been lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_counts_what_is_given_up_though_there_was_time() {
    let refusing = Receiver::scripted([], Answer::Status(500)).await;
    let settings = settings().limit("webhook_delay", "1h").hook(&refusing.url()).of_hook("batch", false);
    let settings = settings.webhooks("retry_for", "0s").server("shutdown_grace", "10s");
    let program = Program::start("refusing", &settings, "").await;
    let mut client = Client::open(program.address, HOME, &[]).await.expect("a WebSocket");
    client.expect_established().await;
    client.subscribe("news").await;
    let given_up = "fanfare_webhook_dead_events_total{app=\"1\",endpoint=\"0\"} 1";
    let metrics = async || http::ask(program.admin, "GET", "/metrics").await.body;
    common::eventually("given up", async || metrics().await.contains(given_up)).await;
    let (ended, _) = tokio::join!(program.stop(PATIENCE), client.closed_with(4200));
    let last = ended.log.trim_end().lines().last().expect("a line");
    assert!(
        last.contains("not all webhooks were taken") && last.contains("webhook_events=1"),
        "{}",
        ended.log
    );
    assert_eq!(ended.code, Some(0));
}
