//! The log. A thread of its own writes it to stderr: nobody who logs waits for a disk, or for whoever
//! should read a pipe, and a log that cannot be written harms nobody.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use fanfare::config::{Log, LogFormat};
use parking_lot::{Condvar, Mutex};
use tracing_subscriber::prelude::*;
use tracing_subscriber::{EnvFilter, reload};

/// Has the log write as much as this level says from now on.
pub(crate) type SetLevel = Box<dyn Fn(&str) + Send + Sync>;

/// Lines that may wait to be written. What comes above that is lost, and counted.
const MAX_WAITING: usize = 4096;
/// Bytes of them, in the same way.
const MAX_BYTES: usize = 4 << 20;
/// How long the end of the program waits for the last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

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
    // The level was checked with the rest of the config.
    let filter = |level: &str| EnvFilter::builder().parse_lossy(level);
    let (filtered, handle) = reload::Layer::new(filter(&log.level));
    let writer = lines.clone();
    let logs = tracing_subscriber::fmt::layer().with_writer(move || writer.clone());
    let logs = match log.format {
        LogFormat::Text => logs.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => logs.json().boxed(),
    };
    let writing = lines.clone();
    thread::Builder::new().name("log".to_owned()).spawn(move || writing.write_all_to(io::stderr()))?;
    tracing_subscriber::registry().with(filtered).with(logs).init();
    let set_level = move |level: &str| {
        // It fails only when there is no log any more.
        let _ = handle.reload(filter(level));
    };
    Ok((Box::new(set_level), lines))
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
            let missing = self.write_some_to(&mut to);
            if missing > 0 {
                tracing::warn!(missing, "the log could not be written fast enough, lines are missing");
            }
        }
    }

    /// Waits for lines, and writes those. Returns how many were lost before.
    fn write_some_to(&self, to: &mut impl Write) -> u64 {
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
        self.0.state.lock().writing = false;
        self.0.changed.notify_all();
        missing
    }
}

impl Write for Lines {
    /// Takes a whole line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut state = self.0.state.lock();
        if state.waiting.len() < MAX_WAITING && state.bytes < MAX_BYTES {
            state.bytes += line.len();
            state.waiting.push_back(line.to_vec());
            self.0.changed.notify_all();
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
        let mut lines = Lines::default();
        for number in 0..MAX_WAITING + 3 {
            lines.write_all(format!("{number}\n").as_bytes()).unwrap();
        }
        let mut written = Vec::new();
        assert_eq!(lines.write_some_to(&mut written), 3);
        let expected: String = (0..MAX_WAITING).map(|number| format!("{number}\n")).collect();
        assert_eq!(String::from_utf8(written).unwrap(), expected);
        lines.write_all(b"more").unwrap();
        assert_eq!(lines.write_some_to(&mut io::sink()), 0);
        lines.finish();
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
        let (mut lines, mut full) = (Lines::default(), Full(0));
        for tries in [1, 2] {
            lines.write_all(b"line\n").unwrap();
            assert_eq!((lines.write_some_to(&mut full), full.0), (0, tries));
        }
    }
}
