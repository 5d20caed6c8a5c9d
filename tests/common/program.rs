//! The program itself as a child process: ended by its own pid, killed if the test ends before it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::task::JoinHandle;

use super::redis::signal;
use super::{Settings, in_time, within};

/// A program that serves.
pub struct Program {
    pub address: SocketAddr,
    /// The private listener.
    pub admin: SocketAddr,
    /// The lines that say where it listens.
    pub told: Vec<String>,
    child: Child,
    folder: PathBuf,
    log: Arc<Mutex<String>>,
    /// Ends with the log. It is read all the time: a program that nobody reads stands still.
    reading: JoinHandle<()>,
}

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    /// Its log.
    pub log: String,
}

impl Program {
    /// Starts it; `trusted`: the certificates that its system trusts, as PEM.
    pub async fn start(name: &str, settings: &Settings, trusted: &str) -> Self {
        Self::start_with(name, settings, trusted, &[]).await
    }

    /// The same with these variables in its environment.
    pub async fn start_with(name: &str, settings: &Settings, trusted: &str, env: &[(&str, &str)]) -> Self {
        let folder = folder(name, settings, trusted);
        let mut child = command(&folder).envs(env.iter().copied()).spawn().expect("it starts");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let (mut address, mut admin, mut told) = (None, None, Vec::new());
        while admin.is_none() {
            let line = in_time("a line", lines.next_line()).await.expect("UTF-8").expect("a listener");
            let found = line.split("http://").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
            if line.ends_with("(admin)") {
                admin = found
            } else {
                address = address.or(found)
            }
            told.push(line);
        }
        let log = Arc::<Mutex<String>>::default();
        let reading = tokio::spawn(read(child.stderr.take().expect("a pipe"), Arc::clone(&log)));
        let (address, admin) = (address.expect("public"), admin.expect("private"));
        Self { address, admin, told, child, folder, log, reading }
    }

    /// Starts one that cannot serve, and returns what it says.
    pub async fn refusal(name: &str, settings: &Settings, trusted: &str) -> String {
        let folder = folder(name, settings, trusted);
        let ended = in_time("the program's end", command(&folder).output()).await.expect("it starts");
        let _ = std::fs::remove_dir_all(&folder);
        assert!(!ended.status.success() && ended.stdout.is_empty(), "{ended:?}");
        String::from_utf8(ended.stderr).expect("UTF-8")
    }

    /// Asks it to end, and waits for that.
    pub async fn stop(self, limit: Duration) -> Ended {
        signal(self.pid(), "TERM");
        self.ended(limit).await
    }

    /// Waits for its end.
    pub async fn ended(mut self, limit: Duration) -> Ended {
        within(limit, "the program's end", &mut self.reading).await.expect("UTF-8");
        let code = within(limit, "an exit code", self.child.wait()).await.expect("it ends").code();
        let log = self.log();
        Ended { code, log }
    }

    /// Asks it to end again and again, until it does.
    pub async fn insist(mut self, limit: Duration) -> Ended {
        let started = Instant::now();
        let code = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status.code();
            }
            assert!(started.elapsed() < limit, "not within {limit:?}: the program's end");
            signal(self.pid(), "TERM");
        };
        within(limit, "the end of its log", &mut self.reading).await.expect("UTF-8");
        Ended { code, log: self.log() }
    }

    /// The process, while it lives.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("it still runs")
    }

    /// Writes another config file, whole at once.
    pub fn rewrite(&self, text: &str) {
        let (file, new) = (self.folder.join("fanfare.toml"), self.folder.join("new.toml"));
        std::fs::write(&new, text).expect("written");
        std::fs::rename(&new, &file).expect("moved");
    }

    /// Puts a pipe in the place of its config file, to which nobody writes.
    pub fn replace_by_a_pipe(&self) {
        let file = self.folder.join("fanfare.toml");
        std::fs::remove_file(&file).expect("removed");
        let made = std::process::Command::new("mkfifo").arg(&file).status().expect("it starts");
        assert!(made.success());
    }

    /// Has it read its config again.
    pub fn hang_up(&self) {
        signal(self.pid(), "HUP");
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("a lock").clone()
    }

    /// Ends it at once.
    pub async fn kill(&mut self) {
        in_time("the program's end", self.child.kill()).await.expect("it is killed");
    }

    /// From here on it does nothing, and keeps its connections.
    pub fn pause(&self) {
        signal(self.pid(), "STOP");
    }

    /// It goes on.
    pub fn resume(&self) {
        signal(self.pid(), "CONT");
    }

    /// Bytes of memory that it has now.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
        1024 * line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
    }
}

async fn read(mut stderr: ChildStderr, log: Arc<Mutex<String>>) {
    let mut piece = vec![0; 8 << 10];
    // Whole lines come in one piece, so that no character is cut.
    while let Ok(length @ 1..) = stderr.read(&mut piece).await {
        log.lock().expect("a lock").push_str(&String::from_utf8_lossy(&piece[..length]));
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A folder with its config and the certificates that it trusts.
fn folder(name: &str, settings: &Settings, trusted: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("fanfare-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("fanfare.toml"), settings.to_toml()).expect("written");
    std::fs::write(folder.join("roots.pem"), trusted).expect("written");
    folder
}

/// The program, with no more of an environment than that.
fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
    command.args(["serve", "--config"]).arg(folder.join("fanfare.toml"));
    command.env_clear().env("SSL_CERT_FILE", folder.join("roots.pem"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}
