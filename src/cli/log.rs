//! The log. A thread of its own writes it to stderr: nobody who logs waits for a disk, or for whoever
//! should read a pipe, and a log that cannot be written harms nobody.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use fanfare::config::{Log, LogFormat};
use parking_lot::{Condvar, Mutex};
use tracing::{Metadata, Subscriber};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::prelude::*;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer, reload};

/// Has the log write as much as this level says from now on.
pub(crate) type SetLevel = Box<dyn Fn(&str) + Send + Sync>;

/// Lines that may wait to be written. What comes above that is lost, and counted.
const MAX_WAITING: usize = 4096;
/// Bytes of them, in the same way.
const MAX_BYTES: usize = 4 << 20;
/// How long the end of the program waits for the last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

/// What says so goes by this name: it is logged at every level, and always has room.
const MISSING: &str = "fanfare::log";

/// Lines on their way to stderr.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Vec<u8>>,
    bytes: usize,
    missing: u64,
    /// Some that do not wait any more are not written yet.
    writing: bool,
}

/// Begins to log. Gives what sets how much is logged, and the lines, for the end of the program.
///
/// # Errors
/// When the system gives no thread.
pub(crate) fn start(log: &Log) -> io::Result<(SetLevel, Lines)> {
    let lines = Lines::default();
    let (filtered, handle) = reload::Layer::new(filter(&log.level));
    let writing = lines.clone();
    thread::Builder::new().name("log".to_owned()).spawn(move || writing.write_all_to(io::stderr()))?;
    tracing_subscriber::registry().with(filtered).with(format(log, &lines)).init();
    let set_level = move |level: &str| {
        // It fails only when there is no log any more.
        let _ = handle.reload(filter(level));
    };
    Ok((Box::new(set_level), lines))
}

/// What is logged at a level, which was checked with the rest of the config.
fn filter(level: &str) -> EnvFilter {
    EnvFilter::builder().parse_lossy(format!("{level},{MISSING}=warn"))
}

fn format<S: Subscriber + for<'a> LookupSpan<'a>>(log: &Log, lines: &Lines) -> impl Layer<S> + use<S> {
    let logs = tracing_subscriber::fmt::layer().with_writer(lines.clone());
    match log.format {
        LogFormat::Text => logs.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => logs.json().boxed(),
    }
}

fn tell_missing(missing: u64) {
    tracing::warn!(target: MISSING, missing, "the log could not be written fast enough, lines are missing");
}

impl Lines {
    /// Waits until all is written, but not for long.
    pub(crate) fn finish(&self) {
        let mut state = self.0.state.lock();
        let is_open = |state: &mut State| state.writing || !state.waiting.is_empty();
        let _ = self.0.changed.wait_while_for(&mut state, is_open, LAST_LINES);
    }

    fn write_all_to(&self, mut to: impl Write) {
        loop {
            self.write_some_to(&mut to);
        }
    }

    /// Waits for lines, and writes those. Tells how many were lost behind them.
    fn write_some_to(&self, to: &mut impl Write) {
        let mut state = self.0.state.lock();
        self.0.changed.wait_while(&mut state, |state| state.waiting.is_empty());
        let lines = std::mem::take(&mut state.waiting);
        state.bytes = 0;
        let missing = std::mem::take(&mut state.missing);
        state.writing = true;
        drop(state);
        for line in lines {
            // Nobody could be told.
            let _ = to.write_all(&line);
        }
        let _ = to.flush();
        if missing > 0 {
            // Before this is over, so that the end of the program waits for it.
            tell_missing(missing);
        }
        self.0.state.lock().writing = false;
        self.0.changed.notify_all();
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Line;

    fn make_writer(&self) -> Line {
        Line { lines: self.clone(), is_bounded: true }
    }

    /// There is one at a time that is not bounded: it is told by the only thread that writes.
    fn make_writer_for(&self, meta: &Metadata<'_>) -> Line {
        Line { lines: self.clone(), is_bounded: meta.target() != MISSING }
    }
}

/// Takes a line.
pub(crate) struct Line {
    lines: Lines,
    is_bounded: bool,
}

impl Write for Line {
    /// Takes a whole line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let Shared { state, changed } = &*self.lines.0;
        let mut state = state.lock();
        if !self.is_bounded || (state.waiting.len() < MAX_WAITING && state.bytes < MAX_BYTES) {
            state.bytes += line.len();
            state.waiting.push_back(line.to_vec());
            changed.notify_all();
        } else {
            state.missing += 1;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_written_in_their_order_and_those_that_are_too_many_are_counted() {
        for level in ["error", "off", "trace,fanfare=off"] {
            let lines = Lines::default();
            let log = Log { level: level.to_owned(), format: LogFormat::Json };
            let logs = tracing_subscriber::registry().with(filter(level)).with(format(&log, &lines));
            let mut line = lines.make_writer();
            for number in 0..MAX_WAITING + 3 {
                line.write_all(format!("{number}\n").as_bytes()).unwrap();
            }
            let mut written = Crowded(Vec::new(), lines.make_writer());
            tracing::subscriber::with_default(logs, || lines.write_some_to(&mut written));
            let expected: String = (0..MAX_WAITING).map(|number| format!("{number}\n")).collect();
            assert_eq!(String::from_utf8(std::mem::take(&mut written.0)).unwrap(), expected);
            // There was no room for it, as there is for no other.
            lines.write_some_to(&mut written);
            let told = String::from_utf8(written.0).unwrap();
            assert!(told.ends_with("}\n") && told.contains("\"missing\":3"), "{level}: {told}");
        }
    }

    /// While something is written, more comes than there is room for.
    struct Crowded(Vec<u8>, Line);

    impl Write for Crowded {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.extend(bytes);
            for _ in 0..2 {
                self.1.write_all(b"more\n")?;
            }
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_cannot_be_written_is_lost_and_no_line_after_it() {
        struct Full(usize);
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                self.0 += 1;
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Err(io::ErrorKind::StorageFull.into())
            }
        }
        let (lines, mut full) = (Lines::default(), Full(0));
        for tries in [1, 2] {
            lines.make_writer().write_all(b"line\n").unwrap();
            lines.write_some_to(&mut full);
            assert_eq!(full.0, tries);
        }
        lines.finish();
    }
}
