//! Endpoints that misbehave: each is tried again, given up with a reason, and disturbs no other; what it
//! missed can be sent again once it is well.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::net::SocketAddr;

use common::receiver::PATIENCE;
use common::{Answer, Client, HOME, Http, Program, Receiver, Settings, boot, nobody, settings, within};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// Just before a fourth try can be: after pauses of one, two and four seconds, each a quarter shorter at most.
const RETRY_FOR: &str = "5200ms";
/// Tries of an endpoint that fails at once.
const TRIES: u64 = 3;
/// Tries of one that is waited for, two seconds each time.
const LATE_TRIES: u64 = 2;
/// Why they fail.
const LATE: &str = "no answer within 2s";

/// The first endpoint is told when channels are occupied that begin with "a", the second everything.
fn told_to(faulty: &str, well: &Receiver) -> Settings {
    let occupied = vec!["channel_occupied"];
    settings()
        .limit("webhook_delay", "0s")
        .webhooks("retry_for", RETRY_FOR)
        .webhooks("timeout", "2s")
        .webhooks("connect_timeout", "2s")
        .hook(faulty)
        .of_hook("batch", false)
        .of_hook("events", occupied)
        .of_hook("channel_prefix", "a")
        .hook(&well.url())
        .of_hook("batch", false)
}

fn occupied(channel: &str) -> Value {
    json!({"name": "channel_occupied", "channel": channel})
}

async fn connect(address: SocketAddr) -> Client {
    let mut client = Client::open(address, HOME, &[]).await.expect("a WebSocket");
    client.expect_established().await;
    client
}

/// Occupies channels. The other endpoint is told, whatever the faulty one does; that one fails, and
/// the reason names no secret. Returns how often and why, with the client.
async fn given_up(address: SocketAddr, admin: SocketAddr, well: &mut Receiver) -> (Client, u64, String) {
    let mut client = connect(address).await;
    for channel in ["a", "b", "c"] {
        client.subscribe(channel).await;
    }
    well.expect(["a", "b", "c"].map(occupied)).await;
    let mut http = Http::to(admin).await;
    let failed = within(PATIENCE, "a failed event", async {
        loop {
            let reply = http.ask("GET", "/webhooks/failed").await;
            if let Some(failed) = reply.expect_ok().pointer("/failed/0") {
                assert!(!["hidden", "pass", "word"].iter().any(|secret| reply.body.contains(secret)));
                return failed.clone();
            }
        }
    })
    .await;
    assert_eq!((&failed["event"], &failed["endpoint"]), (&occupied("a"), &json!(0)));
    let tries = failed["attempts"].as_u64().expect("a number");
    (client, tries, failed["reason"].as_str().expect("a reason").to_owned())
}

/// Sends what failed again until it arrives: within the pause after a failure it is given up at once.
async fn replayed(admin: SocketAddr, receiver: &mut Receiver) {
    let mut http = Http::to(admin).await;
    let replaying = async {
        loop {
            http.ask("POST", "/webhooks/replay").await.expect_ok();
        }
    };
    tokio::select! {
        event = receiver.event() => assert_eq!(event, occupied("a")),
        () = replaying => {}
    }
}

