//! The pace of a stop: what fails first, what goes on, who is told when.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::client::Heard;
use common::fallback::{Line, POLL, STREAM};
use common::raw::End;
use common::{Broker, Client, DEADLINE, HOME, Program, boot, eventually, http, in_time, settings, within};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Longer than any of these tests.
const LONG: &str = "100s";
/// As much as that, and the rest of a stop.
const GRACE: &str = "200s";

async fn is_stopping(broker: &Broker) {
    eventually("a readiness that fails", async || {
        let reply = broker.private("GET", "/readyz").await;
        reply.status == 503 && reply.body.trim_end() == "stopping"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_fails_first_and_only_newcomers_feel_it() {
    let mut broker = boot(settings().server("drain_delay", LONG).server("shutdown_grace", GRACE)).await;
    let (mut client, mut carried) = (broker.connect().await, broker.carry(POLL).await);
    client.subscribe("a").await;
    carried.subscribe("a").await;
    let mut api = broker.api();
    assert_eq!(broker.private("GET", "/readyz").await.status, 200);
    broker.begin_stop();
    is_stopping(&broker).await;
    broker.dial(HOME).await.closed_with(4100).await;
    let mut newcomer = broker.session(STREAM);
    newcomer.ask().await;
    let lines = newcomer.reply.as_mut().expect("a reply").lines().await;
    assert!(
        matches!(lines[..], [Line::Prelude, Line::Opened, Line::Closed(4100, _), Line::End]),
        "{lines:?}"
    );
    for number in 0..10 {
        api.publish("a", "n", &number.to_string()).await;
        client.expect_event("a", "n", &number.to_string()).await;
        carried.expect_event("a", "n", &number.to_string()).await;
    }
    client.subscribe("b").await;
    assert_eq!(api.subscribers("b").await, 1);
    client.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_delay_the_port_is_closed_and_everybody_is_sent_away() {
    let mut broker = boot(settings().server("drain_delay", "1s").server("shutdown_grace", GRACE)).await;
    let (address, mut client) = (broker.address, broker.connect().await);
    let began = Instant::now();
    broker.begin_stop();
    client.closed_with(4200).await;
    assert!(began.elapsed() >= Duration::from_secs(1), "after {:?}", began.elapsed());
    broker.ended(DEADLINE).await;
    assert!(TcpStream::connect(address).await.is_err(), "the port is still open");
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_that_are_dead_are_found_during_a_stop_too() {
    let settings = settings().server("drain_delay", LONG).server("shutdown_grace", GRACE);
    let mut broker = boot(settings.limit("activity_timeout", "1s").limit("pong_timeout", "1s")).await;
    let mut mute = broker.raw().await;
    broker.has_sockets(1).await;
    broker.begin_stop();
    is_stopping(&broker).await;
    let (_, end) = mute.until_end().await;
    assert!(matches!(end, End::Closed(4201, _)), "{end:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn few_sockets_do_not_take_the_whole_window() {
    let mut broker = boot(settings().server("drain_window", LONG).server("shutdown_grace", GRACE)).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(broker.connect().await);
    }
    broker.begin_stop();
    for client in &mut clients {
        client.closed_with(4200).await;
    }
    broker.ended(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_that_go_by_themselves_take_no_time() {
    let mut broker = boot(settings().server("drain_window", LONG).server("shutdown_grace", GRACE)).await;
    let (ending, clients) = (broker.connect().await, crowd(&broker, 1500).await);
    broker.begin_stop();
    is_stopping(&broker).await;
    drop(clients);
    drop(ending);
    // Fifteen seconds, were they waited for.
    broker.ended(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grace_that_is_short_shortens_the_window() {
    // A little less than the window is by default, for a crowd that is as large as this.
    let mut broker = boot(settings().server("shutdown_grace", "4900ms")).await;
    let clients = crowd(&broker, 600).await;
    broker.begin_stop();
    closes(clients).await;
    broker.ended(DEADLINE).await;
}

/// Between two polls nothing can be told, and once the ports were closed by the next.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_between_two_polls_is_told_by_the_next() {
    let mut broker = boot(settings()).await;
    let (mut carried, mut client) = (broker.carry(POLL).await, broker.connect().await);
    carried.subscribe("a").await;
    broker.api().publish("a", "e", "before the stop").await;
    broker.begin_stop();
    client.closed_with(4200).await;
    broker.carries([0, 0, 0]).await;
    carried.expect_event("a", "e", "before the stop").await;
    carried.closed_with(4200).await;
    broker.ended(DEADLINE).await;
}

/// It might still ask, but nothing of it is under way: the stop is a clean one all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_ask_again_does_not_spoil_a_stop() {
    // It would be waited for a little longer.
    let mut broker = boot(settings().server("shutdown_grace", "4900ms")).await;
    let mut lost = broker.carry(STREAM).await;
    lost.abort();
    broker.begin_stop();
    broker.ended(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_is_sent_away_evenly() {
    const CROWD: usize = 2000;
    const WINDOW: f64 = 3.0;
    let settings = settings().server("drain_window", "3s").server("shutdown_grace", "60s");
    let mut broker = boot(settings).await;
    let clients = crowd(&broker, CROWD).await;
    let standstill = Arc::new(AtomicU64::new(0));
    let measuring = tokio::spawn(measure_standstills(Arc::clone(&standstill)));
    broker.begin_stop();
    let closes = closes(clients).await;
    measuring.abort();
    let stood_still = standstill.load(Ordering::Relaxed) as f64 / 1000.0;
    broker.ended(DEADLINE).await;
    let (first, last) = (closes[0], closes[CROWD - 1]);
    let span = (last - first).as_secs_f64();
    assert!(span > WINDOW * 0.8, "all within {span} s");
    let mut quarters = [0; 4];
    for close in closes {
        quarters[((close - first).as_secs_f64() / span * 4.0).min(3.0) as usize] += 1;
    }
    // Those who had their turn while this machine stood still come all at once.
    let fair = CROWD as f64 / 4.0;
    let most = 2.0 * fair + CROWD as f64 / WINDOW * stood_still;
    assert!(
        quarters.iter().all(|&count| f64::from(count) < most),
        "{quarters:?}, stood still {stood_still} s"
    );
}

/// Measures the most milliseconds for which a task here has not had its turn.
async fn measure_standstills(longest_ms: Arc<AtomicU64>) {
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last = Instant::now();
    loop {
        ticks.tick().await;
        longest_ms.fetch_max(last.elapsed().as_millis() as u64, Ordering::Relaxed);
        last = Instant::now();
    }
}

async fn crowd(broker: &Broker, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(broker.connect().await);
    }
    clients
}

/// When each was closed, which was with 4200, in order.
async fn closes(clients: Vec<Client>) -> Vec<Instant> {
    let mut listening = JoinSet::new();
    for mut client in clients {
        listening.spawn(async move {
            match client.listen().await {
                Heard::Closed { code: 4200, .. } => Instant::now(),
                other => panic!("heard {other:?}"),
            }
        });
    }
    let mut closes = within(DEADLINE * 2, "everybody's close", listening.join_all()).await;
    closes.sort();
    closes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once() {
    let settings = settings().server("drain_delay", LONG).server("shutdown_grace", GRACE);
    let program = Program::start("twice", &settings, "").await;
    let mut client = Client::open(program.address, HOME, &[]).await.expect("an upgrade");
    client.expect_established().await;
    common::redis::signal(program.pid(), "TERM");
    eventually("a readiness that fails", async || {
        http::ask(program.admin, "GET", "/readyz").await.status == 503
    })
    .await;
    client.send(json!({"event": "pusher:ping", "data": {}})).await;
    client.expect("pusher:pong").await;
    let ended = program.insist(DEADLINE).await;
    assert_eq!(ended.code, Some(1), "{}", ended.log);
    assert!(ended.log.contains("second signal"), "{}", ended.log);
    assert!(matches!(client.hear().await, Heard::Gone), "it was told something");
}

/// It accepts, and never says a word: until it has had its time, nobody is served.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_an_engine_that_does_not_answer() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("redis://{}", silent.local_addr().expect("an address"));
    let settings = settings().cluster("engine", "redis").cluster("url", url.as_str());
    let settings = settings.cluster("timeout", LONG).cluster("lease", GRACE);
    let program = Program::start("early", &settings.server("shutdown_grace", GRACE), "").await;
    let joining = in_time("somebody who wants to join", silent.accept()).await.expect("a connection");
    let ended = program.stop(DEADLINE).await;
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    assert!(ended.log.contains("stopped before it served"), "{}", ended.log);
    drop(joining);
}

/// One never reads, and its buffers are full, as if its machine had died; one reads, and never says goodbye.
#[tokio::test(flavor = "multi_thread")]
async fn peers_that_are_dead_do_not_spoil_a_stop_with_a_short_grace() {
    let roomy = settings().server("max_mailbox_bytes", "8MiB").server("shutdown_grace", "4900ms");
    let mut broker = boot(roomy.limit("max_event_bytes", "4MiB")).await;
    let dead = broker.stuck_in("a").await;
    let _mute = broker.raw().await;
    let mut api = broker.api();
    for _ in 0..2 {
        api.publish("a", "e", &"x".repeat(3 << 20)).await;
    }
    assert!(broker.metric("fanfare_mailbox_bytes").await > 0.0, "nothing waits for it");
    let mut client = broker.connect().await;
    broker.begin_stop();
    client.closed_with(4200).await;
    broker.ended(DEADLINE).await;
    drop(dead);
}
