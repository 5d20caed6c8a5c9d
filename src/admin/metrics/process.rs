//! The process, as the kernel sees it. Only Linux says it in this way; elsewhere there is nothing.

use std::fmt;

use prometheus_client::encoding::DescriptorEncoder;

#[cfg(not(target_os = "linux"))]
pub(super) fn encode(_: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    Ok(())
}

#[cfg(target_os = "linux")]
pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    // What cannot be read is left out.
    linux::read().map_or(Ok(()), |figures| figures.encode(encoder))
}

#[cfg(target_os = "linux")]
mod linux {
    use procfs::process::{LimitValue, Process};
    use procfs::{ProcResult, boot_time_secs, page_size, ticks_per_second};

    use super::super::samples::{counter, gauge};
    use super::{DescriptorEncoder, fmt};

    pub(super) struct Figures {
        cpu_seconds: f64,
        start_seconds: f64,
        resident_bytes: f64,
        virtual_bytes: f64,
        open_files: f64,
        max_files: f64,
        threads: f64,
    }

    pub(super) fn read() -> ProcResult<Figures> {
        let process = Process::myself()?;
        let stat = process.stat()?;
        let ticks = ticks_per_second() as f64;
        let max_files = match process.limits()?.max_open_files.soft_limit {
            LimitValue::Value(limit) => limit as f64,
            LimitValue::Unlimited => f64::INFINITY,
        };
        Ok(Figures {
            cpu_seconds: (stat.utime + stat.stime) as f64 / ticks,
            start_seconds: boot_time_secs()? as f64 + stat.starttime as f64 / ticks,
            resident_bytes: (stat.rss * page_size()) as f64,
            virtual_bytes: stat.vsize as f64,
            open_files: process.fd_count()? as f64,
            max_files,
            threads: stat.num_threads as f64,
        })
    }

    impl Figures {
        pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
            counter(encoder, "process_cpu_seconds", "Seconds of CPU, user and system", self.cpu_seconds)?;
            for (name, help, value) in [
                ("process_start_time_seconds", "When it began, in seconds since 1970", self.start_seconds),
                ("process_resident_memory_bytes", "Memory that it has in RAM", self.resident_bytes),
                ("process_virtual_memory_bytes", "Memory that it has addresses for", self.virtual_bytes),
                ("process_open_fds", "Open file descriptors", self.open_files),
                ("process_max_fds", "How many there may be", self.max_files),
                ("process_threads", "Threads", self.threads),
            ] {
                gauge(encoder, name, help, value)?;
            }
            Ok(())
        }
    }
}
