//! The `fanfare` program: parse flags, load the configuration, start, exit code.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod cli;

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use fanfare::Broker;
use fanfare::config::{Config, Env, Log, LogFormat};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use cli::{Cli, Command};

/// It gives back what a crowd took once the crowd has left: of 24 MiB for 15,000 sockets 21 within
/// seconds, the system's allocator none. A publish costs a tenth less, too.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Something in the way of serving: a port in use, a signal handler that cannot be had.
const FAILED: u8 = 1;
/// A bad configuration; also what bad flags exit with.
const BAD_CONFIG: u8 = 2;

fn main() -> ExitCode {
    let env: Env = std::env::vars_os().collect();
    match Cli::parse().into_command() {
        Command::Check(args) => match cli::check::run(&args, &env) {
            Ok(report) => tell(&report),
            Err(problems) => return fail(BAD_CONFIG, &problems),
        },
        Command::Serve(args) => match cli::serve::load(&args, &env) {
            Ok(config) => return serve(config, args.config.is_none()),
            Err(problems) => return fail(BAD_CONFIG, &problems),
        },
        Command::Bench(args) => return cli::bench::run(&args),
    }
    ExitCode::SUCCESS
}

fn serve(config: Config, is_development: bool) -> ExitCode {
    start_logging(&config.log);
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let ended = tokio::runtime::Builder::new_multi_thread().enable_all().build().and_then(|runtime| {
        let ended = runtime.block_on(run(config, is_development));
        // A webhook's host may still be looked up, which cannot be cut short: nobody waits for that.
        runtime.shutdown_background();
        ended
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(FAILED, &format_args!("fanfare: {error}")),
    }
}

async fn run(config: Config, is_development: bool) -> io::Result<()> {
    // Before anything is told, so that whoever reads it may signal at once.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let broker = Broker::bind(config.clone()).await?;
    tell(&cli::serve::listening(&config.server.listen, broker.public_addrs(), broker.admin_addr()));
    if let Some(address) = broker.public_addrs().first().filter(|_| is_development) {
        tell(&cli::serve::banner(&config, *address).unwrap_or_default());
    }
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    broker.run(stop).await
}

/// Logs go to stderr.
fn start_logging(log: &Log) {
    // The level was checked with the rest of the config.
    let filter = EnvFilter::builder().parse_lossy(&log.level);
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match log.format {
        LogFormat::Text => logs.with_ansi(io::stderr().is_terminal()).init(),
        LogFormat::Json => logs.json().init(),
    }
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
