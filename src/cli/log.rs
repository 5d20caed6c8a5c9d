//! The log, which goes to stderr.

use std::io::{self, IsTerminal};

use fanfare::config::{Log, LogFormat};
use tracing_subscriber::prelude::*;
use tracing_subscriber::{EnvFilter, reload};

/// Has the log write as much as this level says from now on.
pub(crate) type SetLevel = Box<dyn Fn(&str) + Send + Sync>;

/// Starts it. Gives what sets how much is logged.
pub(crate) fn start(log: &Log) -> SetLevel {
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
