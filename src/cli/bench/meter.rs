//! What the server's processes have used, as the kernel says it in `/proc`.

use std::collections::HashMap;
use std::fs;

/// `/proc/PID/stat` counts in hundredths of a second, whatever the kernel's own tick is.
const TICK: u64 = 10_000_000;

/// The processes that are measured.
#[derive(Debug)]
pub(super) struct Meter {
    pids: Vec<u32>,
}

/// What they had used at some moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Reading {
    /// Nanoseconds on a CPU, of each thread.
    cpu: HashMap<(u32, u32), u64>,
    /// Resident memory.
    pub(super) rss_kib: u64,
}

impl Meter {
    /// Measures these processes.
    ///
    /// # Errors
    /// One does not exist.
    pub(super) fn new(pids: &[u32]) -> Result<Self, String> {
        match pids.iter().find(|pid| rss_kib(**pid).is_none()) {
            Some(pid) => Err(format!("--pid {pid}: there is no such process to measure on this machine")),
            None => Ok(Self { pids: pids.to_vec() }),
        }
    }

    /// Measures the bench itself.
    pub(super) fn own() -> Self {
        Self { pids: vec![std::process::id()] }
    }

    /// Reads them now; nothing when there is none to read, or when one has ended.
    pub(super) fn read(&self) -> Option<Reading> {
        let mut reading = Reading::default();
        for pid in &self.pids {
            reading.rss_kib += rss_kib(*pid)?;
            for entry in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
                let thread = entry.file_name().to_str().and_then(|name| name.parse().ok());
                // A thread may end while we look.
                if let Some((thread, spent)) = thread.and_then(|id| Some((id, cpu(*pid, id)?))) {
                    reading.cpu.insert((*pid, thread), spent);
                }
            }
        }
        (!self.pids.is_empty()).then_some(reading)
    }
}

impl Reading {
    /// CPU nanoseconds since an earlier reading. What a thread used that has ended is not in it.
    pub(super) fn cpu_since(&self, earlier: &Self) -> u64 {
        let spent = |(thread, now): (&(u32, u32), &u64)| {
            now.saturating_sub(earlier.cpu.get(thread).copied().unwrap_or_default())
        };
        self.cpu.iter().map(spent).sum()
    }
}

fn rss_kib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Nanoseconds that a thread has been on a CPU.
fn cpu(pid: u32, thread: u32) -> Option<u64> {
    let file = |name: &str| fs::read_to_string(format!("/proc/{pid}/task/{thread}/{name}")).ok();
    // Kernels without scheduler statistics have no such file, or only zeros in it.
    let exact = file("schedstat").and_then(|text| text.split(' ').next()?.parse().ok());
    match exact {
        Some(exact) if exact > 0 => Some(exact),
        _ => ticks(&file("stat")?).map(|ticks| ticks * TICK),
    }
}

/// User and system time. The name before them may have spaces and parentheses.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_stand_behind_whatever_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 100 0 0 0 12 30 0 0 20 0 1 0 5";
        assert_eq!(ticks(stat), Some(42));
        assert_eq!(ticks("7 (a) S 1"), None);
    }

    #[test]
    fn reads_a_process_and_refuses_one_that_is_none() {
        assert!(Meter::new(&[u32::MAX]).is_err());
        assert!(Meter::new(&[]).expect("none").read().is_none());
        let reading = Meter::own().read().expect("this very process");
        assert!(reading.rss_kib > 0);
    }

    #[test]
    fn threads_that_begin_are_counted_and_those_that_end_are_not() {
        let reading = |cpu: &[(u32, u64)]| Reading {
            cpu: cpu.iter().map(|(thread, spent)| ((1, *thread), *spent)).collect(),
            rss_kib: 0,
        };
        let (before, after) = (reading(&[(1, 100), (2, 50)]), reading(&[(1, 150), (3, 7)]));
        assert_eq!(after.cpu_since(&before), 57);
    }
}
