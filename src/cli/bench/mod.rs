//! `fanfare bench`: load for any server that speaks the protocol, and what became of it.
//!
//! One thread, a task for each socket, one read buffer for all. A delivery is recognised by a
//! marker in the event's data, at the place where it stood the last time, so that measuring costs
//! little next to what is measured. Every loop is bounded in time and count.
//!
//! * `flags`, `target`, `limits` — what is asked for, and whether it may be done
//! * `wire`, `socket`, `api` — the two kinds of connections
//! * `crowd`, `publishing` — many of each
//! * `marker`, `traffic`, `percentiles`, `meter`, `failure` — what is counted
//! * a file for each mode; `run` is what its parts share, `report` what comes out

mod api;
mod churn;
mod client_events;
mod crowd;
mod failure;
mod fanout;
mod flags;
mod idle;
mod limits;
mod marker;
mod meter;
mod percentiles;
mod presence;
mod progress;
mod publishing;
mod report;
mod run;
mod socket;
mod suite;
mod target;
mod traffic;
mod wire;

use std::io::{self, Write};
use std::process::ExitCode;
use std::rc::Rc;

use tokio::task::LocalSet;

use failure::Failure;
use flags::{Mode, TargetFlags};
use meter::Meter;
use report::Report;
use run::Run;
use target::Target;

/// Something was lost, doubled, out of order, or went wrong.
const UNCLEAN: u8 = 1;
/// What was asked for makes no sense, or is not allowed.
const BAD_FLAGS: u8 = 2;

/// Flags of `bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: TargetFlags,
    #[command(subcommand)]
    mode: Mode,
}

/// Measures, and tells what came out.
pub(crate) fn run(args: &Args) -> ExitCode {
    match measure(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(UNCLEAN),
        Err(problem) => {
            tell(&mut io::stderr(), &format!("fanfare bench: {problem}\n"));
            ExitCode::from(BAD_FLAGS)
        }
    }
}

/// Says whether every mode was clean.
fn measure(args: &Args) -> Result<bool, String> {
    args.mode.check()?;
    let target = Rc::new(Target::find(&args.target)?);
    let server = Rc::new(Meter::new(&args.target.pids)?);
    let modes = args.mode.each();
    let descriptors = modes.iter().map(Mode::descriptors).max().unwrap_or_default();
    limits::check(descriptors, &args.target.pids)?;
    // One thread: what the bench itself does stays small and the same from run to run.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
    let mut reports = Vec::with_capacity(modes.len());
    let mut all = true;
    for mode in &modes {
        // Whatever a mode leaves behind ends with its set of tasks, and its bar with the run.
        let run = Run::new(&target, &server, mode.name());
        let came = LocalSet::new().block_on(&runtime, mode.run(&run));
        drop(run);
        match came {
            Ok(report) => {
                all &= report.is_clean();
                show_json(&report, args.target.json)?;
                reports.push(report);
            }
            Err(failure) => {
                tell(&mut io::stderr(), &format!("fanfare bench: {}: {failure}\n", mode.name()));
                all = false;
                break;
            }
        }
    }
    show_table(&reports, args.target.json);
    Ok(all)
}

/// At once, so that what is measured is not lost with what follows.
fn show_json(report: &Report, wanted: bool) -> Result<(), String> {
    if wanted {
        let json = serde_json::to_string(report).map_err(|error| error.to_string())?;
        tell(&mut io::stdout(), &format!("{json}\n"));
    }
    Ok(())
}

fn show_table(reports: &[Report], json: bool) {
    if reports.is_empty() {
        return;
    }
    let table = report::table(reports);
    if json { tell(&mut io::stderr(), &table) } else { tell(&mut io::stdout(), &table) }
}

fn tell(out: &mut impl Write, text: &str) {
    // Nobody may be listening any more.
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

impl Mode {
    fn name(&self) -> &'static str {
        match self {
            Self::Idle(_) => "idle",
            Self::Fanout(_) => "fanout",
            Self::Publish(_) => "publish",
            Self::Presence(_) => "presence",
            Self::ClientEvents(_) => "client-events",
            Self::Churn(_) => "churn",
            Self::Suite(_) => "suite",
        }
    }

    /// What no single flag can know.
    fn check(&self) -> Result<(), String> {
        match self {
            Self::Fanout(flags) if flags.channels > flags.connections => {
                Err("--channels: more than --connections, so some would have no subscriber".to_owned())
            }
            Self::Fanout(flags)
                if !flags.saturate && flags.rate * flags.load.duration.as_secs_f64() < 1.0 =>
            {
                Err(format!("--duration: nothing would be published in it at {} events/s", flags.rate))
            }
            Self::ClientEvents(flags)
                if flags.rate * f64::from(flags.pairs) * flags.load.duration.as_secs_f64() < 1.0 =>
            {
                Err(format!("--duration: nothing would be sent in it at {} events/s each", flags.rate))
            }
            Self::Publish(flags) if u64::from(flags.channels) * u64::from(flags.subscribers) > 200_000 => {
                Err("--subscribers: more than 200000 sockets on all --channels together".to_owned())
            }
            Self::Suite(flags) => flags
                .modes()
                .iter()
                .try_for_each(|mode| mode.check().map_err(|problem| format!("{}: {problem}", mode.name()))),
            _ => Ok(()),
        }
    }

    /// The modes to run one after another.
    fn each(&self) -> Vec<Self> {
        match self {
            Self::Suite(flags) => flags.modes(),
            Self::Idle(flags) => vec![Self::Idle(flags.clone())],
            Self::Fanout(flags) => vec![Self::Fanout(flags.clone())],
            Self::Publish(flags) => vec![Self::Publish(flags.clone())],
            Self::Presence(flags) => vec![Self::Presence(flags.clone())],
            Self::ClientEvents(flags) => vec![Self::ClientEvents(flags.clone())],
            Self::Churn(flags) => vec![Self::Churn(flags.clone())],
        }
    }

    /// Connections at the same time.
    fn descriptors(&self) -> u64 {
        match self {
            Self::Idle(flags) => flags.connections.into(),
            Self::Fanout(flags) => u64::from(flags.connections) + u64::from(flags.publishers()),
            Self::Publish(flags) => {
                u64::from(flags.channels) * u64::from(flags.subscribers) + u64::from(flags.connections)
            }
            Self::Presence(flags) => flags.members.into(),
            Self::ClientEvents(flags) => u64::from(flags.pairs) * 2,
            Self::Churn(flags) => flags.connections.into(),
            Self::Suite(flags) => flags.modes().iter().map(Self::descriptors).max().unwrap_or_default(),
        }
    }

    async fn run(&self, run: &Rc<Run>) -> Result<Report, Failure> {
        match self {
            Self::Idle(flags) => idle::idle(run, flags).await,
            Self::Fanout(flags) => fanout::fanout(run, flags).await,
            Self::Publish(flags) => fanout::publish(run, flags).await,
            Self::Presence(flags) => presence::presence(run, flags).await,
            Self::ClientEvents(flags) => client_events::client_events(run, flags).await,
            Self::Churn(flags) => churn::churn(run, flags).await,
            Self::Suite(_) => unreachable!("a suite is a list of other modes"),
        }
    }
}
