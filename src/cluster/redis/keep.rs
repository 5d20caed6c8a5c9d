//! Keeps the node's lease, and sees whose has run out.

use std::collections::HashSet;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Redis;
use super::connection::{Batch, Caller, Gone, Lost};
use super::flush::{GONE, millis};
use super::link::Link;
use super::listen::hear_nudges;
use super::scripts::run;
use super::wire::Reply;
use crate::cluster::Topic;

/// Topics whose snapshot is to be asked for once more.
#[derive(Debug, Default)]
pub(super) struct Unsettled {
    topics: HashSet<Topic>,
    /// When the last of them was added.
    since: Option<Instant>,
}

impl Unsettled {
    pub(super) fn add(&mut self, topic: Topic) {
        self.topics.insert(topic);
        self.since = Some(Instant::now());
    }
}

/// Works until the link is lost.
pub(super) async fn keep(engine: Arc<Redis>, link: Arc<Link>, publisher: Caller) -> Lost {
    let mut beats = interval(engine.settings.lease / 3);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Which partitions' nudges are listened to already.
    let mut heard = 0;
    loop {
        beats.tick().await;
        if link.stopped.load(Ordering::Acquire) {
            return pending().await;
        }
        match beat(&engine, &link, &publisher, &mut heard).await {
            Ok(None) => {}
            // The node has given up its lease meanwhile, if it leaves.
            Ok(Some(_)) if link.stopped.load(Ordering::Acquire) => return pending().await,
            Ok(Some(lost)) => return lost,
            // Whoever serves the connection says why.
            Err(Gone) => return pending().await,
        }
        settle(&engine, &link);
    }
}

async fn beat(
    engine: &Redis,
    link: &Link,
    publisher: &Caller,
    heard: &mut u32,
) -> Result<Option<Lost>, Gone> {
    let lease = millis(engine.settings.lease);
    let mut batch = Batch::default();
    for &partition in &link.partitions {
        let former = link.former_in(partition);
        let args = [link.name.as_bytes(), lease.as_bytes(), former.as_bytes()];
        run(&mut batch, &link.scripts.beat, &engine.tags[partition], &args);
    }
    let replies = link.caller.call(batch).await?;
    let mut telling = 0;
    for (&partition, reply) in link.partitions.iter().zip(&replies) {
        match reply.list() {
            Some([_, teller, gone]) => {
                telling |= u32::from(teller.number() == Some(1)) << partition;
                let names = gone.list().unwrap_or_default().iter().filter_map(Reply::text);
                link.graves.add(names.map(|name| (partition, name.to_owned())));
            }
            Some([gone]) if gone.text() == Some("GONE") => return Ok(Some(GONE.to_owned())),
            _ => return Ok(Some("it answers a lease with what cannot be read".to_owned())),
        }
    }
    if telling & !*heard != 0 {
        hear_nudges(engine, link, telling & !*heard).await?;
        *heard |= telling;
    }
    link.telling.store(telling, Ordering::Release);
    link.nudge.notify_one();
    link.listener.ping();
    publisher.call(Batch::one(&[b"PING"])).await?;
    Ok(None)
}

/// Asks once more for the snapshots that were made while the world settled.
fn settle(engine: &Redis, link: &Link) {
    let topics = {
        let mut unsettled = link.unsettled.lock();
        if unsettled.since.is_none_or(|since| since.elapsed() < engine.settling()) {
            return;
        }
        std::mem::take(&mut *unsettled).topics
    };
    topics.iter().for_each(|topic| link.dirty.push(topic, true));
}
