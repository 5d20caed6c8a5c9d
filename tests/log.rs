//! A log that cannot be written harms nobody, and clients cannot fill it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::redis::signal;
use common::{APP, Api, Client, HOME, Metrics, Raw, http, in_time, within};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, UnixStream};
use tokio::process::{Child, Command};

/// Requests that log far more than a pipe takes.
const REQUESTS: usize = 2000;
const END: Duration = Duration::from_secs(30);

/// The program with the development app.
struct Talkative {
    child: Child,
    address: SocketAddr,
    admin: SocketAddr,
}

impl Talkative {
    async fn start(level: &str, stderr: impl Into<Stdio>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
        command.args(["serve", "--listen", "127.0.0.1:0"]).env_clear().env("FANFARE_LOG__LEVEL", level);
        command.env("FANFARE_ADMIN__LISTEN", "127.0.0.1:0").env("FANFARE_SERVER__MAX_MAILBOX_BYTES", "64KiB");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr).kill_on_drop(true);
        let mut child = command.spawn().expect("it starts");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let mut addresses = Vec::new();
        while addresses.len() < 2 {
            let line = in_time("a line", lines.next_line()).await.expect("UTF-8").expect("a listener");
            let found: Option<SocketAddr> =
                line.split("http://").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
            addresses.extend(found);
        }
        Self { child, address: addresses[0], admin: addresses[1] }
    }

    /// Serves many requests and a client, is healthy, and stops cleanly.
    async fn serves(&mut self) {
        let mut client = Client::open(self.address, HOME, &[]).await.expect("the upgrade is completed");
        client.expect_established().await;
        client.subscribe("witness").await;
        let mut api = Api::new(self.address, APP);
        for number in 0..REQUESTS {
            api.publish("witness", "tick", &number.to_string()).await;
            client.expect_event("witness", "tick", &number.to_string()).await;
        }
        assert_eq!(http::ask(self.admin, "GET", "/healthz").await.status, 200);
        self.stops().await;
    }

    async fn stops(&mut self) {
        signal(self.child.id().expect("it runs"), "TERM");
        let ended = within(END, "the program's end", self.child.wait()).await.expect("it ends");
        assert_eq!(ended.code(), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_harms_nobody() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
    Talkative::start("debug", full).await.serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_pipe_harms_nobody() {
    let mut program = Talkative::start("debug", Stdio::piped()).await;
    drop(program.child.stderr.take());
    program.serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_that_nobody_reads_harms_nobody() {
    // It stays open: the child holds its end.
    Talkative::start("debug", Stdio::piped()).await.serves().await;
}

/// A stream with no more room, and the end that keeps it open.
fn full() -> (Stdio, std::os::unix::net::UnixStream) {
    let (mut full, unread) = std::os::unix::net::UnixStream::pair().expect("a pair");
    full.set_nonblocking(true).expect("it does not block");
    while full.write(&[b'x'; 1024]).is_ok() {}
    full.set_nonblocking(false).expect("it blocks");
    (OwnedFd::from(full).into(), unread)
}

/// It told where it listens before it served, and waited for a reader: for ever, and deaf to signals.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_nobody_reads_of_is_a_start() {
    let (full, _unread) = full();
    let path = std::env::temp_dir().join(format!("fanfare-unread-{}.sock", std::process::id()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
    command.args(["serve", "--listen", &format!("unix://{}", path.display())]).env_clear();
    command.env("FANFARE_ADMIN__LISTEN", "127.0.0.1:0").stdin(Stdio::null()).stdout(full).kill_on_drop(true);
    let mut child = command.spawn().expect("it starts");
    let answer = async {
        loop {
            let Ok(mut stream) = UnixStream::connect(&path).await else {
                tokio::task::yield_now().await;
                continue;
            };
            stream.write_all(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).await.expect("an answer");
            return answer;
        }
    };
    assert_eq!(&within(END, "an answer", answer).await, b"HTTP/1.1 404");
    signal(child.id().expect("it runs"), "TERM");
    let ended = within(END, "the program's end", child.wait()).await.expect("it ends");
    assert_eq!(ended.code(), Some(0));
}

/// A subscriber of `flood` that reads nothing more.
async fn stuck(address: SocketAddr) -> Raw {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small receive buffer");
    let mut raw =
        Raw::open(in_time("a connection", socket.connect(address)).await.expect("open"), HOME).await;
    raw.text(r#"{"event":"pusher:subscribe","data":{"channel":"flood"}}"#).await;
    for _ in ["established", "subscribed"] {
        raw.frame().await.expect("a frame");
    }
    raw
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_slow_clients_is_a_line_or_two_without_what_they_were_told() {
    const CROWD: usize = 8;
    let began = Instant::now();
    let mut program = Talkative::start("info", Stdio::piped()).await;
    let mut stderr = program.child.stderr.take().expect("a pipe");
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        crowd.push(stuck(program.address).await);
    }
    let mut api = Api::new(program.address, APP);
    let closed = "fanfare_closed_connections_total{reason=\"slow_consumer\"}";
    while Metrics::of(&http::ask(program.admin, "GET", "/metrics").await).get(closed) < CROWD as f64 {
        assert!(began.elapsed() < 2 * END, "somebody is still there");
        api.publish("flood", "tick", &"payload ".repeat(1000)).await;
    }
    program.stops().await;
    let mut log = String::new();
    in_time("the log", stderr.read_to_string(&mut log)).await.expect("UTF-8");
    let lines = log.lines().filter(|line| line.contains("does not read fast enough")).count();
    let at_most = 1 + usize::try_from(began.elapsed().as_secs() / 10).expect("not that long");
    assert!((1..=at_most).contains(&lines), "{log}");
    assert!(log.contains("left_out=0") && log.ends_with("stopped\n"), "{log}");
    assert!(!log.contains("payload") && !log.contains(APP.secret), "{log}");
}
