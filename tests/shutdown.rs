//! Stopping: nobody new is let in, what is under way is finished, everybody else is sent away.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::{Duration, Instant};

use common::client::Heard;
use common::{Broker, Client, DEADLINE, HOME, Http, Signed, boot, settings, within};
use serde_json::{Value, json};
use tokio::net::TcpStream;

/// Nobody was waited for where all ends within this: whoever has something to read last is given more.
const AT_ONCE: Duration = Duration::from_secs(5);

fn event() -> Value {
    json!({"name": "e", "channel": "a", "data": "d"})
}

/// A publish of which the broker already reads the body, and has been sent this much of it.
async fn under_way(broker: &Broker, sent: usize) -> Http {
    let body = event().to_string();
    let request = Signed::post("/apps/1/events", &event()).header("Expect", Some("100-continue"));
    let mut http = broker.http().await;
    http.write(&request.head(body.len() as u64)).await;
    assert_eq!(http.reply().await.expect("a word from the broker").status, 100);
    http.write(&body.as_bytes()[..sent]).await;
    http
}

#[tokio::test(flavor = "multi_thread")]
async fn c032_established_sockets_are_sent_away_with_4200_and_new_ones_with_4100() {
    let mut broker = boot(settings().server("shutdown_grace", "60s")).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(broker.connect().await);
    }
    // A request under way keeps the broker busy while newcomers knock.
    let mut unfinished = under_way(&broker, 1).await;
    broker.begin_stop();
    for client in &mut clients {
        client.closed_with(4200).await;
    }
    for _ in 0..20 {
        if let Ok(mut newcomer) = Client::open(broker.address, HOME, &[]).await {
            match newcomer.hear().await {
                Heard::Closed { code, .. } => assert_eq!(code, 4100),
                Heard::Gone => (),
                other => panic!("a newcomer heard {other:?}"),
            }
        }
    }
    unfinished.write(&event().to_string().as_bytes()[1..]).await;
    assert_eq!(unfinished.reply().await.expect("an answer").expect_ok(), json!({}));
    unfinished.rest().await;
    broker.ended(DEADLINE).await;
}

/// It says goodbye, but leaves it to the broker to hang up, as the protocol has it. That once kept the
/// broker from stopping for as long as it gives clients to read its last words.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_answers_the_goodbye_does_not_hold_up_the_stop() {
    let mut broker = boot(settings().server("shutdown_grace", "4900ms")).await;
    let mut polite = broker.raw().await;
    polite.frame().await.expect("the socket is established");
    broker.begin_stop();
    let goodbye = polite.frame().await.expect("a goodbye");
    assert_eq!(goodbye.payload[..2], 4200u16.to_be_bytes());
    polite.write(&common::raw::frame(0x88, &goodbye.payload[..2])).await;
    broker.ended(DEADLINE).await;
    drop(polite);
}

/// Its farewell waits for half a minute, which once kept the whole broker from stopping.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_consumer_does_not_hold_up_the_stop() {
    let settings = settings().server("max_mailbox_bytes", "64KiB").server("shutdown_grace", "60s");
    let mut broker = boot(settings).await;
    let mut stuck = common::Raw::open(broker.narrow_tcp().await, HOME).await;
    stuck.text(&json!({"event": "pusher:subscribe", "data": {"channel": "a"}}).to_string()).await;
    let mut api = broker.api();
    common::eventually("a subscriber", async || api.subscribers("a").await == 1).await;
    common::eventually("its end as a slow consumer", async || {
        api.publish("a", "e", &"x".repeat(10_000)).await;
        api.subscribers("a").await == 0
    })
    .await;
    broker.begin_stop();
    broker.ended(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_before_the_stop_arrives_before_the_close() {
    let mut broker = boot(settings()).await;
    let mut client = broker.connect().await;
    client.subscribe("a").await;
    let mut api = broker.api();
    for number in 0..100 {
        api.publish("a", "n", &number.to_string()).await;
    }
    broker.begin_stop();
    for number in 0..100 {
        client.expect_event("a", "n", &number.to_string()).await;
    }
    client.closed_with(4200).await;
    broker.ended(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_under_way_are_finished() {
    let mut broker = boot(settings()).await;
    let mut signal = broker.connect().await;
    let mut unfinished = Vec::new();
    for sent in [0, 1, event().to_string().len() - 1] {
        unfinished.push((under_way(&broker, sent).await, sent));
    }
    broker.begin_stop();
    signal.closed_with(4200).await;
    for (http, sent) in &mut unfinished {
        http.write(&event().to_string().as_bytes()[*sent..]).await;
        let reply = http.reply().await.expect("a request under way is answered");
        assert_eq!(reply.expect_ok(), json!({}));
        http.rest().await;
    }
    broker.ended(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_with_nothing_to_do_stops_at_once() {
    let mut broker = boot(settings().server("shutdown_grace", "60s")).await;
    let address = broker.address;
    let mut api = broker.api();
    api.publish("a", "e", "d").await;
    let mut idle = broker.http().await;
    idle.write(&Signed::get("/apps/1/channels").bytes()).await;
    idle.reply().await.expect("a reply");
    let untouched = broker.tcp().await;
    let mut client = broker.connect().await;
    broker.begin_stop();
    let all = async {
        client.closed_with(4200).await;
        idle.rest().await;
        broker.ended(DEADLINE).await;
    };
    within(AT_ONCE, "the end of all", all).await;
    drop(untouched);
    assert!(TcpStream::connect(address).await.is_err(), "the port is still open");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stubborn_are_not_waited_for_beyond_the_grace() {
    let mut broker = boot(settings().server("shutdown_grace", "1s")).await;
    // One never reads, one never answers a close, one never finishes a body, one never begins.
    let mut deaf = common::Raw::open(broker.narrow_tcp().await, HOME).await;
    deaf.text(r#"{"event":"pusher:subscribe","data":{"channel":"a"}}"#).await;
    let mut mute = broker.raw().await;
    let mut unfinished = broker.http().await;
    unfinished.write(&Signed::post("/apps/1/events", &event()).head(1000)).await;
    let _silent = broker.tcp().await;
    let mut api = broker.api();
    common::eventually("a subscriber", async || api.subscribers("a").await == 1).await;
    for _ in 0..60 {
        api.publish("a", "e", &"x".repeat(10_000)).await;
    }
    let started = Instant::now();
    broker.begin_stop();
    let (_, end) = mute.until_end().await;
    assert!(matches!(end, common::raw::End::Closed(4200, _)), "{end:?}");
    assert!(!broker.returned(DEADLINE).await, "they were given up on");
    // Those who are to read that they are closed would have five seconds for that.
    assert!(started.elapsed() < Duration::from_millis(4500), "stopped after {:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_sockets_are_all_sent_away() {
    let mut broker = boot(settings()).await;
    let mut clients = Vec::new();
    for _ in 0..1_000 {
        clients.push(broker.connect().await);
    }
    broker.begin_stop();
    for client in &mut clients {
        client.closed_with(4200).await;
    }
    broker.ended(DEADLINE).await;
}
