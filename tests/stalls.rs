//! A broker that stands still says so, and only then.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::{Arc, Barrier, mpsc};
use std::time::Duration;

use common::{Broker, Http, Metrics, Program, Reply, boot, eventually_within, settings};
use fanfare::watchdog::STALLED_AFTER;
use tokio::runtime::{Builder, Runtime};

const WORKERS: usize = 2;
/// For what takes longer than a stall until it is known for one.
const PATIENCE: Duration = Duration::from_secs(60);

/// Blocks every worker, until what is returned is dropped.
fn block(runtime: &Runtime) -> Vec<mpsc::Sender<()>> {
    let all_blocked = Arc::new(Barrier::new(WORKERS + 1));
    let blocks = (0..WORKERS).map(|_| {
        let (release, released) = mpsc::channel::<()>();
        let blocked = Arc::clone(&all_blocked);
        runtime.spawn(async move {
            blocked.wait();
            let _ = released.recv();
        });
        release
    });
    let blocks = blocks.collect();
    all_blocked.wait();
    blocks
}

async fn health(broker: &Broker) -> Reply {
    broker.private("GET", "/healthz").await
}

#[test]
fn healthz_fails_while_all_workers_are_blocked_and_no_longer() {
    let serving = Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build().unwrap();
    let asking = Builder::new_current_thread().enable_all().build().unwrap();
    let broker = serving.block_on(boot(settings()));
    asking.block_on(async {
        assert_eq!(health(&broker).await.status, 200);
        let stamps = async || broker.metric("fanfare_runtime_delay_seconds_count").await;
        eventually_within(PATIENCE, "a stamp", async || stamps().await >= 1.0).await;
    });
    let blocks = block(&serving);
    asking.block_on(async {
        eventually_within(PATIENCE, "a failing check", async || health(&broker).await.status != 200).await;
        health(&broker).await.expect_error(503, "stalled: no task has run for ");
        // The figures are told all the same, and that it stalls is no reason to send nobody.
        let metrics = broker.metrics().await;
        assert!(metrics.get("fanfare_runtime_stalled_seconds") >= STALLED_AFTER.as_secs_f64());
        assert_eq!(broker.private("GET", "/readyz").await.status, 200);
    });
    drop(blocks);
    asking.block_on(async {
        eventually_within(PATIENCE, "health", async || health(&broker).await.status == 200).await;
        let late = async |bound: &str| {
            let bucket = format!("fanfare_runtime_delay_seconds_bucket{{le=\"{bound}\"}}");
            let count = broker.metric("fanfare_runtime_delay_seconds_count").await;
            count - broker.metric(&bucket).await
        };
        eventually_within(PATIENCE, "a late stamp", async || late("2.5").await >= 1.0).await;
    });
    serving.block_on(async {
        let mut client = broker.connect().await;
        client.expect_nothing().await;
    });
}

/// Whoever is stopped cannot answer, but when it goes on it must not be taken for stalled and killed.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_stopped_is_healthy_as_soon_as_it_goes_on() {
    let program = Program::start("stopped", &settings(), "").await;
    let health = async || common::http::ask(program.admin, "GET", "/healthz").await;
    assert_eq!(health().await.status, 200);
    program.pause();
    // To be stopped for this long is what is tested.
    tokio::time::sleep(STALLED_AFTER + Duration::from_secs(1)).await;
    let mut waiting = Http::to(program.admin).await;
    waiting.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    program.resume();
    assert_eq!(waiting.reply().await.expect("a reply").status, 200);
    for _ in 0..100 {
        assert_eq!(health().await.status, 200);
    }
    let metrics = Metrics::of(&common::http::ask(program.admin, "GET", "/metrics").await);
    assert!(metrics.get("fanfare_runtime_stalled_seconds") < STALLED_AFTER.as_secs_f64());
}
