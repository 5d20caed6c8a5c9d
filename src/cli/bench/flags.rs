//! The flags of every mode, with the bounds of each.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum, value_parser};

use super::marker;

/// Most sockets in one run.
const MAX_SOCKETS: i64 = 200_000;
/// Longest run.
const MAX_DURATION: Duration = Duration::from_secs(3600);
/// Shortest measurement.
const MIN_DURATION: Duration = Duration::from_millis(10);

/// What every mode is told.
#[derive(Debug, Args)]
pub(super) struct TargetFlags {
    /// The server's host
    #[arg(long, global = true, default_value = "127.0.0.1")]
    pub(super) host: String,
    /// The server's port, for sockets and for the API
    #[arg(long, global = true, default_value_t = 6001, value_parser = value_parser!(u16).range(1..))]
    pub(super) port: u16,
    /// The app's id
    #[arg(long, global = true, default_value = "1")]
    pub(super) app_id: String,
    /// The app's key
    #[arg(long, global = true, default_value = "app-key")]
    pub(super) key: String,
    /// The app's secret
    #[arg(long, global = true, default_value = "app-secret")]
    pub(super) secret: String,
    /// Processes of the server on this machine, whose CPU time and memory are measured
    #[arg(long = "pid", global = true, value_name = "PID", value_delimiter = ',')]
    pub(super) pids: Vec<u32>,
    /// Print one JSON object for each mode; the table goes to stderr
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Measure a server that is not on this machine
    #[arg(long, global = true)]
    pub(super) allow_remote: bool,
}

/// What is measured.
#[derive(Debug, Subcommand)]
pub(super) enum Mode {
    /// Many sockets that do nothing: connections a second, memory a connection
    Idle(Idle),
    /// Events to many subscribers, paced or as fast as the server takes them
    Fanout(Fanout),
    /// Requests to the API, back to back
    Publish(Publish),
    /// Members join a channel and leave it, and everybody hears of everybody exactly once
    Presence(Presence),
    /// Client events between pairs of sockets
    ClientEvents(ClientEvents),
    /// Sockets come, subscribe and go: sockets a second, and memory that stays behind
    Churn(Churn),
    /// A short run of every mode
    Suite(Suite),
}

/// Which channels idle sockets subscribe to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Spread {
    /// Each a channel of its own
    Own,
    /// All the same channel
    Shared,
    /// None
    None,
}

/// Flags of `idle`.
#[derive(Clone, Debug, Args)]
pub(super) struct Idle {
    /// Sockets
    #[arg(long, default_value_t = 1000, value_parser = value_parser!(u32).range(1..=MAX_SOCKETS))]
    pub(super) connections: u32,
    /// Which channels they subscribe to
    #[arg(long, value_enum, default_value_t = Spread::Own)]
    pub(super) channels: Spread,
    /// How long they idle
    #[arg(long, default_value = "5s", value_parser = duration)]
    pub(super) duration: Duration,
    /// How many are opened at the same time
    #[arg(long, default_value_t = 64, value_parser = value_parser!(u32).range(1..=4096))]
    pub(super) window: u32,
}

/// Flags of `fanout`.
#[derive(Clone, Debug, Args)]
pub(super) struct Fanout {
    /// Sockets
    #[arg(long, default_value_t = 1000, value_parser = value_parser!(u32).range(1..=MAX_SOCKETS))]
    pub(super) connections: u32,
    /// Channels that the sockets are spread over
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u32).range(1..=100_000))]
    pub(super) channels: u32,
    /// Events a second
    #[arg(long, default_value_t = 40.0, value_parser = rate, conflicts_with = "saturate")]
    pub(super) rate: f64,
    /// Publish as fast as the server answers and delivers
    #[arg(long)]
    pub(super) saturate: bool,
    /// Events that may be undelivered when saturating
    #[arg(long, default_value_t = 8, requires = "saturate", value_parser = value_parser!(u32).range(1..=10_000))]
    pub(super) max_outstanding: u32,
    /// Connections to the API [default: 1, or up to 4 when saturating]
    #[arg(long, value_parser = value_parser!(u32).range(1..=1000))]
    pub(super) publishers: Option<u32>,
    /// Shared by the modes that publish
    #[command(flatten)]
    pub(super) load: Load,
}

/// Flags of `publish`.
#[derive(Clone, Debug, Args)]
pub(super) struct Publish {
    /// Connections to the API
    #[arg(long, default_value_t = 16, value_parser = value_parser!(u32).range(1..=1000))]
    pub(super) connections: u32,
    /// Channels that are published to, in turn
    #[arg(long, default_value_t = 100, value_parser = value_parser!(u32).range(1..=100_000))]
    pub(super) channels: u32,
    /// Subscribers of each channel
    #[arg(long, default_value_t = 0, value_parser = value_parser!(u32).range(0..=1000))]
    pub(super) subscribers: u32,
    /// Events in each request; without it, one event by the endpoint for one
    #[arg(long, value_parser = value_parser!(u32).range(1..=1000))]
    pub(super) batch: Option<u32>,
    /// Shared by the modes that publish
    #[command(flatten)]
    pub(super) load: Load,
}

