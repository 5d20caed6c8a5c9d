//! Redis servers of our own, on loopback. The tests need `redis-server` and `redis-cli` installed.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::eventually_within;

/// A server in a folder of its own, both gone with it.
pub struct RedisServer {
    child: Child,
    pub port: u16,
    pub folder: PathBuf,
    cli: Vec<String>,
}

/// A port that nobody listens to, and none ten thousand above it.
pub fn free_port() -> u16 {
    loop {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        if port < 50_000 && TcpListener::bind(("127.0.0.1", port + 10_000)).is_ok() {
            return port;
        }
        // Those above are of no use: a cluster's servers listen to a second port.
        let low = 20_000 + port % 20_000;
        if TcpListener::bind(("127.0.0.1", low)).is_ok()
            && TcpListener::bind(("127.0.0.1", low + 10_000)).is_ok()
        {
            return low;
        }
    }
}

pub fn folder() -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("fanfare-redis-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

impl RedisServer {
    /// One that keeps nothing.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub async fn start_with(args: &[&str]) -> Self {
        let port = free_port();
        let port_text = port.to_string();
        let mut all = vec!["--port", &*port_text];
        all.extend_from_slice(args);
        Self::run(port, folder(), &all, &[]).await
    }

    /// One that wants a password.
    pub async fn start_signed(password: &str) -> Self {
        let port = free_port();
        let args = ["--port", &port.to_string(), "--requirepass", password];
        Self::run(port, folder(), &args, &["-a", password]).await
    }

    /// `cli`: what `redis-cli` takes besides the port.
    pub async fn run(port: u16, folder: PathBuf, args: &[&str], cli: &[&str]) -> Self {
        let child = Command::new("redis-server")
            .args(args)
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"])
            .arg(&folder)
            .stdout(Stdio::null())
            .spawn()
            .expect("these tests need redis-server (Debian: redis-server) to be installed");
        let cli = cli.iter().map(|&arg| arg.to_owned()).collect();
        let server = Self { child, port, folder, cli };
        eventually_within(Duration::from_secs(20), "redis-server answers", async || {
            server.cli(&["PING"]).contains("PONG")
        })
        .await;
        server
    }

    /// What `redis-cli` says.
    pub fn cli(&self, command: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .args(["-p", &self.port.to_string()])
            .args(&self.cli)
            .args(command)
            .stderr(Stdio::null())
            .output()
            .expect("these tests need redis-cli (Debian: redis-tools) to be installed");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Stops it at once.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// What makes the process wait, and go on.
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(sent.expect("kill").success());
    }
}

/// Three masters of a cluster.
pub async fn cluster() -> Vec<RedisServer> {
    let mut servers = Vec::new();
    for _ in 0..3 {
        servers.push(RedisServer::start_with(&["--cluster-enabled", "yes"]).await);
    }
    let addresses: Vec<String> = servers.iter().map(|s| format!("127.0.0.1:{}", s.port)).collect();
    let mut command = vec!["--cluster", "create"];
    command.extend(addresses.iter().map(String::as_str));
    command.push("--cluster-yes");
    servers[0].cli(&command);
    for server in &servers {
        eventually_within(Duration::from_secs(20), "the cluster is there", async || {
            server.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
        })
        .await;
    }
    servers
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
