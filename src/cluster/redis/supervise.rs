//! Sees to it that every partition is served.

use std::collections::HashMap;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::task::{Id, JoinSet};
use tokio::time::sleep;

use super::Redis;
use super::discover::masters;
use super::link::{Ended, serve};
use super::place::PARTITIONS;
use crate::cluster::Site;

/// How soon a lost link is made anew, at first and at last.
const FIRST: Duration = Duration::from_millis(50);
const LAST: Duration = Duration::from_secs(2);
/// A link that has held so long was not lost for a reason that is still there.
const STEADY: Duration = Duration::from_secs(10);

/// Works for ever.
pub(super) async fn run(engine: Arc<Redis>, site: Arc<dyn Site>) {
    // Only the first node that an engine works for is its own.
    let _ = engine.site.set(site);
    let mut links = Links::default();
    loop {
        if engine.leaving.load(Ordering::Acquire) {
            return links.idle().await;
        }
        links.make(&engine).await;
        let wait = links.wait();
        tokio::select! {
            () = links.ended(&engine) => {}
            () = wait => {}
            () = engine.left.notified() => {}
        }
    }
}

#[derive(Default)]
struct Links {
    tasks: JoinSet<Ended>,
    /// The partitions of each, and since when.
    serving: HashMap<Id, (Vec<usize>, Instant)>,
    /// How often in a row something did not work.
    failures: u32,
}

impl Links {
    fn missing(&self) -> Vec<usize> {
        let served = |p: &usize| self.serving.values().any(|(partitions, _)| partitions.contains(p));
        (0..PARTITIONS).filter(|p| !served(p)).collect()
    }

    /// Makes links for all partitions that have none.
    async fn make(&mut self, engine: &Arc<Redis>) {
        let missing = self.missing();
        if missing.is_empty() {
            return;
        }
        match masters(&engine.url, &engine.access, &engine.tags).await {
            Ok(masters) => {
                for (server, mut partitions) in masters {
                    partitions.retain(|partition| missing.contains(partition));
                    if !partitions.is_empty() {
                        let task = self.tasks.spawn(serve(engine.clone(), server, partitions.clone()));
                        self.serving.insert(task.id(), (partitions, Instant::now()));
                    }
                }
            }
            Err(why) => {
                self.failures += 1;
                engine.stats.lost(&why, false);
            }
        }
    }

    /// Waits until it is time to try again; for ever if there is nothing to try.
    fn wait(&self) -> impl Future<Output = ()> + use<> {
        let wait = (!self.missing().is_empty()).then(|| pause(self.failures));
        async move {
            match wait {
                Some(wait) => sleep(wait).await,
                None => pending().await,
            }
        }
    }

    /// Waits until a link is lost, and for a while then.
    async fn ended(&mut self, engine: &Redis) {
        let Some(ended) = self.tasks.join_next_with_id().await else { return pending().await };
        let (id, was_up) = match ended {
            Ok((id, ended)) => {
                if !ended.was_up && !engine.leaving.load(Ordering::Acquire) {
                    engine.stats.lost(&ended.why, false);
                }
                (id, ended.was_up)
            }
            Err(error) => (error.id(), true),
        };
        if let Some((_, since)) = self.serving.remove(&id) {
            self.failures = if was_up && since.elapsed() >= STEADY { 0 } else { self.failures + 1 };
        }
        sleep(pause(self.failures)).await;
    }

    /// The node has left: there is nothing to do any more.
    async fn idle(mut self) {
        while self.tasks.join_next().await.is_some() {}
        pending().await
    }
}

/// Grows with the failures before, and is drawn, so that nodes do not come all at once.
fn pause(failures: u32) -> Duration {
    let longest = FIRST.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(LAST);
    let random = getrandom::u32().map_or(0.5, |random| f64::from(random) / f64::from(u32::MAX));
    longest.mul_f64(0.5 + random / 2.0)
}
