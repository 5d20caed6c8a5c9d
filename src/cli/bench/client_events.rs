//! `client-events`: pairs of sockets on private channels, of which one sends and one listens.

use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::{sleep, sleep_until};

use super::crowd::{Crowd, GLANCE, Seat};
use super::failure::Failure;
use super::flags::{ClientEvents, Load};
use super::marker::Marker;
use super::report::Report;
use super::run::{Moment, Run};
use super::traffic::{Place, Traffic};

/// How many sockets are opened at the same time.
const WINDOW: u32 = 64;
/// How long deliveries are waited for after the last event was sent.
const DRAIN: Duration = Duration::from_secs(3);
/// How long doubled deliveries are waited for after all have come.
const AFTERMATH: Duration = Duration::from_millis(200);
/// So many beats may be missed before the beating itself waits.
const MISSED: usize = 64;

/// The pairs, and where each stands in its order.
struct Pairs {
    crowd: Rc<Crowd>,
    traffic: Rc<Traffic>,
    sequences: Vec<u64>,
    size: usize,
    rate: f64,
}

/// Runs `client-events`.
///
/// # Errors
/// It could not begin.
pub(super) async fn client_events(run: &Rc<Run>, flags: &ClientEvents) -> Result<Report, Failure> {
    run.preflight(false).await?;
    let mut pairs = Pairs::gather(run, flags).await;
    let Load { duration, warmup, .. } = flags.load;
    run.progress.passing("warming up", warmup);
    pairs.talk(run, warmup).await;
    pairs.traffic.reset();
    run.progress.passing("measuring", duration);
    let before = run.moment();
    let sending = pairs.talk(run, duration).await;
    let after = run.moment();
    sleep(AFTERMATH).await;
    Ok(pairs.tell(run, flags, &before, &after, sending))
}

/// Beats at a rate, from a thread of its own: the runtime's timer knows whole milliseconds only, in
/// which several events would go out together and wait for each other.
/// Each says when it was due.
fn beats(begun: Instant, rate: f64, total: u64) -> mpsc::Receiver<Instant> {
    let (beat, beats) = mpsc::channel(MISSED);
    std::thread::spawn(move || {
        for index in 0..total {
            let due = begun + Duration::from_secs_f64(index as f64 / rate);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            // Nobody listens any more when the run was ended early.
            if beat.blocking_send(due).is_err() {
                return;
            }
        }
    });
    beats
}

impl Pairs {
    async fn gather(run: &Rc<Run>, flags: &ClientEvents) -> Self {
        let traffic = Rc::new(Traffic::new(run.clock));
        let crowd = Crowd::gather(run, flags.pairs * 2, WINDOW, |n| {
            let (pair, traffic) = (n / 2, Rc::clone(&traffic));
            let mut place = if n % 2 == 0 { Place::deaf() } else { Place::new(pair, 1) };
            let inbox = Box::new(move |frame: &[u8]| traffic.take(frame, &mut place));
            Seat { channel: Some(format!("private-pair-{pair}")), inbox }
        })
        .await;
        let sequences = vec![0; flags.pairs as usize];
        Self { crowd, traffic, sequences, size: flags.load.size, rate: flags.rate * f64::from(flags.pairs) }
    }

    /// Sends in turn for some time, and waits for what is on its way; returns how long was sent.
    async fn talk(&mut self, run: &Run, time: Duration) -> Duration {
        let begun = Instant::now();
        let total = (self.rate * time.as_secs_f64()) as u64;
        let mut beats = beats(begun, self.rate, total);
        let mut turns = 0;
        while let Some(due) = beats.recv().await {
            if self.crowd.present() == 0 || begun.elapsed() > time * 2 + DRAIN {
                break;
            }
            let pair = (turns % self.sequences.len() as u64) as usize;
            self.send(pair, run.clock.at(due)).await;
            turns += 1;
        }
        if turns < total {
            run.failures.add(&Failure::Late(total - turns, total));
        } else {
            // N events take N intervals, and not one less.
            sleep_until((begun + time).into()).await;
        }
        let sending = begun.elapsed();
        let ended = Instant::now();
        while self.traffic.lost() > 0 && self.crowd.present() > 0 && ended.elapsed() < DRAIN {
            sleep(GLANCE).await;
        }
        sending
    }

    /// Sends an event that was due at some time of the run's clock: were it the time of sending, a
    /// server that keeps us waiting would only show in the one event that met it.
    async fn send(&mut self, pair: usize, due: u64) {
        let (Some(sender), Some(_)) = (self.crowd.attendee(2 * pair), self.crowd.attendee(2 * pair + 1))
        else {
            return;
        };
        let mut text = format!(r#"{{"event":"client-bench","channel":"private-pair-{pair}","data":""#);
        let sequence = self.sequences[pair];
        Marker { sent: due, lane: 0, sequence, channel: pair }.write(&mut text, self.size);
        text.push_str("\"}");
        self.sequences[pair] += 1;
        self.traffic.expect(1);
        sender.writer.send(&text);
        sender.writer.flush().await;
    }

    fn tell(
        &self,
        run: &Run,
        flags: &ClientEvents,
        before: &Moment,
        after: &Moment,
        sending: Duration,
    ) -> Report {
        let ClientEvents { pairs, rate, load } = flags;
        let told = humantime::format_duration(load.duration);
        let mut report = Report::new(
            "client-events",
            format!("{pairs} pairs, {rate} events/s each, {} bytes, {told}", load.size),
        );
        let received = self.traffic.received();
        report.put("pairs", *pairs);
        report.put("rate", *rate);
        report.put("size", load.size);
        report.put("duration_s", load.duration.as_secs_f64());
        report.put("opened", self.crowd.opened());
        report.count("delivery", "deliveries", received, received as f64 / sending.as_secs_f64().max(1e-9));
        report.traffic(&self.traffic);
        report.row_times(&self.traffic.latency());
        report.usage(before, after, received);
        report.failures(&run.failures);
        report
    }
}
