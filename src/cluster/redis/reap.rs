//! Withdraws what gone nodes held. All nodes may do so at once: each piece is withdrawn by one.

use std::collections::BTreeSet;
use std::future::pending;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Redis;
use super::connection::{Gone, Lost};
use super::link::Link;
use super::scripts::call;
use crate::cluster::NodeId;

/// Members and topics that are withdrawn at once.
const CHUNK: &[u8] = b"1000";

/// Who is to be withdrawn, by partition: what a few answers have named, so there are not many.
#[derive(Debug, Default)]
pub(super) struct Graves {
    gone: Mutex<BTreeSet<(usize, String)>>,
    wake: Notify,
}

impl Graves {
    pub(super) fn add(&self, gone: impl Iterator<Item = (usize, String)>) {
        self.gone.lock().extend(gone);
        self.wake.notify_one();
    }

    async fn next(&self) -> (usize, String) {
        loop {
            if let Some(next) = self.gone.lock().pop_first() {
                return next;
            }
            self.wake.notified().await;
        }
    }
}

/// Works until the link is lost.
pub(super) async fn reap(engine: Arc<Redis>, link: Arc<Link>) -> Lost {
    loop {
        let (partition, node) = link.graves.next().await;
        if withdraw(&engine, &link, partition, &node).await.is_err() {
            // Whoever serves the connection says why.
            return pending().await;
        }
    }
}

/// Withdraws all that a gone node holds in a partition.
pub(super) async fn withdraw(engine: &Redis, link: &Link, partition: usize, node: &str) -> Result<(), Gone> {
    loop {
        let batch = call(&link.scripts.reap, &engine.tags[partition], &[node.as_bytes(), CHUNK]);
        let replies = link.caller.call(batch).await?;
        let Some([done, topics]) = replies.first().and_then(|reply| reply.list()) else { return Ok(()) };
        let topics = topics.count().unwrap_or_default() as u64;
        engine.stats.withdrawn(topics);
        // Names that a node itself had before hold nothing by now, nor do those of who has left.
        let is_own = u64::from_str_radix(node, 16).is_ok_and(|node| engine.is_own(NodeId(node)));
        if topics > 0 && !is_own {
            engine.stats.withdraws(node);
        }
        if done.number() != Some(0) {
            return Ok(());
        }
    }
}
