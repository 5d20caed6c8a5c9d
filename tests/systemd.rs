//! What a service manager is told, and sockets that it hands over. Here the tests are that manager.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Client, DEADLINE, HOME, Heard, Program, Settings, eventually, http, in_time, settings, within};
use tokio::net::{TcpStream, UnixDatagram};

/// A folder of its own; it goes with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("fanfare-systemd-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Where a service manager hears what it is told.
struct Manager {
    socket: UnixDatagram,
    path: String,
    _folder: Folder,
}

impl Manager {
    fn new(name: &str) -> Self {
        let folder = Folder::new(name);
        let path = folder.file("notify.sock");
        Self { socket: UnixDatagram::bind(&path).expect("a socket"), path, _folder: folder }
    }

    /// The next thing it is told.
    async fn hears(&self) -> String {
        let mut buffer = [0; 1024];
        let length = in_time("a notification", self.socket.recv(&mut buffer)).await.expect("a datagram");
        String::from_utf8(buffer[..length].to_vec()).expect("UTF-8")
    }

    /// One of these tests as a child that tells it things, and gives signs of life twice in so long.
    fn itself(&self, test: &str, watchdog: Duration) -> tokio::process::Command {
        let mut itself = tokio::process::Command::new(std::env::current_exe().expect("a program"));
        itself.args(["--exact", test]).env("NOTIFY_SOCKET", &self.path).kill_on_drop(true);
        itself.env("WATCHDOG_USEC", watchdog.as_micros().to_string());
        itself
    }

    /// Runs one of these tests again as such a child, to its end.
    async fn runs_itself(&self, test: &str) {
        let mut itself = self.itself(test, Duration::from_millis(2));
        let ended = within(DEADLINE * 4, "its end", itself.output()).await.expect("it starts");
        assert!(ended.status.success(), "{ended:?}");
    }

