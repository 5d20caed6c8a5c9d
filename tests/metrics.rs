//! What the private listener tells: every number is true, in both forms, however often it is asked.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::users::user as user_data;
use common::{Broker, Client, Dice, Http, Metrics, OTHER, Reply, Signed, boot, settings};
use serde_json::json;
use tokio::task::JoinSet;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Somebody, and what is true of them.
struct Somebody {
    client: Client,
    channels: BTreeMap<String, Option<String>>,
    user: Option<String>,
}

impl Somebody {
    async fn come(broker: &Broker) -> Self {
        Self { client: broker.connect().await, channels: BTreeMap::new(), user: None }
    }

    async fn do_something(&mut self, dice: &mut Dice) {
        let number = dice.below(6);
        match dice.below(10) {
            0..4 => self.toggle(format!("public-{number}"), None).await,
            4..8 => {
                let user = format!("u{}", dice.below(3));
                self.toggle(format!("presence-{number}"), Some(user)).await;
            }
            _ if self.user.is_none() => {
                let user = format!("u{number}");
                self.client.send(self.client.signing_in(&user_data(&user))).await;
                self.user = Some(user);
            }
            _ => {}
        }
        // What others do is told as well: only that all is carried out counts here.
        self.client.round().await;
    }

    async fn toggle(&mut self, channel: String, user: Option<String>) {
        if self.channels.remove(&channel).is_some() {
            self.client.unsubscribe(&channel).await;
            return;
        }
        match &user {
            Some(user) => self.client.ask_to_join(&channel, &json!({"user_id": user}).to_string()).await,
            None => self.client.send(self.client.subscription(&channel)).await,
        }
        self.channels.insert(channel, user);
    }
}

/// The gauges, as they follow from what everybody has done.
fn truth(all: &[Somebody]) -> BTreeMap<&'static str, usize> {
    let seats = || all.iter().flat_map(|somebody| &somebody.channels);
    let channels: BTreeSet<_> = seats().map(|(channel, _)| channel).collect();
    let members: BTreeSet<_> = seats().filter(|(_, user)| user.is_some()).collect();
    let users: BTreeSet<_> = all.iter().filter_map(|somebody| somebody.user.as_ref()).collect();
    BTreeMap::from([
        ("connections", all.len()),
        ("channels", channels.len()),
        ("subscriptions", seats().count()),
        ("members", members.len()),
        ("users", users.len()),
    ])
}

fn told(metrics: &Metrics) -> BTreeMap<&'static str, usize> {
    ["connections", "channels", "subscriptions", "members", "users"]
        .map(|name| (name, metrics.get(&format!("fanfare_{name}{{app=\"1\"}}")) as usize))
        .into()
}

#[tokio::test(flavor = "multi_thread")]
async fn gauges_equal_an_independent_count_after_random_churn() {
    let mut dice = Dice::printed("gauges");
    let broker = boot(settings()).await;
    let mut all = Vec::new();
    for round in 0..12 {
        for _ in 0..40 {
            match dice.below(10) {
                0 | 1 => all.push(Somebody::come(&broker).await),
                2 if !all.is_empty() => drop(all.swap_remove(dice.index(all.len()))),
                _ if !all.is_empty() => {
                    let at = dice.index(all.len());
                    all[at].do_something(&mut dice).await;
                }
                _ => {}
            }
        }
        // Who hangs up is not waited for.
        broker.has_sockets(all.len()).await;
        let metrics = broker.metrics().await;
        assert_eq!(told(&metrics), truth(&all), "round {round}");
        let carried = metrics.get("fanfare_transport_connections{transport=\"websocket\"}");
        assert_eq!(carried, all.len() as f64);
        assert_eq!(metrics.table("sockets"), all.len() as f64);
        assert_eq!(metrics.get("fanfare_mailbox_bytes"), 0.0);
    }
    all.clear();
    broker.has_sockets(0).await;
    assert_eq!(told(&broker.metrics().await), truth(&all));
}