/// How much, for how long.
#[derive(Clone, Debug, Args)]
pub(super) struct Load {
    /// Bytes of each event's data
    #[arg(long, default_value_t = 256, value_parser = size)]
    pub(super) size: usize,
    /// How long is measured
    #[arg(long, default_value = "5s", value_parser = duration)]
    pub(super) duration: Duration,
    /// How long the same is done before
    #[arg(long, default_value = "1s", value_parser = warmup)]
    pub(super) warmup: Duration,
}

/// Flags of `presence`.
#[derive(Clone, Debug, Args)]
pub(super) struct Presence {
    /// Members; the server's limit on members of a channel has to allow them
    #[arg(long, default_value_t = 100, value_parser = value_parser!(u32).range(2..=10_000))]
    pub(super) members: u32,
    /// How many join at the same time
    #[arg(long, default_value_t = 16, value_parser = value_parser!(u32).range(1..=1000))]
    pub(super) window: u32,
}

/// Flags of `client-events`.
#[derive(Clone, Debug, Args)]
pub(super) struct ClientEvents {
    /// Pairs of sockets, each on a private channel of its own
    #[arg(long, default_value_t = 100, value_parser = value_parser!(u32).range(1..=MAX_SOCKETS / 2))]
    pub(super) pairs: u32,
    /// Events a second from each pair; the server's limit on client events has to allow them
    #[arg(long, default_value_t = 8.0, value_parser = rate)]
    pub(super) rate: f64,
    /// Shared by the modes that publish
    #[command(flatten)]
    pub(super) load: Load,
}

/// Flags of `churn`.
#[derive(Clone, Debug, Args)]
pub(super) struct Churn {
    /// Sockets at the same time
    #[arg(long, default_value_t = 64, value_parser = value_parser!(u32).range(1..=4096))]
    pub(super) connections: u32,
    /// Which channels they subscribe to
    #[arg(long, value_enum, default_value_t = Spread::Own)]
    pub(super) channels: Spread,
    /// How long they come and go
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub(super) duration: Duration,
    /// Most sockets that are opened
    #[arg(long, default_value_t = 2_000_000, value_parser = value_parser!(u64).range(1..=100_000_000))]
    pub(super) max: u64,
    /// Leave without saying goodbye
    #[arg(long)]
    pub(super) abrupt: bool,
}

/// Flags of `suite`.
#[derive(Clone, Debug, Args)]
pub(super) struct Suite {
    /// Sockets in the modes that have many
    #[arg(long, default_value_t = 1000, value_parser = value_parser!(u32).range(2..=MAX_SOCKETS))]
    pub(super) connections: u32,
    /// How long each mode is measured
    #[arg(long, default_value = "2s", value_parser = duration)]
    pub(super) duration: Duration,
    /// How long the same is done before
    #[arg(long, default_value = "500ms", value_parser = warmup)]
    pub(super) warmup: Duration,
}

fn duration(text: &str) -> Result<Duration, String> {
    between(text, MIN_DURATION, MAX_DURATION)
}

fn warmup(text: &str) -> Result<Duration, String> {
    between(text, Duration::ZERO, MAX_DURATION)
}

fn between(text: &str, least: Duration, most: Duration) -> Result<Duration, String> {
    let shown = humantime::format_duration;
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (least..=most).contains(&duration) {
        return Ok(duration);
    }
    Err(format!("not between {} and {}", shown(least), shown(most)))
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    // Not a number is in no range.
    if (0.01..=1_000_000.0).contains(&rate) {
        Ok(rate)
    } else {
        Err("not between 0.01 and 1000000".to_owned())
    }
}

fn size(text: &str) -> Result<usize, String> {
    let size: usize = text.parse().map_err(|_| "not a number of bytes".to_owned())?;
    let bounds = marker::LENGTH..=500_000;
    if bounds.contains(&size) {
        return Ok(size);
    }
    Err(format!("not between {} (the mark of a measured event) and {} bytes", bounds.start(), bounds.end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absurd_values_are_refused() {
        for text in ["0s", "1ms", "2h", "-1s", "5", "soon", ""] {
            assert!(duration(text).is_err(), "{text}");
        }
        for text in ["0", "-1", "NaN", "inf", "1e9", "fast"] {
            assert!(rate(text).is_err(), "{text}");
        }
        for text in ["0", "46", "500001", "-1", "1KiB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sensible_values_are_taken() {
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(warmup("0s"), Ok(Duration::ZERO));
        assert_eq!(rate("0.5"), Ok(0.5));
        assert_eq!(size("47"), Ok(marker::LENGTH));
    }
}
