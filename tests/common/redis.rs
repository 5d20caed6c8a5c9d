//! A redis-server of the test's own on loopback: gone, by its pid, with the value that stands for it.
//! `FANFARE_REDIS_SERVER` and `FANFARE_REDIS_CLI` name other programs that do the same, as Valkey's.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;

use super::dice;
use super::resp::{self, Said};
use super::{certificates, in_time};

/// How long a server may take to begin, or several to find one another.
pub const BEGINNING: Duration = Duration::from_secs(20);
/// Outside of what the kernel gives to clients: a port that is free stays so while a server restarts.
const PORTS: std::ops::Range<u64> = 10_000..30_000;

/// An argument that only servers with TLS have.
const WITH_TLS: &str = "--tls-cert-file";

/// A server.
pub struct Redis {
    pub port: u16,
    /// Where it listens by TLS, if it does.
    pub tls_port: Option<u16>,
    password: Option<String>,
    folder: PathBuf,
    args: Vec<String>,
    child: Child,
}

impl Redis {
    /// One that keeps nothing on disk and asks for nothing.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// One with these arguments besides.
    pub async fn with(args: &[&str]) -> Self {
        Self::begin(None, None, args).await
    }

    /// One that asks for this password.
    pub async fn with_password(password: &str) -> Self {
        Self::begin(Some(password), None, &["--requirepass", password]).await
    }

    /// One that is reached by TLS as well, and the file of the certificates that its own is signed by.
    pub async fn with_tls() -> (Self, PathBuf) {
        Self::with_certificate(certificates::write).await
    }

    /// The same with a certificate that nobody has signed but itself.
    pub async fn with_self_signed_tls() -> (Self, PathBuf) {
        Self::with_certificate(certificates::write_self_signed).await
    }

    async fn with_certificate(write: fn(&Path) -> PathBuf) -> (Self, PathBuf) {
        let folder = fresh_folder();
        let ca = write(&folder);
        let file = |name: &str| folder.join(name).display().to_string();
        let (cert, key, root) = (file("cert.pem"), file("key.pem"), ca.display().to_string());
        let args = [
            [WITH_TLS, cert.as_str()],
            ["--tls-key-file", key.as_str()],
            ["--tls-ca-cert-file", root.as_str()],
            ["--tls-auth-clients", "no"],
        ];
        (Self::begin(None, Some(folder), args.as_flattened()).await, ca)
    }

    /// One that watches others as this configuration says.
    pub async fn sentinel(config: &str) -> Self {
        let folder = fresh_folder();
        std::fs::write(folder.join("sentinel.conf"), config).expect("written");
        Self::begin(None, Some(folder), &["--sentinel"]).await
    }

    async fn begin(password: Option<&str>, folder: Option<PathBuf>, args: &[&str]) -> Self {
        let folder = folder.unwrap_or_else(fresh_folder);
        // Somebody else may take a port before the server does.
        for _ in 0..10 {
            let (port, tls_port) = (free_port(), args.contains(&WITH_TLS).then(free_port));
            let mut args: Vec<_> = args.iter().map(|arg| (*arg).to_owned()).collect();
            args.extend(["--cluster-port".to_owned(), free_port().to_string()]);
            args.extend(tls_port.iter().flat_map(|port| ["--tls-port".to_owned(), port.to_string()]));
            let child = spawn(port, &folder, &args);
            let password = password.map(str::to_owned);
            let mut redis = Self { port, tls_port, password, folder: folder.clone(), args, child };
            if redis.answers().await {
                return redis;
            }
            // Its drop takes the folder along.
            std::mem::take(&mut redis.folder);
        }
        panic!("{} does not start", program().display());
    }

