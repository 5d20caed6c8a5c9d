//! `churn`: sockets come, subscribe and go, one after another in each of several slots. Two halves:
//! memory that still grows in the second is a leak, and not a warming up.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::timeout;

use super::failure::Failure;
use super::flags::Churn;
use super::percentiles::Times;
use super::report::Report;
use super::run::{Moment, Run};
use super::socket::{Seen, Socket};

/// How long a server may take to end a connection that said goodbye.
const GOODBYE: Duration = Duration::from_secs(5);
/// How long a server is given to come to rest.
const SETTLE: Duration = Duration::from_secs(2);
/// Ended connections keep their ports for a while, so they come from several addresses.
const SOURCES: u64 = 16;
/// So many that fail are enough to know.
const MAX_FAILED: u64 = 1000;

/// What came and went.
#[derive(Debug, Default)]
struct Turnover {
    begun: Cell<u64>,
    cycles: Cell<u64>,
    failed: Cell<u64>,
    setup: RefCell<Times>,
}

/// Runs `churn`.
///
/// # Errors
/// It could not begin.
pub(super) async fn churn(run: &Rc<Run>, flags: &Churn) -> Result<Report, Failure> {
    run.preflight(false).await?;
    let turnover: Rc<Turnover> = Rc::default();
    let before = run.moment();
    half(run, flags, &turnover).await;
    let middle = run.moment();
    half(run, flags, &turnover).await;
    let after = run.moment();
    run.pass("settling", SETTLE.min(flags.duration)).await;
    Ok(tell(run, flags, &turnover, [&before, &middle, &after, &run.moment()]))
}

async fn half(run: &Rc<Run>, flags: &Churn, turnover: &Rc<Turnover>) {
    let time = flags.duration / 2;
    run.progress.passing("churning", time);
    let end = Instant::now() + time;
    let mut slots = JoinSet::new();
    for slot in 0..flags.connections as usize {
        slots.spawn_local(fill(Rc::clone(run), flags.clone(), slot, Rc::clone(turnover), end));
    }
    slots.join_all().await;
}

async fn fill(run: Rc<Run>, flags: Churn, slot: usize, turnover: Rc<Turnover>, end: Instant) {
    while Instant::now() < end && turnover.begun.get() < flags.max && turnover.failed.get() < MAX_FAILED {
        turnover.begun.set(turnover.begun.get() + 1);
        match visit(&run, &flags, slot, &turnover).await {
            Ok(()) => turnover.cycles.set(turnover.cycles.get() + 1),
            Err(failure) => {
                turnover.failed.set(turnover.failed.get() + 1);
                run.failures.add(&failure);
            }
        }
    }
}

/// One socket comes and goes.
async fn visit(run: &Run, flags: &Churn, slot: usize, turnover: &Turnover) -> Result<(), Failure> {
    let source = run.target.spread((turnover.begun.get() % SOURCES) as usize);
    let started = run.clock.now();
    let mut socket = Socket::open(&run.target, source, &run.buffer, &run.failures).await?;
    if let Some(channel) = flags.channels.name("churn", slot) {
        socket.subscribe(&run.target, &channel, None).await?;
    }
    turnover.setup.borrow_mut().add(run.clock.now() - started);
    if flags.abrupt {
        return Ok(());
    }
    socket.writer.close();
    let gone = timeout(GOODBYE, socket.read(|_| Seen::<()>::Other)).await;
    // However it ends, it ends because we asked for it.
    gone.map(|_| ()).map_err(|_| Failure::TimedOut("the end of a socket that said goodbye"))
}

fn tell(
    run: &Run,
    flags: &Churn,
    turnover: &Turnover,
    [before, middle, after, settled]: [&Moment; 4],
) -> Report {
    let how = if flags.abrupt { "abruptly" } else { "with a goodbye" };
    let told = humantime::format_duration(flags.duration);
    let mut report = Report::new(
        "churn",
        format!("{} at a time, {}, {how}, {told}", flags.connections, flags.channels.told()),
    );
    let cycles = turnover.cycles.get();
    let seconds = after.at.saturating_sub(before.at) as f64 / 1e9;
    report.put("connections", flags.connections);
    report.put("abrupt", flags.abrupt);
    report.put("failed", turnover.failed.get());
    report.count("socket", "sockets", cycles, cycles as f64 / seconds.max(1e-9));
    report.times("setup", &turnover.setup.borrow());
    report.row_times(&turnover.setup.borrow());
    report.usage(before, after, cycles);
    let memory =
        [before, middle, after, settled].map(|moment| moment.server.as_ref().map(|read| read.rss_kib));
    if let [Some(start), Some(half), Some(end), Some(rest)] = memory {
        report.put("rss_middle_kib", half);
        report.put("rss_settled_kib", rest);
        report.note(format!(
            "server memory {start} KiB before, {half} KiB after the first half, {end} KiB after the second, \
             {rest} KiB at rest"
        ));
    }
    report.failures(&run.failures);
    report
}