async fn scraped(broker: &Broker, accept: &str) -> Reply {
    let mut http = Http::to(broker.admin).await;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n");
    http.write(request.as_bytes()).await;
    http.reply().await.expect("a reply")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_scrapes_holds_up_no_event() {
    const SCRAPERS: usize = 200;
    const EVENTS: usize = 300;
    let broker = Arc::new(boot(settings()).await);
    let mut listeners = broker.listeners(20).await;
    let going_on = Arc::new(AtomicBool::new(true));
    let mut scrapers = JoinSet::new();
    for _ in 0..SCRAPERS {
        let (broker, going_on) = (Arc::clone(&broker), Arc::clone(&going_on));
        scrapers.spawn(async move {
            let mut scrapes = 0;
            while scrapes == 0 || going_on.load(Ordering::Relaxed) {
                let reply = scraped(&broker, "text/plain").await;
                assert_eq!(Metrics::of(&reply).get("fanfare_connections{app=\"1\"}"), 20.0);
                scrapes += 1;
            }
            scrapes
        });
    }
    let mut api = broker.api();
    for number in 0..EVENTS {
        api.publish("flood", "tick", &number.to_string()).await;
    }
    for listener in &mut listeners {
        for number in 0..EVENTS {
            listener.expect_event("flood", "tick", &number.to_string()).await;
        }
    }
    going_on.store(false, Ordering::Relaxed);
    let scrapes: usize = scrapers.join_all().await.into_iter().sum();
    assert!(scrapes >= SCRAPERS, "{scrapes}");
    let metrics = broker.metrics().await;
    assert_eq!(metrics.get("fanfare_api_events_total"), EVENTS as f64);
    assert_eq!(metrics.get("fanfare_deliveries_total"), (EVENTS * listeners.len()) as f64);
    let requests = "fanfare_api_requests_total{endpoint=\"events\",status=\"200\"}";
    assert_eq!(metrics.get(requests), EVENTS as f64);
}

/// The excepted socket was counted once.
#[tokio::test(flavor = "multi_thread")]
async fn who_an_event_is_not_for_is_not_counted_among_its_deliveries() {
    let broker = boot(settings()).await;
    let mut listeners = broker.listeners(3).await;
    let sender = listeners[0].socket_id.clone();
    let body = json!({"name": "e", "channel": "flood", "data": "d", "socket_id": sender});
    broker.api().post("/events", &body).await.expect_ok();
    for listener in &mut listeners[1..] {
        listener.expect_event("flood", "e", "d").await;
    }
    broker.becomes("fanfare_deliveries_total", 2.0).await;
    let frame = json!({"event": "e", "channel": "flood", "data": "d"}).to_string();
    assert!(broker.metrics().await.get("fanfare_delivered_bytes_total") >= 2.0 * frame.len() as f64);
}

#[tokio::test(flavor = "multi_thread")]
async fn scrapers_get_the_form_that_they_accept() {
    let broker = boot(settings()).await;
    let _client = broker.connect().await;
    for accept in
        ["application/openmetrics-text", "text/plain;q=0.5, application/openmetrics-text;version=1.0.0"]
    {
        let reply = scraped(&broker, accept).await;
        assert_eq!((reply.status, reply.header("content-type")), (200, Some(OPEN_METRICS)), "{accept}");
        assert!(reply.body.ends_with("# EOF\n"));
        assert!(reply.body.contains("# TYPE fanfare_api_events counter\nfanfare_api_events_total 0\n"));
    }
    for accept in ["*/*", "text/plain", "application/openmetrics-text;q=0", ";,=", ""] {
        let reply = scraped(&broker, accept).await;
        assert_eq!((reply.status, reply.header("content-type")), (200, Some(PLAIN)), "{accept}");
        assert!(!reply.body.contains("# EOF"), "{}", reply.body);
        assert!(reply.body.contains("# TYPE fanfare_api_events_total counter\nfanfare_api_events_total 0\n"));
    }
}

/// As Prometheus demands: each family is described once and before its samples, and each sample is there
/// once.
#[tokio::test(flavor = "multi_thread")]
async fn the_plain_form_is_well_formed() {
    let broker = boot(settings().hook("http://127.0.0.1:9/")).await;
    let _client = broker.connect().await;
    broker.api().publish("a", "b", "c").await;
    let body = scraped(&broker, "text/plain").await.body;
    let (mut described, mut seen) = (BTreeMap::new(), BTreeSet::new());
    for line in body.lines() {
        if let Some(typed) = line.strip_prefix("# TYPE ") {
            let (name, kind) = typed.split_once(' ').expect("a type");
            assert_eq!(described.insert(name, kind), None, "{line}");
        } else if !line.starts_with("# HELP ") {
            let (sample, value) = line.rsplit_once(' ').expect("a value");
            assert!(value == "+Inf" || value.parse::<f64>().is_ok(), "{line}");
            assert!(seen.insert(sample), "{line}");
            let name = sample.split('{').next().expect("a name");
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let kind = described.get(name).or_else(|| described.get(base?)).expect(line);
            assert_eq!(*kind == "counter", name.ends_with("_total"), "{line}");
        }
    }
    assert!(seen.len() > 50, "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_paths_and_methods_are_refused() {
    let broker = boot(settings()).await;
    for (method, path, status, allow) in [
        ("GET", "/", 404, None),
        ("GET", "/metrics/", 404, None),
        ("GET", "/healthz/../metrics", 404, None),
        ("DELETE", "/nothing", 404, None),
        ("POST", "/metrics", 405, Some("GET, HEAD")),
        ("PUT", "/healthz", 405, Some("GET, HEAD")),
        ("TRACE", "/readyz", 405, Some("GET, HEAD")),
        ("GET", "/webhooks/replay", 405, Some("POST")),
        ("GET", "/healthz?verbose", 200, None),
    ] {
        let reply = broker.private(method, path).await;
        assert_eq!((reply.status, reply.header("allow")), (status, allow), "{method} {path}");
    }
    let mut http = Http::to(broker.admin).await;
    http.write(b"HEAD /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(http.reply_to_head().await.expect("a reply").status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_believed_is_counted_by_what_was_wanted_and_by_cause() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    let auth = "app-key:00";
    for data in [
        json!({"channel": "private-a", "auth": auth}),
        json!({"channel": "private-a"}),
        json!({"channel": "private-a", "auth": "none:00"}),
        json!({"channel": "private-a", "auth": 1}),
        json!({"channel": "#server-to-user-x"}),
    ] {
        client.send(json!({"event": "pusher:subscribe", "data": data})).await;
    }
    let data = json!({"auth": auth, "user_data": "{\"id\":\"1\"}"});
    client.send(json!({"event": "pusher:signin", "data": data})).await;
    broker.becomes("fanfare_auth_failures_total{of=\"sign_in\",cause=\"signature\"}", 1.0).await;
    let mut http = broker.http().await;
    assert_eq!(http.ask("GET", "/apps/1/channels").await.status, 401);
    assert_eq!(http.ask("GET", "/apps/1/nothing?auth_key=x").await.status, 401);
    assert_eq!(http.ask("GET", "/apps/none/channels").await.status, 404);
    let late = "auth_key=app-key&auth_version=1.0&auth_timestamp=1&auth_signature=00";
    assert_eq!(http.ask("GET", &format!("/apps/1/channels?{late}")).await.status, 401);
    let other_body = Signed::post("/apps/1/events", &json!({})).sends_body(b"[]");
    assert_eq!(broker.api().send(&other_body).await.status, 401);
    let metrics = broker.metrics().await;
    for (of, causes) in [
        ("subscribe", &["missing", "malformed", "key", "signature", "user"][..]),
        ("sign_in", &["signature"]),
        ("api_request", &["missing", "key", "time", "body"]),
    ] {
        for cause in ["missing", "malformed", "key", "time", "signature", "body", "user"] {
            let sample = format!("fanfare_auth_failures_total{{of=\"{of}\",cause=\"{cause}\"}}");
            assert_eq!(metrics.get(&sample), f64::from(u8::from(causes.contains(&cause))), "{sample}");
        }
    }
    for (endpoint, status, count) in
        [("channels", 401, 2.0), ("unknown", 401, 1.0), ("channels", 404, 1.0), ("events", 401, 1.0)]
    {
        let sample = format!("fanfare_api_requests_total{{endpoint=\"{endpoint}\",status=\"{status}\"}}");
        assert_eq!(metrics.get(&sample), count, "{sample}");
    }
    assert_eq!(metrics.get("fanfare_api_refused_requests_total"), 5.0);
    assert!(metrics.get("fanfare_client_received_bytes_total") > 0.0);
}

/// Where there are more apps than have samples of their own, the rest is one; so is an app of that name.
#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_is_called_other_is_counted_with_the_others() {
    let hooks = settings().hook("http://127.0.0.1:9/a").hook("http://127.0.0.1:9/b");
    let broker = boot(hooks.app("id", "other").neighbours_hook("http://127.0.0.1:9/")).await;
    let _client = broker.connect().await;
    let _neighbour = broker.neighbour().await;
    let metrics = broker.metrics().await;
    for app in ["other", OTHER.id] {
        assert_eq!(metrics.get(&format!("fanfare_connections{{app=\"{app}\"}}")), 1.0, "{metrics:?}");
    }
    let endpoints = |metric: &str| {
        let of_it = metrics.0.keys().filter_map(|sample| sample.strip_prefix(metric));
        of_it.filter(|labels| labels.starts_with('{')).map(str::to_owned).collect::<Vec<_>>()
    };
    let neighbours = format!("{{app=\"{}\",endpoint=\"0\"}}", OTHER.id);
    let mut all = vec![neighbours.clone(), "{app=\"other\",endpoint=\"other\"}".to_owned()];
    all.sort();
    assert_eq!(endpoints("fanfare_webhook_queue_events"), all);
    assert_eq!(endpoints("fanfare_webhook_sent_events_total"), all);
    assert_eq!(endpoints("fanfare_webhook_delivery_seconds_count"), [neighbours]);
}
