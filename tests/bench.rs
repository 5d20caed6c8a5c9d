//! `fanfare bench` against brokers of ours, and against servers that misbehave.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use common::{Broker, Client, HOME, boot, nobody, settings, within};
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio_tungstenite::tungstenite::Message;

/// The slowest of these runs takes a few seconds on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
/// As short as a mode can be measured.
const BRIEF: [&str; 4] = ["--duration", "100ms", "--warmup", "20ms"];

/// What a run came to.
struct Ran {
    code: Option<i32>,
    reports: Vec<Value>,
    told: String,
}

async fn bench(flags: &[&str]) -> Ran {
    let flags: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
    let running = tokio::task::spawn_blocking(move || {
        Command::new(env!("CARGO_BIN_EXE_fanfare"))
            .arg("bench")
            .args(flags)
            .output()
            .expect("the program runs")
    });
    let Output { status, stdout, stderr } =
        within(LIMIT, "the end of a bench", running).await.expect("an end");
    let reports =
        String::from_utf8_lossy(&stdout).lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
    Ran { code: status.code(), reports, told: String::from_utf8_lossy(&stderr).into_owned() }
}

async fn bench_at(address: SocketAddr, mode: &str, flags: &[&str]) -> Ran {
    let port = address.port().to_string();
    let mut all = vec!["--port", &port, "--json", mode];
    all.extend(flags);
    bench(&all).await
}

async fn broker() -> Broker {
    boot(settings().feature("client_events", true)).await
}

/// A run in which everything came, once and in order.
async fn clean(mode: &str, flags: &[&str]) -> Value {
    let broker = broker().await;
    let ran = bench_at(broker.address, mode, flags).await;
    assert_eq!(ran.code, Some(0), "{mode}: {}", ran.told);
    let report = ran.reports.into_iter().next().expect("a report");
    assert_eq!((&report["ok"], &report["errors"]), (&true.into(), &0.into()), "{report}");
    report
}

