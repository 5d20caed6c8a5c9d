//! The `fanfare` program: parse flags, load the configuration, start, exit code.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod cli;

use std::fmt::Display;
use std::io;
use std::process::ExitCode;

use clap::Parser;
use fanfare::config::Env;

use cli::reload::Seen;
use cli::{Cli, Command, run, serve, write_to};

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
            Ok(report) => write_to(io::stdout(), report),
            Err(problems) => return fail(BAD_CONFIG, &problems),
        },
        Command::Serve(args) => {
            // Before they are read, so that no change is missed.
            let seen = Seen::default().and(&args.config);
            match serve::load(&args, &env).map(|config| run::run(config, args, env, seen)) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return fail(FAILED, &format_args!("fanfare: {error}")),
                Err(problems) => return fail(BAD_CONFIG, &problems),
            }
        }
        Command::Bench(args) => return cli::bench::run(&args),
    }
    ExitCode::SUCCESS
}

fn fail(code: u8, error: &dyn Display) -> ExitCode {
    write_to(io::stderr(), format!("{error}\n"));
    ExitCode::from(code)
}