/// An endpoint that always answers so, until it is well.
async fn answering(answer: Answer, reason: &str) {
    let (mut faulty, mut well) = (Receiver::scripted([], answer).await, Receiver::new().await);
    let broker = boot(told_to(&faulty.secret_url(), &well)).await;
    let (_client, tries, given) = given_up(broker.address, broker.admin, &mut well).await;
    assert!(given.contains(reason), "{given}");
    let expected = if reason == LATE { LATE_TRIES } else { TRIES };
    assert_eq!((tries, faulty.come().len() as u64), (expected, expected));
    faulty.answers(Answer::Status(200));
    replayed(broker.admin, &mut faulty).await;
    assert!(well.come().is_empty(), "told again");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_hangs() {
    answering(Answer::Hang, LATE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_answers_when_nobody_waits_any_more() {
    answering(Answer::Late, LATE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_answers_byte_by_byte() {
    answering(Answer::Trickle, LATE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_hangs_up_in_the_middle_of_its_answer() {
    answering(Answer::Cut, "the connection broke").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_has_moved() {
    let elsewhere = "http://name:password@127.0.0.1/?hidden".to_owned();
    answering(Answer::Redirect(elsewhere), "answered 301").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_refuses() {
    answering(Answer::Status(401), "answered 401").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_speaks_something_else() {
    answering(Answer::Babble, "the connection broke").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_where_nobody_listens() {
    let (socket, address) = nobody();
    let url = format!("http://name:password@{address}/?hidden");
    let mut well = Receiver::new().await;
    let broker = boot(told_to(&url, &well)).await;
    let (_client, tries, reason) = given_up(broker.address, broker.admin, &mut well).await;
    assert!(tries == TRIES && reason.starts_with("cannot connect: "), "{tries}: {reason}");
    replayed(broker.admin, &mut Receiver::at(socket)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_whose_host_is_not_known() {
    let mut well = Receiver::new().await;
    let broker = boot(told_to("http://name:password@nowhere.invalid/?hidden", &well)).await;
    let (_client, tries, reason) = given_up(broker.address, broker.admin, &mut well).await;
    // It depends on the resolver how soon it is known, and so how often there is time to ask.
    assert!((LATE_TRIES..=TRIES).contains(&tries), "{tries}");
    let reasons = ["cannot connect: ", LATE];
    assert!(reasons.iter().any(|known| reason.starts_with(known)), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_with_a_certificate_that_the_system_does_not_trust() {
    let ((mut faulty, certificate), (mut well, trusted)) =
        (Receiver::secure().await, Receiver::secure().await);
    let settings = told_to(&faulty.secret_url(), &well);
    let program = Program::start("untrusted", &settings, &trusted).await;
    let (client, tries, reason) = given_up(program.address, program.admin, &mut well).await;
    assert!(reason.starts_with("cannot connect: ") && reason.contains("certificate"), "{reason}");
    assert_eq!(tries, TRIES);
    assert!(faulty.come().is_empty(), "it was told something");
    drop(client);
    let ended = program.stop(PATIENCE).await;
    assert!(!["hidden", "pass", "word"].iter().any(|secret| ended.log.contains(secret)), "{}", ended.log);
    // Nothing but the trust was missing.
    let program = Program::start("trusted", &settings, &format!("{certificate}{trusted}")).await;
    connect(program.address).await.subscribe("a").await;
    assert_eq!(faulty.event().await, occupied("a"));
    assert_eq!(program.stop(PATIENCE).await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_never_finishes_a_handshake() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let url = format!("https://localhost:{}/", silent.local_addr().expect("an address").port());
    let (mut well, trusted) = Receiver::secure().await;
    let program = Program::start("handshake", &told_to(&url, &well), &trusted).await;
    let (_client, tries, reason) = given_up(program.address, program.admin, &mut well).await;
    assert_eq!((tries, reason.as_str()), (LATE_TRIES, LATE));
}

/// Without any roots, certificates cannot be checked; it is told before anything is served.
#[tokio::test]
async fn a_system_that_trusts_nobody_cannot_reach_endpoints_by_https() {
    let (receiver, _) = Receiver::secure().await;
    let told = Program::refusal("rootless", &settings().hook(&receiver.url()), "").await;
    assert!(told.contains("webhooks need the system's root certificates"), "{told}");
}

/// What a stop tells within the pause after a failure was once given up untried.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_the_pause_after_a_failure() {
    let mut receiver = Receiver::scripted([Answer::Status(500)], Answer::Status(200)).await;
    let settings = settings().limit("webhook_delay", "1h").hook(&receiver.url()).of_hook("batch", false);
    let mut broker = boot(settings.webhooks("retry_for", "0s").server("shutdown_grace", "10s")).await;
    let mut client = connect(broker.address).await;
    client.subscribe("a").await;
    assert_eq!(receiver.event().await, occupied("a"));
    let given_up = "fanfare_webhook_dead_events_total{app=\"1\",endpoint=\"0\"}";
    common::eventually("given up", async || broker.metric(given_up).await == 1.0).await;
    broker.begin_stop();
    client.closed_with(4200).await;
    broker.ended(PATIENCE).await;
    let told: Vec<Value> = receiver.come().iter().flat_map(|request| request.events(common::APP)).collect();
    assert_eq!(told, [json!({"name": "channel_vacated", "channel": "a"})]);
}