fn number(report: &Value, name: &str) -> u64 {
    report[name].as_u64().unwrap_or_else(|| panic!("{name} is a number in {report}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_sockets_come_and_leave() {
    let report = clean("idle", &["--connections", "7", "--duration", "20ms"]).await;
    assert_eq!(number(&report, "sockets"), 7);
    for channels in ["shared", "none"] {
        clean("idle", &["--connections", "3", "--duration", "20ms", "--channels", channels]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_subscriber_gets_every_paced_event() {
    let sizes = ["--connections", "6", "--channels", "2", "--rate", "50"];
    let report = clean("fanout", &[&sizes[..], &BRIEF].concat()).await;
    assert_eq!((number(&report, "published"), number(&report, "received")), (5, 15));
    assert!(report["latency_p999_us"].is_number(), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn order_is_kept_when_many_saturate_one_channel() {
    let sizes = ["--connections", "4", "--channels", "1", "--saturate", "--publishers", "5"];
    let report = clean("fanout", &[&sizes[..], &["--duration", "1s", "--warmup", "20ms"]].concat()).await;
    assert!(number(&report, "published") > 0, "{report}");
    assert_eq!(number(&report, "received"), number(&report, "published") * 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_publish_one_event_or_a_batch() {
    let sizes = ["--connections", "3", "--channels", "4", "--subscribers", "2"];
    let report = clean("publish", &[&sizes[..], &BRIEF].concat()).await;
    assert_eq!(number(&report, "received"), number(&report, "requests") * 2);
    let report = clean("publish", &[&sizes[..], &["--batch", "10"], &BRIEF].concat()).await;
    assert_eq!(number(&report, "received"), number(&report, "requests") * 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn members_hear_of_each_other_exactly_once() {
    let report = clean("presence", &["--members", "9", "--window", "2"]).await;
    assert_eq!([number(&report, "added"), number(&report, "removed")], [36, 36]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pairs_exchange_client_events() {
    let report = clean("client-events", &[&["--pairs", "3", "--rate", "10"][..], &BRIEF].concat()).await;
    assert_eq!(number(&report, "deliveries"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_come_and_go_politely_or_not() {
    for manners in [&[][..], &["--abrupt"]] {
        let sizes = ["--connections", "2", "--duration", "10s", "--max", "20"];
        let report = clean("churn", &[&sizes[..], manners].concat()).await;
        assert_eq!(number(&report, "sockets"), 20);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suite_runs_every_mode() {
    let broker = broker().await;
    let ran = bench_at(broker.address, "suite", &[&["--connections", "4"][..], &BRIEF].concat()).await;
    assert_eq!(ran.code, Some(0), "{}", ran.told);
    let modes: Vec<&str> = ran.reports.iter().filter_map(|report| report["mode"].as_str()).collect();
    let all =
        ["idle", "fanout", "fanout-saturated", "fanout-saturated", "publish", "publish-batch", "presence"];
    assert_eq!(modes, [&all[..], &["client-events", "churn"]].concat());
    assert!(ran.told.starts_with("mode"), "a table: {}", ran.told);
}

/// The program itself, serving on a port of its own until it is ended.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_fanfare"))
            .args(["serve", "--listen", "127.0.0.1:0"])
            .env("FANFARE_ADMIN__LISTEN", "127.0.0.1:0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program runs");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("where it listens");
        let address = line.trim_start_matches("fanfare: listening on http://").split(' ').next();
        let address = address.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("not: {line}"));
        Self { child, address }
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_process_is_measured() {
    let server = Server::start();
    let pid = server.child.id().to_string();
    let sizes = ["--connections", "4", "--rate", "50", "--pid", &pid];
    let ran = bench_at(server.address, "fanout", &[&sizes[..], &BRIEF].concat()).await;
    assert_eq!(ran.code, Some(0), "{}", ran.told);
    assert!(ran.reports[0]["server_cpu_us_per_delivery"].is_number(), "{}", ran.reports[0]);
    assert!(number(&ran.reports[0], "server_rss_after_kib") > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_in_the_middle_ends_the_run_and_is_told() {
    let mut server = Server::start();
    let mut witness = Client::open(server.address, HOME, &[]).await.expect("a socket");
    witness.expect_established().await;
    witness.subscribe("bench-0").await;
    let sizes = ["--connections", "3", "--rate", "100", "--duration", "60s", "--warmup", "0s"];
    let running = bench_at(server.address, "fanout", &sizes);
    let killing = async {
        // Whatever is heard is one of its events.
        witness.hear().await;
        server.end();
    };
    let (ran, ()) = tokio::join!(running, killing);
    assert_eq!(ran.code, Some(1), "{}", ran.told);
    let report = &ran.reports[0];
    assert!(number(report, "errors") >= 3, "three sockets ended: {report}");
    let first = report["first_error"].as_str().expect("words");
    assert!(first.contains("closed by the server"), "{first}");
}

/// How a server of ours fails to deliver its second event.
#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    Loses,
    Doubles,
    Delays,
}

/// A server that knows just enough of the protocol, and closes after every answer.
async fn faulty(fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    let (events, _) = broadcast::channel(64);
    tokio::spawn(async move {
        let mut published = 0;
        let mut delayed = None;
        while let Ok((stream, _)) = listener.accept().await {
            let mut start = [0; 9];
            while stream.peek(&mut start).await.expect("a request") < start.len() {}
            if start == *b"GET /app/" {
                tokio::spawn(subscriber(stream, events.subscribe()));
            } else if let Some(event) = answered(stream).await {
                published += 1;
                let times = match fault {
                    Fault::Loses if published == 2 => 0,
                    Fault::Doubles if published == 2 => 2,
                    Fault::Delays if published == 2 => {
                        delayed = Some(event);
                        continue;
                    }
                    _ => 1,
                };
                (0..times).map(|_| event.clone()).chain(delayed.take()).for_each(|event| {
                    let _ = events.send(event);
                });
            }
        }
    });
    address
}

async fn subscriber(stream: TcpStream, mut events: broadcast::Receiver<String>) {
    let mut socket = tokio_tungstenite::accept_async(stream).await.expect("an upgrade");
    let established = r#"{"data":{"socket_id":"1.2"},"event":"pusher:connection_established"}"#;
    let _ = socket.send(Message::text(established)).await;
    if let Some(Ok(Message::Text(_))) = socket.next().await {
        let _ = socket.send(Message::text(r#"{"event":"pusher_internal:subscription_succeeded"}"#)).await;
        while let Ok(event) = events.recv().await {
            let _ = socket.send(Message::text(event)).await;
        }
    }
}

/// Answers a request; returns the event that it publishes, if it does.
async fn answered(mut stream: TcpStream) -> Option<String> {
    let mut input = String::new();
    // Bodies are JSON, and end as such; a GET has none.
    while !(input.ends_with('}') || input.starts_with("GET") && input.ends_with("\r\n\r\n")) {
        let mut part = [0; 4096];
        let read = stream.read(&mut part).await.expect("a request");
        input.push_str(std::str::from_utf8(&part[..read]).expect("text"));
    }
    let answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}";
    stream.write_all(answer).await.expect("an answer");
    let (_, body) = input.split_once("\r\n\r\n").filter(|_| input.starts_with("POST"))?;
    Some(body.replacen("\"name\"", "\"event\"", 1))
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_are_counted_and_connections_that_close_are_opened_again() {
    for (fault, counts) in [
        (Fault::None, [0, 0, 0]),
        (Fault::Loses, [2, 0, 0]),
        (Fault::Doubles, [0, 2, 0]),
        (Fault::Delays, [0, 0, 2]),
    ] {
        let sizes = ["--connections", "2", "--rate", "50", "--duration", "100ms", "--warmup", "0s"];
        let ran = bench_at(faulty(fault).await, "fanout", &sizes).await;
        let report = ran.reports.first().unwrap_or_else(|| panic!("{fault:?}: {}", ran.told));
        let told = ["lost", "doubled", "out_of_order"].map(|name| number(report, name));
        assert_eq!(told, counts, "{fault:?}: {report}");
        assert_eq!(ran.code, Some(i32::from(counts != [0, 0, 0])), "{fault:?}: {}", ran.told);
        assert_eq!((number(report, "published"), number(report, "errors")), (5, 0), "{report}");
        assert!(number(report, "api_connections") >= 5, "{report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_is_told() {
    let (_socket, vacant) = nobody();
    for mode in ["idle", "fanout", "publish", "presence", "client-events", "churn", "suite"] {
        let ran = bench_at(vacant, mode, &[]).await;
        assert_eq!(ran.code, Some(1), "{mode}: {}", ran.told);
        assert!(ran.told.contains(&format!("no connection to {vacant}")), "{mode}: {}", ran.told);
        assert!(ran.reports.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_is_told_with_4001() {
    let broker = broker().await;
    let ran = bench_at(broker.address, "idle", &["--key", "nobodys"]).await;
    assert_eq!(ran.code, Some(1));
    assert!(ran.told.contains("by the server with 4001"), "{}", ran.told);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_is_told_with_401_and_where_sockets_sign_by_each() {
    let broker = broker().await;
    for mode in ["fanout", "publish"] {
        let ran = bench_at(broker.address, mode, &["--secret", "wrong"]).await;
        assert_eq!(ran.code, Some(1));
        assert!(ran.told.contains("HTTP 401"), "{mode}: {}", ran.told);
    }
    let sizes: [(&str, &[&str]); 2] = [
        ("presence", &["--members", "3"]),
        ("client-events", &["--pairs", "1", "--rate", "10", "--duration", "100ms", "--warmup", "0s"]),
    ];
    for (mode, flags) in sizes {
        let ran = bench_at(broker.address, mode, &[flags, &["--secret", "wrong"]].concat()).await;
        assert_eq!(ran.code, Some(1), "{mode}");
        let first = ran.reports[0]["first_error"].as_str().expect("words");
        assert!(first.contains("refused by the server"), "{mode}: {first}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_too_large_is_told() {
    let broker = broker().await;
    let sizes = ["--connections", "2", "--rate", "50", "--size", "20000"];
    let ran = bench_at(broker.address, "fanout", &[&sizes[..], &BRIEF].concat()).await;
    assert_eq!(ran.code, Some(1));
    let report = &ran.reports[0];
    assert_eq!((number(report, "refused"), number(report, "lost")), (5, 0), "{report}");
    assert!(report["first_error"].as_str().expect("words").starts_with("HTTP 413"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_machines_are_refused_with_a_reason() {
    for host in ["192.0.2.1", "2001:db8::1"] {
        let ran = bench(&["idle", "--host", host]).await;
        assert_eq!(ran.code, Some(2));
        assert!(ran.told.contains("--allow-remote") && ran.told.contains(host), "{}", ran.told);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn senseless_flags_are_refused_before_anything_is_connected() {
    for flags in [
        "",
        "nonsense",
        "idle --connections 0",
        "idle --connections 4294967296",
        "idle --connections -1",
        "idle --duration 0s",
        "idle --duration 9days",
        "idle --window 0",
        "idle --port 0",
        "idle --port 65536",
        "idle --pid 4294967295",
        "idle --host",
        "fanout --rate 0",
        "fanout --rate NaN",
        "fanout --rate 5 --saturate",
        "fanout --max-outstanding 8",
        "fanout --connections 2 --channels 3",
        "fanout --size 1",
        "fanout --rate 0.01",
        "publish --batch 0",
        "publish --channels 100000 --subscribers 1000",
        "presence --members 1",
        "client-events --pairs 0",
        "churn --max 0",
        "suite --connections 1",
    ] {
        let ran = bench(&flags.split_whitespace().collect::<Vec<_>>()).await;
        assert_eq!(ran.code, Some(2), "{flags}: {}", ran.told);
        assert!(!ran.told.is_empty(), "{flags}");
    }
    let ran = bench(&["suite", "--duration", "10ms"]).await;
    assert!(ran.code == Some(2) && ran.told.contains("fanout: --duration: nothing"), "{}", ran.told);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_few_descriptors_are_told_before_anything_is_connected() {
    let limits = std::fs::read_to_string("/proc/self/limits").expect("limits");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a limit");
    let soft: u64 = line.split_whitespace().nth(3).and_then(|word| word.parse().ok()).unwrap_or(u64::MAX);
    if soft >= 200_000 {
        return; // As many as can be asked for.
    }
    let ran = bench(&["idle", "--connections", "200000"]).await;
    assert_eq!(ran.code, Some(2));
    assert!(ran.told.contains("ulimit -n"), "{}", ran.told);
}
