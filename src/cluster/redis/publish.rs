//! Gives events to Redis, in order.

use std::future::pending;
use std::sync::Arc;

use super::Redis;
use super::connection::{Batch, Caller, Lost};
use super::link::Link;
use super::outbox::Outgoing;
use super::scripts::run;

/// Entries in one batch.
const MOST: usize = 512;
/// Bytes of events in one batch, above which no other is added.
const BYTES: usize = 1 << 20;

/// Works until the connection is lost.
pub(super) async fn publish(engine: Arc<Redis>, link: Arc<Link>, caller: Caller) -> Lost {
    loop {
        let entries = link.outbox.take(MOST, BYTES).await;
        let mut batch = Batch::default();
        entries.iter().for_each(|outgoing| add(&mut batch, &engine, &link, outgoing));
        if caller.call(batch).await.is_err() {
            // Whoever serves the connection says why.
            return pending().await;
        }
        let (events, bytes) = link.outbox.answered();
        engine.stats.published(events as u64);
        engine.unqueue(bytes);
        link.outbox.advance(entries.len());
    }
}

fn add(batch: &mut Batch, engine: &Redis, link: &Link, outgoing: &Outgoing) {
    match outgoing {
        Outgoing::Plain { place, envelope } => {
            let channel = format!("{}:{}", engine.tags[place.partition], place.name);
            batch.push(&[b"SPUBLISH", channel.as_bytes(), envelope]);
        }
        Outgoing::Cached { place, envelope, keep } => {
            let keep = super::flush::millis(*keep);
            let args = [place.name.as_bytes(), keep.as_bytes(), envelope];
            run(batch, &link.scripts.publish, &engine.tags[place.partition], &args);
        }
        Outgoing::Missed { place } => {
            run(batch, &link.scripts.miss, &engine.tags[place.partition], &[place.name.as_bytes()]);
        }
        Outgoing::Order { partition, envelope } => {
            let channel = format!("{}:{}", engine.tags[*partition], super::listen::ORDERS);
            batch.push(&[b"SPUBLISH", channel.as_bytes(), envelope]);
        }
    }
}