    /// Waits until it is this server that answers; not when it has ended.
    async fn answers(&mut self) -> bool {
        let wanted = format!("process_id:{}", self.child.id());
        let begun = std::time::Instant::now();
        while begun.elapsed() < BEGINNING && self.child.try_wait().expect("a child").is_none() {
            if let Ok(Said::Text(info)) = self.try_command(&["INFO", "server"]).await
                && info.lines().any(|line| line == wanted)
            {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }

    /// How nodes reach it.
    pub fn url(&self) -> String {
        match &self.password {
            Some(password) => format!("redis://:{password}@127.0.0.1:{}", self.port),
            None => format!("redis://127.0.0.1:{}", self.port),
        }
    }

    /// How nodes reach it by TLS.
    pub fn tls_url(&self) -> String {
        format!("rediss://localhost:{}", self.tls_port.expect("a server with TLS"))
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends one command on a connection of its own, and returns the answer.
    pub async fn command(&self, words: &[&str]) -> Said {
        let said = self.try_command(words).await.expect("the server answers");
        assert!(!matches!(said, Said::Error(_)), "{words:?}: {said:?}");
        said
    }

    /// As [`Redis::command`]; the answer may be an error, or not come.
    pub async fn try_command(&self, words: &[&str]) -> std::io::Result<Said> {
        let work = async {
            let mut stream = TcpStream::connect(self.address()).await?;
            if let Some(password) = &self.password {
                resp::ask(&mut stream, &["AUTH", password]).await?;
            }
            resp::ask(&mut stream, words).await
        };
        in_time("an answer of Redis", work).await
    }

    /// Adds a user that has to give this password, and may do only this.
    pub async fn add_user(&self, name: &str, password: &str, may: &[&str]) {
        let password = format!(">{password}");
        let words = [&["ACL", "SETUSER", name, "on", password.as_str()], may].concat();
        self.command(&words).await;
    }

    /// Forgets everything.
    pub async fn flush(&self) {
        self.command(&["FLUSHALL"]).await;
    }

    /// Ends it at once; what it knew is lost.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Begins it again on the same port, knowing nothing.
    pub async fn begin_again(&mut self) {
        self.child = spawn(self.port, &self.folder, &self.args);
        assert!(self.answers().await, "no server starts again on port {}", self.port);
    }

    /// Ends it and begins it again, knowing nothing.
    pub async fn restart_empty(&mut self) {
        self.kill();
        self.begin_again().await;
    }

    /// From here on it does nothing, and keeps its connections.
    pub fn pause(&self) {
        signal(self.pid(), "STOP");
    }

    /// It goes on.
    pub fn resume(&self) {
        signal(self.pid(), "CONT");
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
        if !self.folder.as_os_str().is_empty() {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// Sends a signal to a process that we have started.
pub fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
    assert!(sent.is_ok_and(|status| status.success()), "no signal to {pid}");
}

/// The program for what no single command does, as making several servers a cluster.
pub fn cli() -> tokio::process::Command {
    let name = std::env::var_os("FANFARE_REDIS_CLI").unwrap_or_else(|| "redis-cli".into());
    let mut command = tokio::process::Command::new(name);
    command.kill_on_drop(true);
    command
}

fn program() -> PathBuf {
    std::env::var_os("FANFARE_REDIS_SERVER").unwrap_or_else(|| "redis-server".into()).into()
}

fn spawn(port: u16, folder: &Path, args: &[String]) -> Child {
    let mut command = Command::new(program());
    let config = folder.join("sentinel.conf");
    if config.exists() {
        command.arg(config);
    }
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--dir"]).arg(folder);
    if args.iter().all(|arg| arg != "--sentinel") {
        command.args(["--save", "", "--appendonly", "no"]);
    }
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap_or_else(|error| {
        let name = program();
        let name = name.display();
        panic!(
            "{name} cannot be started ({error}): install it (Debian: redis-server) or run scripts/test tools"
        )
    })
}

/// A port that nobody listens on now.
pub fn free_port() -> u16 {
    let mut dice = dice::Dice::drawn();
    loop {
        let port = u16::try_from(PORTS.start + dice.below(PORTS.end - PORTS.start)).expect("a port");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn fresh_folder() -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("fanfare-redis-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}
