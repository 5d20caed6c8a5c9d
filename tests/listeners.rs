//! Where the broker listens: Unix sockets, IPv6, several at once, and places that are taken.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::certificates::{Authority, Folder};
use common::fallback::{POLL, is_let_in};
use common::{APP, Api, Broker, Client, DEADLINE, HOME, Heard, Program, Settings, boot};
use common::{eventually, in_time, settings, tls};
use fanfare::config::Config;
use futures_util::SinkExt;
use serde_json::json;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;

fn with_unix(folder: &Folder) -> Settings {
    let unix = format!("unix://{}", folder.file("x.sock"));
    settings().server("listen", vec!["127.0.0.1:0".to_owned(), unix])
}

/// A TCP address behind which a Unix socket is, for clients that know nothing else.
async fn relay(path: impl AsRef<Path>) -> SocketAddr {
    let path: PathBuf = path.as_ref().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut broker = UnixStream::connect(&path).await.expect("the broker listens");
            tokio::spawn(async move { copy_bidirectional(&mut client, &mut broker).await });
        }
    });
    address
}

async fn dial(address: SocketAddr, headers: &[(&str, &str)]) -> Client {
    Client::open(address, HOME, headers).await.expect("the upgrade is completed")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_carries_sockets_and_the_api_and_its_file_goes_with_it() {
    let folder = Folder::new("unix");
    let mut broker = boot(with_unix(&folder)).await;
    let file = folder.file("x.sock");
    let mode = fs::metadata(&file).expect("a file").permissions().mode();
    assert_eq!(mode & 0o7777, 0o660);
    let address = relay(&file).await;
    let mut client = dial(address, &[]).await;
    client.expect_established().await;
    client.subscribe("a").await;
    let data = |number: usize| format!("{number:05} {}", "x".repeat(10_000));
    let mut api = Api::new(address, APP);
    for number in 0..60 {
        api.publish("a", "n", &data(number)).await;
    }
    for number in 0..60 {
        client.expect_event("a", "n", &data(number)).await;
    }
    assert_eq!(api.subscribers("a").await, 1);
    broker.begin_stop();
    client.closed_with(4200).await;
    broker.ended(DEADLINE).await;
    assert!(!Path::new(&file).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_too_slowly_by_a_unix_socket_is_closed_as_by_any() {
    let folder = Folder::new("unix-slow");
    let broker = boot(with_unix(&folder).server("max_mailbox_bytes", "64KiB")).await;
    let mut witness = broker.witness().await;
    let stream = UnixStream::connect(folder.file("x.sock")).await.expect("the broker listens");
    let url = format!("ws://localhost{HOME}");
    let mut slow = in_time("the upgrade", client_async(url, stream)).await.expect("a WebSocket").0;
    let subscribe = json!({"event": "pusher:subscribe", "data": {"channel": "flood"}});
    slow.send(Message::text(subscribe.to_string())).await.expect("sent");
    broker.becomes("fanfare_subscriptions{app=\"1\"}", 2.0).await;
    let closed = "fanfare_closed_connections_total{reason=\"slow_consumer\"}";
    let mut api = broker.api();
    let data = "x".repeat(10_000);
    let is_closed = async || {
        api.publish("flood", "n", &data).await;
        broker.metrics().await.get(closed) == 1.0
    };
    eventually("the end of the socket", is_closed).await;
    drop(slow);
    witness.still_works().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forwarded_headers_by_a_unix_socket_are_believed_if_unix_is_trusted() {
    let https = [("X-Forwarded-Proto", "https")];
    for (round, (trusted, unix_is, tcp_is)) in [
        (&[][..], false, false),
        // An address that nobody has is in these; a Unix socket is not.
        (&["0.0.0.0/0", "::/0"], false, true),
        (&["unix"], true, false),
        (&["127.0.0.1", "unix"], true, true),
    ]
    .into_iter()
    .enumerate()
    {
        // The broker of the round before may still be about to remove its file.
        let folder = Folder::new(&format!("unix-trust-{round}"));
        let settings = with_unix(&folder).server("trusted_proxies", trusted.to_vec());
        let broker = boot(settings.feature("force_tls", true)).await;
        for (address, is_trusted) in [(relay(folder.file("x.sock")).await, unix_is), (broker.address, tcp_is)]
        {
            match dial(address, &https).await.hear().await {
                Heard::Frame(frame) => {
                    assert!(
                        is_trusted && frame["event"] == "pusher:connection_established",
                        "{trusted:?} {frame}"
                    );
                }
                Heard::Closed { code, .. } => assert!(!is_trusted && code == 4000, "{trusted:?} {code}"),
                other => panic!("{other:?}"),
            }
            dial(address, &[]).await.closed_with(4000).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_a_unix_socket_are_one_address_until_a_trusted_proxy_tells_theirs() {
    for (round, (trusted, expected)) in
        [("0.0.0.0/0", [true, false, false]), ("unix", [true, false, true])].into_iter().enumerate()
    {
        // The broker of the round before may still be about to remove its file.
        let folder = Folder::new(&format!("unix-addresses-{round}"));
        let settings = with_unix(&folder).server("max_fallback_sessions_per_ip", 1);
        let mut broker: Broker = boot(settings.server("trusted_proxies", vec![trusted])).await;
        broker.address = relay(folder.file("x.sock")).await;
        let mut let_in = Vec::new();
        for client in ["1.1.1.1", "1.1.1.1", "2.2.2.2"] {
            let header = format!("X-Forwarded-For: {client}\r\n");
            let_in.push(is_let_in(&broker.session(POLL), &header).await);
        }
        assert_eq!(let_in, expected);
    }
}

async fn bind(settings: &Settings) -> std::io::Result<fanfare::Broker> {
    fanfare::Broker::bind(Config::parse(&settings.to_toml()).expect("a config")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_a_dead_process_left_is_replaced_and_no_other() {
    let folder = Folder::new("unix-stale");
    let file = folder.file("x.sock");
    // It is left behind by whoever does not remove it.
    drop(std::os::unix::net::UnixListener::bind(&file).expect("a socket"));
    let mut broker = boot(with_unix(&folder)).await;
    dial(relay(&file).await, &[]).await.expect_established().await;

    let error = bind(&with_unix(&folder)).await.err().expect("somebody is there");
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    assert_eq!(error.to_string(), format!("cannot listen on unix://{file}: address in use"));
    dial(relay(&file).await, &[]).await.expect_established().await;

    // A file that another broker has put in the place of its own is not its own.
    fs::remove_file(&file).expect("removed");
    let mut second = boot(with_unix(&folder)).await;
    broker.begin_stop();
    broker.ended(DEADLINE).await;
    dial(relay(&file).await, &[]).await.expect_established().await;
    second.begin_stop();
    second.ended(DEADLINE).await;
    assert!(!Path::new(&file).exists());

    folder.write("x.sock", "precious");
    let error = bind(&with_unix(&folder)).await.err().expect("no socket");
    assert!(error.to_string().ends_with("x.sock: there is a file that is no socket"), "{error}");
    assert_eq!(fs::read_to_string(&file).expect("a text"), "precious");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_whose_queue_is_full_is_not_taken_for_dead() {
    let folder = Folder::new("unix-full");
    let file = folder.file("x.sock");
    let busy = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).expect("a socket");
    busy.bind(&socket2::SockAddr::unix(&file).expect("a path")).expect("bound");
    busy.listen(0).expect("listening");
    let mut waiting = Vec::new();
    let full = loop {
        assert!(waiting.len() < 100);
        match UnixStream::connect(&file).await {
            Ok(stream) => waiting.push(stream),
            Err(error) => break error,
        }
    };
    assert_eq!(full.kind(), std::io::ErrorKind::WouldBlock);
    let error = bind(&with_unix(&folder)).await.err().expect("somebody is there");
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    assert!(Path::new(&file).exists());
}

/// Somebody has taken the lock and not come to listening yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_starter_waits_for_another_one_that_is_at_it() {
    let folder = Folder::new("unix-lock");
    let file = folder.file("x.sock");
    let lock = fs::File::create(folder.file("x.sock.lock")).expect("a file");
    lock.lock().expect("a lock");
    let settings = with_unix(&folder);
    let mut waiting = tokio::spawn(async move { bind(&settings).await.err().map(|error| error.kind()) });
    let is_early = tokio::time::timeout(std::time::Duration::from_millis(300), &mut waiting).await.is_ok();
    assert!(!is_early, "it did not wait");
    let there = std::os::unix::net::UnixListener::bind(&file).expect("a socket");
    drop(lock);
    assert_eq!(waiting.await.expect("an answer"), Some(std::io::ErrorKind::AddrInUse));
    drop(there);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_start_at_once_on_a_unix_socket_one_serves() {
    let folder = Folder::new("unix-race");
    let file = folder.file("x.sock");
    let config = folder.write("fanfare.toml", &settings().to_toml());
    for _ in 0..5 {
        drop(std::os::unix::net::UnixListener::bind(&file).expect("a socket that a dead process left"));
        let start = || {
            let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_fanfare"));
            command.args(["--config", &config, "--listen", &format!("unix://{file}")]).env_clear();
            command.env("FANFARE_LOG__LEVEL", "off").stdin(Stdio::null()).stderr(Stdio::piped());
            command.kill_on_drop(true).spawn().expect("it starts")
        };
        let (mut one, mut two) = (start(), start());
        let one_lost = tokio::select! {
            _ = one.wait() => true,
            _ = two.wait() => false,
            () = tokio::time::sleep(DEADLINE) => panic!("both serve"),
        };
        let (loser, mut winner) = if one_lost { (one, two) } else { (two, one) };
        let lost = loser.wait_with_output().await.expect("an end");
        let told = String::from_utf8(lost.stderr).expect("UTF-8");
        assert_eq!(lost.status.code(), Some(1), "{told}");
        assert_eq!(told, format!("fanfare: cannot listen on unix://{file}: address in use\n"));
        dial(relay(&file).await, &[]).await.expect_established().await;
        winner.kill().await.expect("killed");
        fs::remove_file(&file).expect("left behind");
        assert!(!Path::new(&folder.file("x.sock.lock")).exists());
    }
}

/// Two plain ones, one with TLS, and a Unix socket between them.
fn many(folder: &Folder, authority: &Authority) -> Settings {
    folder.hold(&authority.issue_number(7));
    let unix = format!("unix://{}", folder.file("x.sock"));
    let listen = ["127.0.0.1:0", &unix, "[::1]:0", "tls://127.0.0.1:0"];
    let files = [("cert", folder.file("cert.pem")), ("key", folder.file("key.pem"))];
    let table = toml::Table::from_iter(files.map(|(key, file)| (key.to_owned(), file.into())));
    settings().server("listen", listen.map(str::to_owned).to_vec()).server("tls", table)
}

#[tokio::test(flavor = "multi_thread")]
async fn several_listeners_of_every_kind_are_one_broker() {
    let (folder, authority) = (Folder::new("many"), Authority::new());
    let broker = boot(many(&folder, &authority)).await;
    let [plain, six, with_tls] = broker.addresses[..] else { panic!("{:?}", broker.addresses) };
    assert!(six.is_ipv6() && six.ip().is_loopback() && six.port() != 0, "{six}");
    let plain_ones = [plain, relay(folder.file("x.sock")).await, six];
    let mut clients = Vec::new();
    for address in plain_ones {
        let mut client = dial(address, &[]).await;
        client.expect_established().await;
        client.subscribe("a").await;
        clients.push(client);
    }
    let mut secure = tls::connect(&tls::trusting(&authority.der), with_tls.port()).await;
    tls::subscribe(&mut secure, "a").await;
    for (number, address) in plain_ones.into_iter().enumerate() {
        let data = number.to_string();
        Api::new(address, APP).publish("a", "n", &data).await;
        for client in &mut clients {
            client.expect_event("a", "n", &data).await;
        }
        assert_eq!(tls::next(&mut secure).await["data"], data);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_listener_is_told_in_a_line_in_the_order_of_the_config() {
    let (folder, authority) = (Folder::new("told"), Authority::new());
    let mut program = Program::start("told", &many(&folder, &authority), "").await;
    let unix = format!("unix://{}", folder.file("x.sock"));
    let expected = [
        ("http://127.0.0.1:", " (public)"),
        (unix.as_str(), " (public)"),
        ("http://[::1]:", " (public)"),
        ("https://127.0.0.1:", " (public)"),
        ("http://127.0.0.1:", " (admin)"),
    ];
    assert_eq!(program.told.len(), expected.len(), "{:?}", program.told);
    for (line, (place, side)) in program.told.iter().zip(expected) {
        assert!(
            line.starts_with(&format!("fanfare: listening on {place}")) && line.ends_with(side),
            "{line}"
        );
    }
    assert_eq!(program.told[1], format!("fanfare: listening on {unix} (public)"));
    // What is killed removes nothing, and the next takes its place.
    program.kill().await;
    assert!(Path::new(&folder.file("x.sock")).exists());
    let next = Program::start("told", &many(&folder, &authority), "").await;
    assert_eq!(next.stop(DEADLINE).await.code, Some(0));
    assert!(!Path::new(&folder.file("x.sock")).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_in_use_is_told_in_one_line_by_its_name() {
    let (folder, authority) = (Folder::new("in-use"), Authority::new());
    let broker = boot(many(&folder, &authority)).await;
    let unix = format!("unix://{}", folder.file("x.sock"));
    let places = broker.addresses.iter().map(ToString::to_string).chain([unix]);
    let config = folder.write("fanfare.toml", &many(&folder, &authority).to_toml());
    for place in places {
        let listen =
            if place == broker.addresses[2].to_string() { format!("tls://{place}") } else { place.clone() };
        let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
        command.args(["--config", &config, "--listen", &listen]).env_clear().stdin(Stdio::null());
        let output = command.env("FANFARE_LOG__LEVEL", "off").output().expect("it starts");
        let told = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!((output.status.code(), told.lines().count()), (Some(1), 1), "{told}");
        assert!(told.starts_with(&format!("fanfare: cannot listen on {place}: ")), "{told}");
        assert!(told.to_lowercase().contains("address") && told.contains("in use"), "{told}");
        assert!(output.stdout.is_empty());
    }
    dial(relay(folder.file("x.sock")).await, &[]).await.expect_established().await;
}

/// More connections at once than tokio's own queue would hold, to a broker that does not accept yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_that_comes_at_once_finds_room_to_wait() {
    const CROWD: usize = 1_500;
    let allowed = fs::read_to_string("/proc/sys/net/core/somaxconn").ok();
    if allowed.is_none_or(|text| text.trim().parse::<usize>().is_ok_and(|allowed| allowed < CROWD)) {
        return;
    }
    let files = rlimit::increase_nofile_limit(u64::MAX).expect("a limit");
    assert!(files > CROWD as u64, "{files} open files are too few for this test");
    let broker = bind(&settings()).await.expect("a broker");
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        crowd
            .push(in_time("a connection", TcpStream::connect(broker.public_addrs()[0])).await.expect("room"));
    }
}