    /// The next thing that is no sign of life.
    async fn hears_news(&self) -> String {
        loop {
            let heard = self.hears().await;
            if heard != "WATCHDOG=1\n" {
                return heard;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_manager_is_told_of_start_life_and_stop() {
    let manager = Manager::new("told");
    let settings = settings().server("drain_delay", "1s").server("shutdown_grace", "60s");
    // Microseconds.
    let env = [("NOTIFY_SOCKET", manager.path.as_str()), ("WATCHDOG_USEC", "200000")];
    let program = Program::start_with("told", &settings, "", &env).await;
    assert_eq!(manager.hears_news().await, "READY=1\n");
    let mut client = Client::open(program.address, HOME, &[]).await.expect("it serves");
    client.expect_established().await;
    for _ in 0..3 {
        assert_eq!(manager.hears().await, "WATCHDOG=1\n");
    }
    common::redis::signal(program.pid(), "TERM");
    assert_eq!(manager.hears_news().await, "STOPPING=1\n");
    assert_eq!(manager.hears().await, "WATCHDOG=1\n", "it lives until its end");
    client.closed_with(4200).await;
    drop(client);
    assert_eq!(program.ended(DEADLINE * 2).await.code, Some(0));
}

/// A stop that had nobody to wait for was over before that was told.
#[tokio::test(flavor = "multi_thread")]
async fn a_watchdog_that_is_for_another_process_is_left_alone() {
    let manager = Manager::new("another");
    let env = [("NOTIFY_SOCKET", manager.path.as_str()), ("WATCHDOG_USEC", "1000"), ("WATCHDOG_PID", "1")];
    let program = Program::start_with("another", &settings(), "", &env).await;
    assert_eq!(manager.hears().await, "READY=1\n");
    common::redis::signal(program.pid(), "TERM");
    assert_eq!(manager.hears().await, "STOPPING=1\n");
    assert_eq!(program.ended(DEADLINE).await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_that_cannot_be_told_is_no_reason_not_to_serve() {
    let program = Program::start_with("nowhere", &settings(), "", &[("NOTIFY_SOCKET", "/nowhere")]).await;
    let mut client = Client::open(program.address, HOME, &[]).await.expect("it serves");
    client.expect_established().await;
    client.close().await;
    let ended = program.stop(DEADLINE).await;
    assert_eq!(ended.code, Some(0));
    assert!(ended.log.contains("the service manager cannot be told"), "{}", ended.log);
}

/// Only a process of its own has variables of its own: this test runs itself again, as a child.
#[tokio::test]
async fn a_reload_is_told_with_its_time() {
    fanfare::notify::reloading().await;
    fanfare::notify::ready().await;
    if std::env::var_os("NOTIFY_SOCKET").is_some() {
        return;
    }
    let manager = Manager::new("reload");
    manager.runs_itself("a_reload_is_told_with_its_time").await;
    let heard = manager.hears().await;
    let time =
        heard.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").and_then(|rest| rest.trim_end().parse().ok());
    assert!(time.is_some_and(|time: u64| time > 0), "{heard:?}");
    assert_eq!(manager.hears().await, "READY=1\n");
}

/// What was told while something else was on its way was dropped: a stop just after the start, and that a
/// reload has ended while a sign of life was given.
#[tokio::test]
async fn what_is_told_at_once_is_told_in_turn() {
    tokio::join!(fanfare::notify::reloading(), fanfare::notify::ready(), fanfare::notify::stopping());
    if std::env::var_os("NOTIFY_SOCKET").is_some() {
        return;
    }
    let manager = Manager::new("turns");
    manager.runs_itself("what_is_told_at_once_is_told_in_turn").await;
    assert!(manager.hears().await.starts_with("RELOADING=1\n"));
    assert_eq!(manager.hears().await, "READY=1\n");
    assert_eq!(manager.hears().await, "STOPPING=1\n");
}

#[tokio::test]
async fn who_is_not_healthy_gives_no_sign_of_life() {
    if std::env::var_os("NOTIFY_SOCKET").is_some() {
        // Five times asked, or more on a busy machine, and not once well.
        let (asked, mut count) = tokio::sync::watch::channel(0);
        let health = || {
            asked.send_modify(|count| *count += 1);
            false
        };
        tokio::select! {
            () = fanfare::notify::watchdog(health) => panic!("a manager asks for signs of life"),
            _ = count.wait_for(|count| *count >= 5) => {}
        }
        return fanfare::notify::ready().await;
    }
    let manager = Manager::new("unhealthy");
    manager.runs_itself("who_is_not_healthy_gives_no_sign_of_life").await;
    assert_eq!(manager.hears().await, "READY=1\n");
}

/// The next sign of life came half of the manager's time later, and so too late: who had stood still for a
/// moment was killed after it had gone on.
#[tokio::test]
async fn who_is_healthy_again_says_so_at_once() {
    if std::env::var_os("NOTIFY_SOCKET").is_some() {
        let was_asked = AtomicBool::new(false);
        return fanfare::notify::watchdog(|| was_asked.swap(true, Ordering::Relaxed)).await;
    }
    let manager = Manager::new("recovered");
    let mut itself = manager.itself("who_is_healthy_again_says_so_at_once", Duration::from_secs(7200));
    let _child = itself.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    assert_eq!(manager.hears().await, "WATCHDOG=1\n");
}

/// The program as a manager starts it that hands it two sockets; `pid` is whom they are for.
fn handed(
    folder: &Folder,
    settings: &Settings,
    names: &str,
    pid: &str,
    sockets: [&TcpListener; 2],
) -> Command {
    std::fs::write(folder.file("fanfare.toml"), settings.to_toml()).expect("written");
    // Nothing but a shell can give a descriptor another number here, or knows the process's own id before
    // it starts. Handed descriptors begin with 3.
    let script = format!("exec 3<&0 4<&1 </dev/null >/dev/null; export LISTEN_PID={pid}; exec \"$@\"");
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_fanfare"), "serve", "--config"]);
    command.arg(folder.file("fanfare.toml")).env_clear().env("LISTEN_FDS", "2").env("LISTEN_FDNAMES", names);
    let [first, second] = sockets.map(|socket| OwnedFd::from(socket.try_clone().expect("another of it")));
    command.stdin(Stdio::from(first)).stdout(Stdio::from(second)).stderr(Stdio::piped());
    command
}

fn bound() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a port")
}

#[tokio::test(flavor = "multi_thread")]
async fn handed_sockets_are_served_and_stay_open_between_two_servers() {
    let (folder, public, admin) = (Folder::new("handed"), bound(), bound());
    let [there, private] = [&public, &admin].map(|socket| socket.local_addr().expect("an address"));
    let mut waiting: Option<TcpStream> = None;
    for names in ["public:admin", "admin:public"] {
        let sockets = if names.starts_with("public") { [&public, &admin] } else { [&admin, &public] };
        let mut command = tokio::process::Command::from(handed(&folder, &settings(), names, "$$", sockets));
        let program = command.kill_on_drop(true).spawn().expect("it starts");
        let mut client = match waiting.take() {
            None => Client::open(there, HOME, &[]).await.expect("an upgrade"),
            Some(stream) => {
                let address = stream.peer_addr().expect("an address");
                Client::over(stream, address, HOME, &[]).await.expect("the upgrade is completed")
            }
        };
        client.expect_established().await;
        assert_eq!(http::ask(private, "GET", "/readyz").await.status, 200);
        common::redis::signal(program.id().expect("it runs"), "TERM");
        client.closed_with(4200).await;
        drop(client);
        let ended = in_time("its end", program.wait_with_output()).await.expect("an end");
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        // Nobody serves it now, and nobody is refused.
        waiting = Some(in_time("a connection", TcpStream::connect(there)).await.expect("the port is open"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_that_nobody_has_a_place_for_are_refused() {
    let folder = Folder::new("refused");
    let (one, other) = (bound(), bound());
    let mapped = TcpListener::bind("[::ffff:127.0.0.1]:0").expect("a port");
    for (names, sockets, text) in [
        ("public:amdin", [&one, &other], "found \"amdin\""),
        ("public", [&one, &other], "1 names for 2 sockets"),
        ("admin:admin", [&one, &other], "more than one \"admin\""),
        ("public:public", [&one, &other], "2 public sockets were handed over, but server.listen has 1"),
        ("admin:public", [&one, &mapped], "the config says 127.0.0.1:0"),
        ("public:admin", [&one, &mapped], "the config says 127.0.0.1:0"),
    ] {
        let command = handed(&folder, &settings(), names, "$$", sockets);
        let program = tokio::process::Command::from(command).kill_on_drop(true).spawn().expect("it starts");
        let output = in_time("its end", program.wait_with_output()).await.expect("an end");
        let Output { status, stderr, .. } = output;
        let stderr = String::from_utf8(stderr).expect("UTF-8");
        assert_eq!(status.code(), Some(1), "{names}: {stderr}");
        assert!(stderr.contains(text) && stderr.lines().count() == 1, "{names}: {stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_that_are_for_another_process_are_left_alone() {
    let (folder, one, other) = (Folder::new("not-ours"), bound(), bound());
    let (_socket, free) = common::nobody();
    let settings = settings().server("listen", vec![free.to_string()]);
    let command = handed(&folder, &settings, "public:admin", "1", [&one, &other]);
    let program = tokio::process::Command::from(command).kill_on_drop(true).spawn().expect("it starts");
    eventually("a server at its own address", async || TcpStream::connect(free).await.is_ok()).await;
    let mut client = Client::open(free, HOME, &[]).await.expect("an upgrade");
    assert!(matches!(client.hear().await, Heard::Frame(_)));
    drop((client, program));
}
