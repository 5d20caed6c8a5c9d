//! The real binary as a child process, and the smallest WebSocket client that can watch what the
//! server library under test causes.

use std::process::Stdio;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

pub const APP_ID: &str = "1";
pub const KEY: &str = "app-key";
pub const SECRET: &str = "app-secret";

const DEADLINE: Duration = Duration::from_secs(20);

const SETTINGS: &str = r#"
[server]
listen = ["127.0.0.1:0"]
shutdown_grace = "5s"

[admin]
listen = "127.0.0.1:0"

[log]
level = "warn"

[[apps]]
id = "1"
key = "app-key"
secret = "app-secret"
"#;

/// A running server; `address` is its public listener.
pub struct Fanfare {
    child: Child,
    folder: std::path::PathBuf,
    pub address: String,
}

impl Fanfare {
    /// Starts the binary named by `FANFARE_BINARY` on a free loopback port.
    pub async fn start() -> Self {
        static STARTED: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let binary = std::env::var_os("FANFARE_BINARY").expect("FANFARE_BINARY must name the server to test");
        let number = STARTED.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("fanfare-rust-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let config = folder.join("fanfare.toml");
        std::fs::write(&config, SETTINGS).unwrap();
        let mut child = Command::new(binary)
            .arg("serve")
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = timeout(DEADLINE, async {
            loop {
                let line = lines.next_line().await.unwrap().expect("the server ended before it listened");
                if let Some(address) = public_address(&line) {
                    break address;
                }
            }
        })
        .await
        .expect("the server did not say where it listens");
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { child, folder, address }
    }

    /// SIGTERM to this very process; a drained stop ends with exit code 0.
    pub async fn stop(mut self) {
        let pid = self.child.id().expect("the server is running").to_string();
        // The shell's own `kill`: the program of that name may be missing.
        let sent = Command::new("sh").args(["-c", "kill -TERM \"$0\"", &pid]).status().await.unwrap();
        assert!(sent.success());
        let status = timeout(DEADLINE, self.child.wait()).await.expect("the server did not stop").unwrap();
        std::fs::remove_dir_all(&self.folder).unwrap();
        assert_eq!(status.code(), Some(0));
    }
}

/// One line per listener; those of the private listener name it as such.
fn public_address(line: &str) -> Option<String> {
    let lower = line.to_lowercase();
    if lower.contains("admin") || lower.contains("private") {
        return None;
    }
    let start = line.find("127.")?;
    let address: String =
        line[start..].chars().take_while(|c| c.is_ascii_digit() || ".:".contains(*c)).collect();
    let (_, port) = address.split_once(':')?;
    (port.parse::<u16>().ok()? != 0).then_some(address)
}

/// A subscriber that speaks just enough of the protocol.
pub struct Watcher {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    pub socket_id: String,
}

impl Watcher {
    pub async fn connect(server: &Fanfare) -> Self {
        let url = format!("ws://{}/app/{KEY}?protocol=7&client=fanfare-tests&version=1.0", server.address);
        let (socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
        let mut watcher = Self { socket, socket_id: String::new() };
        let hello = watcher.expect("pusher:connection_established").await;
        let data: Value = serde_json::from_str(hello["data"].as_str().unwrap()).unwrap();
        watcher.socket_id = data["socket_id"].as_str().unwrap().to_string();
        watcher
    }

    pub async fn send(&mut self, event: &str, data: Value) {
        let frame = json!({ "event": event, "data": data }).to_string();
        self.socket.send(Message::text(frame)).await.unwrap();
    }

    /// Subscribes with what an authorisation route answered (`{}` for public channels) and returns
    /// the decoded data of the success.
    pub async fn subscribe(&mut self, channel: &str, answer: &str) -> Value {
        self.ask_for(channel, answer).await;
        let success = self.expect("pusher_internal:subscription_succeeded").await;
        assert_eq!(success["channel"], channel);
        serde_json::from_str(success["data"].as_str().unwrap()).unwrap()
    }

    /// Sends the subscription without waiting for its answer.
    pub async fn ask_for(&mut self, channel: &str, answer: &str) {
        let mut data: Value = serde_json::from_str(answer).unwrap();
        data["channel"] = channel.into();
        self.send("pusher:subscribe", data).await;
    }

    /// The next frame, which must be called `event`.
    pub async fn expect(&mut self, event: &str) -> Value {
        let text = timeout(DEADLINE, async {
            loop {
                match self.socket.next().await.expect("the connection ended").unwrap() {
                    Message::Text(text) => break text,
                    Message::Ping(_) | Message::Pong(_) => {}
                    other => panic!("expected {event}, got {other:?}"),
                }
            }
        })
        .await
        .unwrap_or_else(|_| panic!("waited in vain for {event}"));
        let frame: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(frame["event"], event, "{frame}");
        frame
    }
}
