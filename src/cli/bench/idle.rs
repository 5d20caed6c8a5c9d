//! `idle`: how fast sockets come, what each costs while it does nothing, and what stays behind.

use std::rc::Rc;
use std::time::Duration;

use super::crowd::{Crowd, Seat};
use super::failure::Failure;
use super::flags::{Idle, Spread};
use super::report::Report;
use super::run::{Moment, Run};

/// How long a server is given to come to rest.
const SETTLE: Duration = Duration::from_secs(2);

/// What was read before the sockets came, when they had, after idling, and after they left.
struct Moments {
    before: Moment,
    connected: Moment,
    rested: Moment,
    idle: Moment,
    left: Moment,
}

/// Runs `idle`.
///
/// # Errors
/// It could not begin.
pub(super) async fn idle(run: &Rc<Run>, flags: &Idle) -> Result<Report, Failure> {
    run.preflight(false).await?;
    let before = run.moment();
    let channels = flags.channels;
    let crowd =
        Crowd::gather(run, flags.connections, flags.window, |n| Seat::quiet(channels.name("idle", n))).await;
    let connected = run.moment();
    run.pass("settling", SETTLE.min(flags.duration)).await;
    let rested = run.moment();
    run.pass("idling", flags.duration).await;
    let idle = run.moment();
    crowd.leave(run).await;
    run.pass("settling", SETTLE.min(flags.duration)).await;
    let moments = Moments { before, connected, rested, idle, left: run.moment() };
    Ok(tell(run, flags, &crowd, &moments))
}

impl Spread {
    /// The channel of the `n`th socket.
    pub(super) fn name(self, prefix: &str, n: usize) -> Option<String> {
        match self {
            Self::Own => Some(format!("{prefix}-{n}")),
            Self::Shared => Some(format!("{prefix}-shared")),
            Self::None => None,
        }
    }

    /// As it is told.
    pub(super) fn told(self) -> &'static str {
        match self {
            Self::Own => "a channel each",
            Self::Shared => "one channel",
            Self::None => "no channel",
        }
    }
}

fn tell(run: &Run, flags: &Idle, crowd: &Crowd, moments: &Moments) -> Report {
    let Idle { connections, channels, duration, .. } = flags;
    let told = humantime::format_duration(*duration);
    let mut report = Report::new("idle", format!("{connections} sockets, {}, {told}", channels.told()));
    let opened = crowd.opened();
    report.put("connections", *connections);
    report.count("socket", "sockets", opened, opened as f64 / crowd.took().as_secs_f64().max(1e-9));
    report.put("connect_s", crowd.took().as_secs_f64());
    report.times("setup", &crowd.setup());
    report.row_times(&crowd.setup());
    report.usage(&moments.before, &moments.connected, opened);
    memory(&mut report, moments, opened);
    report.failures(&run.failures);
    report
}

fn memory(report: &mut Report, moments: &Moments, opened: u64) {
    let Moments { before, rested, idle, left, .. } = moments;
    let (Some(start), Some(rest), Some(full), Some(end)) =
        (&before.server, &rested.server, &idle.server, &left.server)
    else {
        return;
    };
    let each = full.rss_kib.saturating_sub(start.rss_kib) as f64 / opened.max(1) as f64;
    let seconds = idle.at.saturating_sub(rested.at) as f64 / 1e9;
    let idling = full.cpu_since(rest) as f64 / 1e6 / seconds.max(1e-9);
    report.put("rss_before_kib", start.rss_kib);
    report.put("rss_idle_kib", full.rss_kib);
    report.put("rss_left_kib", end.rss_kib);
    report.put("rss_kib_per_connection", each);
    report.put("idle_cpu_ms_per_s", idling);
    report.note(format!(
        "server memory {} KiB before, {} KiB idle ({each:.2} KiB a socket), {} KiB after they left; \
         {idling:.2} ms CPU a second while idle",
        start.rss_kib, full.rss_kib, end.rss_kib
    ));
}
