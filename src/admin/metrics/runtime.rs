//! The build, and the runtime that the broker runs on.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;

use super::Admin;
use super::samples::{counter, gauge, gauges};

pub(super) fn encode(admin: &Admin, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    let build = [("version", env!("CARGO_PKG_VERSION")), ("profile", profile)];
    gauges(encoder, "build_info", "What this program is", [(build, 1)])?;
    let runtime = admin.runtime.metrics();
    let workers = runtime.num_workers();
    gauge(encoder, "runtime_workers", "Threads that run tasks", workers)?;
    gauge(encoder, "runtime_tasks", "Tasks that have not ended", runtime.num_alive_tasks())?;
    let help = "Tasks that wait for any thread";
    gauge(encoder, "runtime_queued_tasks", help, runtime.global_queue_depth())?;
    #[cfg(target_has_atomic = "64")]
    {
        let busy: f64 =
            (0..workers).map(|worker| runtime.worker_total_busy_duration(worker).as_secs_f64()).sum();
        counter(encoder, "runtime_busy_seconds", "Seconds that threads have run tasks", busy)?;
    }
    let help = "For how long no task has been run by now";
    gauge(encoder, "runtime_stalled_seconds", help, admin.watchdog.stalled().as_secs_f64())?;
    let help = "How late a task that is due four times a second was run";
    let delays = encoder.encode_descriptor("runtime_delay_seconds", help, None, MetricType::Histogram)?;
    admin.watchdog.delays().encode(delays)
}
