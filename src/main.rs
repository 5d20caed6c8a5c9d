//! The `fanfare` program: parse flags, load the configuration, start, exit code.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod cli;

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use fanfare::Broker;
use fanfare::config::{Config, Env, Log, LogFormat};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tracing_subscriber::prelude::*;
use tracing_subscriber::{EnvFilter, reload};

use cli::reload::{Reloads, SetLevel};
use cli::{Cli, Command, serve};

/// It gives back what a crowd took once the crowd has left: of 24 MiB for 15,000 sockets 21 within
/// seconds, the system's allocator none. A publish costs a tenth less, too.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Something in the way of serving: a port in use, a signal handler that cannot be had.
const FAILED: u8 = 1;
/// Signals so soon after the first are taken for the same one: some programs send it to the process and
/// to its group.
const ONE_SIGNAL: Duration = Duration::from_millis(200);

/// A bad configuration; also what bad flags exit with.
const BAD_CONFIG: u8 = 2;

fn main() -> ExitCode {
    let env: Env = std::env::vars_os().collect();
    match Cli::parse().into_command() {
        Command::Check(args) => match cli::check::run(&args, &env) {
            Ok(report) => tell(&report),
            Err(problems) => return fail(BAD_CONFIG, &problems),
        },
        Command::Serve(args) => match serve::load(&args, &env) {
            Ok(config) => return start(config, args, env),
            Err(problems) => return fail(BAD_CONFIG, &problems),
        },
        Command::Bench(args) => return cli::bench::run(&args),
    }
    ExitCode::SUCCESS
}

fn start(config: Config, args: serve::Args, env: Env) -> ExitCode {
    let set_level = start_logging(&config.log);
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let ended = tokio::runtime::Builder::new_multi_thread().enable_all().build().and_then(|runtime| {
        let ended = runtime.block_on(run(config, args, env, set_level));
        // A webhook's host may still be looked up, which cannot be cut short: nobody waits for that.
        runtime.shutdown_background();
        ended
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(FAILED, &format_args!("fanfare: {error}")),
    }
}

async fn run(config: Config, args: serve::Args, env: Env, set_level: SetLevel) -> io::Result<()> {
    // Before anything is told, so that whoever reads it may signal at once.
    let terminate = signal(SignalKind::terminate())?;
    let interrupt = signal(SignalKind::interrupt())?;
    let hangup = signal(SignalKind::hangup())?;
    let broker = Broker::bind(config.clone()).await?;
    tell(&serve::listening(&config.server.listen, broker.public_addrs(), broker.admin_addr()));
    if let Some(address) = broker.public_addrs().first().filter(|_| args.config.is_none()) {
        tell(&serve::banner(&config, *address).unwrap_or_default());
    }
    let reloads = Reloads { args, env, control: broker.control(), set_level };
    let following = tokio::spawn(async move { reloads.follow(hangup, &config).await });
    let (told, stop) = oneshot::channel();
    let stop = async {
        let _ = stop.await;
    };
    let ended = tokio::select! {
        ended = broker.run(stop) => ended,
        () = signalled_twice(terminate, interrupt, told) => {
            Err(io::Error::new(io::ErrorKind::Interrupted, "ended at once by a second signal"))
        }
    };
    following.abort();
    ended
}

/// Tells of the first signal, and waits for a second one.
async fn signalled_twice(mut terminate: Signal, mut interrupt: Signal, told: oneshot::Sender<()>) {
    let mut signalled = async || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    signalled().await;
    let _ = told.send(());
    let first = Instant::now();
    while first.elapsed() < ONE_SIGNAL {
        signalled().await;
    }
}

/// Logs go to stderr. Gives what sets how much is logged.
fn start_logging(log: &Log) -> SetLevel {
    // The level was checked with the rest of the config.
    let filter = |level: &str| EnvFilter::builder().parse_lossy(level);
    let (filtered, handle) = reload::Layer::new(filter(&log.level));
    let logs = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let logs = match log.format {
        LogFormat::Text => logs.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => logs.json().boxed(),
    };
    tracing_subscriber::registry().with(filtered).with(logs).init();
    Box::new(move |level| {
        // It fails only when there is no log any more.
        let _ = handle.reload(filter(level));
    })
}

fn tell(text: &str) {
    // Nobody may be listening, which is no reason not to serve.
    let _ = io::stdout().write_all(text.as_bytes());
    let _ = io::stdout().flush();
}

fn fail(code: u8, error: &dyn Display) -> ExitCode {
    let _ = writeln!(io::stderr(), "{error}");
    ExitCode::from(code)
}
