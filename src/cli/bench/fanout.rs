//! `fanout` and `publish`: events through the API, to many subscribers or to few.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use super::crowd::{Crowd, Seat};
use super::failure::Failure;
use super::flags::{Fanout, Load, Publish};
use super::publishing::{Pace, Progressed, Publisher, Publishing, lanes};
use super::report::Report;
use super::run::{Moment, Run};
use super::traffic::{Place, Traffic};

/// How long what still goes on in the server after many sockets have come is given to end.
const SETTLE: Duration = Duration::from_millis(300);
/// How long doubled deliveries are waited for after all have come.
const AFTERMATH: Duration = Duration::from_millis(200);
/// How many sockets are opened at the same time.
const WINDOW: u32 = 64;

/// Runs `fanout`.
///
/// # Errors
/// It could not begin.
pub(super) async fn fanout(run: &Rc<Run>, flags: &Fanout) -> Result<Report, Failure> {
    let Fanout { connections, channels, rate, load, .. } = flags;
    let per_channel = u64::from(connections / channels).max(1);
    let pace = match flags.saturate {
        true => Pace::Outstanding(u64::from(flags.max_outstanding) * per_channel),
        false => Pace::Every(*rate),
    };
    let how = match flags.saturate {
        true => format!("saturated, {} outstanding", flags.max_outstanding),
        false => format!("{rate} events/s"),
    };
    let publishers = flags.publishers();
    let (sockets, rooms) = (many(*connections, "socket"), many(*channels, "channel"));
    let what = format!("{sockets} on {rooms}, {how}, {}, {}", many(publishers, "publisher"), sized(load));
    let plan =
        Plan { prefix: "bench-", sockets: *connections, channels: *channels, publishers, batch: None, pace };
    let measured = plan.measure(run, load).await?;
    let mut report = Report::new(if flags.saturate { "fanout-saturated" } else { "fanout" }, what);
    report.put("connections", *connections);
    report.put("channels", *channels);
    report.put("saturate", flags.saturate);
    if !flags.saturate {
        report.put("rate", *rate);
    }
    report.count("delivery", "deliveries", measured.publishing.traffic.received(), measured.per_second());
    measured.tell(&mut report, load, measured.publishing.traffic.received());
    report.row_times(&measured.publishing.traffic.latency());
    Ok(report)
}

/// Runs `publish`.
///
/// # Errors
/// It could not begin.
pub(super) async fn publish(run: &Rc<Run>, flags: &Publish) -> Result<Report, Failure> {
    let Publish { connections, channels, subscribers, batch, load } = flags;
    let plan = Plan {
        prefix: "pub-",
        sockets: subscribers * channels,
        channels: *channels,
        publishers: *connections,
        batch: *batch,
        pace: Pace::Answered,
    };
    let measured = plan.measure(run, load).await?;
    let what = format!(
        "{} to the API, {} each, {} with {} each, {}",
        many(*connections, "connection"),
        many(batch.unwrap_or(1), "event"),
        many(*channels, "channel"),
        many(*subscribers, "subscriber"),
        sized(load)
    );
    let mut report = Report::new(if batch.is_some() { "publish-batch" } else { "publish" }, what);
    let requests = measured.progress.answered;
    report.put("connections", *connections);
    report.put("channels", *channels);
    report.put("subscribers", *subscribers);
    report.put("batch", *batch);
    report.count("request", "requests", requests, measured.rate(requests));
    report.put("events_per_second", measured.rate(requests) * f64::from(batch.unwrap_or(1)));
    measured.tell(&mut report, load, requests);
    report.row_times(&measured.publishing.requests.borrow());
    Ok(report)
}

impl Fanout {
    /// Connections to the API: one keeps a pace, several may be needed to saturate.
    pub(super) fn publishers(&self) -> u32 {
        self.publishers.unwrap_or(if self.saturate { self.channels.min(4) } else { 1 })
    }
}

fn many(count: u32, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

fn sized(load: &Load) -> String {
    format!("{} bytes, {}", load.size, humantime::format_duration(load.duration))
}

/// Who listens where, and who publishes how.
struct Plan {
    prefix: &'static str,
    sockets: u32,
    channels: u32,
    publishers: u32,
    batch: Option<u32>,
    pace: Pace,
}

/// A plan that has been carried out.
struct Measured {
    publishing: Rc<Publishing>,
    progress: Progressed,
    before: Moment,
    after: Moment,
    /// Nanoseconds in which events were published, and the deliveries that had come by then.
    window: (u64, u64),
    api_connections: u64,
}

impl Plan {
    async fn measure(&self, run: &Rc<Run>, load: &Load) -> Result<Measured, Failure> {
        run.preflight(true).await?;
        let publishing = self.prepare(run, load).await;
        tokio::time::sleep(SETTLE).await;
        let mut publishers = publishing.publishers().await;
        run.progress.passing("warming up", load.warmup);
        publishers = publishing.publish(publishers, load.warmup).await;
        publishing.drain().await;
        publishing.reset();
        run.progress.passing("measuring", load.duration);
        let before = run.moment();
        publishers = publishing.publish(publishers, load.duration).await;
        let window = (run.clock.now() - before.at, publishing.traffic.received());
        publishing.drain().await;
        let after = run.moment();
        tokio::time::sleep(AFTERMATH).await;
        let api_connections =
            publishers.iter().map(|publisher: &Publisher| publisher.api.connections()).sum();
        let progress = publishing.progress.get();
        Ok(Measured { publishing, progress, before, after, window, api_connections })
    }

    async fn prepare(&self, run: &Rc<Run>, load: &Load) -> Rc<Publishing> {
        let (channels, publishers) = (self.channels as usize, self.publishers as usize);
        let traffic = Rc::new(Traffic::new(run.clock));
        let lanes = lanes(publishers, channels);
        let crowd = Crowd::gather(run, self.sockets, WINDOW, |n| {
            let (channel, traffic) = (n % channels, Rc::clone(&traffic));
            let mut place = Place::new(channel, lanes);
            let inbox = Box::new(move |frame: &[u8]| traffic.take(frame, &mut place));
            Seat { channel: Some(format!("{}{channel}", self.prefix)), inbox }
        })
        .await;
        let mut subscribers = vec![0; channels];
        let present = (0..self.sockets as usize).filter(|n| crowd.attendee(*n).is_some());
        present.for_each(|n| subscribers[n % channels] += 1);
        Rc::new(Publishing {
            run: Rc::clone(run),
            traffic,
            crowd,
            prefix: self.prefix,
            subscribers,
            size: load.size,
            batch: self.batch,
            pace: self.pace,
            count: publishers,
            progress: Cell::default(),
            requests: RefCell::default(),
            given_up: Cell::default(),
        })
    }
}

impl Measured {
    /// Deliveries a second while events were published.
    fn per_second(&self) -> f64 {
        let (time, received) = self.window;
        received as f64 * 1e9 / time.max(1) as f64
    }

    fn rate(&self, requests: u64) -> f64 {
        requests as f64 * 1e9 / self.window.0.max(1) as f64
    }

    fn tell(&self, report: &mut Report, load: &Load, each: u64) {
        let Publishing { run, traffic, crowd, requests, .. } = &*self.publishing;
        report.put("size", load.size);
        report.put("duration_s", load.duration.as_secs_f64());
        report.put("opened", crowd.opened());
        report.put("published", self.progress.answered);
        report.put("refused", self.progress.refused);
        report.put("api_connections", self.api_connections);
        report.traffic(traffic);
        report.times("request", &requests.borrow());
        report.usage(&self.before, &self.after, each);
        report.failures(&run.failures);
    }
}
