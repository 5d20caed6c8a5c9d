//! Tells facts, in the partitions where this node is the one to tell them.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::Redis;
use super::connection::{Batch, Gone, Lost};
use super::link::Link;
use super::place::topic_of;
use super::scripts::run;
use super::wire::{Fields, Reply};
use crate::cluster::{Fact, Topic};

/// Facts that are taken at once in a partition.
const MOST: &[u8] = b"200";
/// How long nothing is looked at, where nothing is due.
const IDLE: Duration = Duration::from_secs(3600);

/// Works until the link is lost.
pub(super) async fn tell(engine: Arc<Redis>, link: Arc<Link>) -> Lost {
    loop {
        let partitions = link.telling.load(Ordering::Acquire);
        match take(&engine, &link, partitions, false).await {
            Ok(Some(wait)) => {
                // Elapsed or nudged: either way it is looked at again.
                let _ = timeout(wait, link.nudge.notified()).await;
            }
            Ok(None) => {}
            // Whoever serves the connection says why.
            Err(Gone) => return pending().await,
        }
    }
}

/// Takes and tells what is due, or everything. Gives how long to wait; nothing if there may be more.
pub(super) async fn take(
    engine: &Redis,
    link: &Link,
    partitions: u32,
    all: bool,
) -> Result<Option<Duration>, Gone> {
    let mut batch = Batch::default();
    let asked = link.partitions.iter().filter(|&&partition| partitions & 1 << partition != 0);
    for &partition in asked {
        let args = [link.name.as_bytes(), MOST, if all { b"1" } else { b"0" }];
        run(&mut batch, &link.scripts.take, &engine.tags[partition], &args);
    }
    let replies = link.caller.call(batch).await?;
    let mut wait = IDLE;
    let mut more = false;
    for reply in &replies {
        let Some([due, entries @ ..]) = reply.list() else { continue };
        more |= !entries.is_empty();
        if let Some(due) = due.count() {
            wait = wait.min(Duration::from_millis(due as u64 + 1));
        }
        entries.chunks(2).for_each(|entry| tell_one(engine, entry));
    }
    Ok((!more).then_some(wait))
}

fn tell_one(engine: &Redis, entry: &[Reply]) {
    let fact = match entry {
        [name, sum] => read(name.bytes(), sum.count().unwrap_or_default()),
        _ => None,
    };
    match (fact, engine.site.get()) {
        (Some((topic, fact)), Some(site)) => site.told(&topic, fact),
        _ => engine.stats.bad_data("a fact that cannot be read"),
    }
}

/// An entry is a letter, the topic, and `=USER` where it is about a user.
fn read(entry: Bytes, sum: usize) -> Option<(Topic, Fact)> {
    let kind = *entry.first()?;
    let mut fields = Fields(entry.slice(1..));
    let topic = topic_of(&fields.bytes()?)?;
    let user = match fields.0.split_first() {
        None => None,
        Some((b'=', user)) => Some(std::str::from_utf8(user).ok()?.into()),
        Some(_) => return None,
    };
    let fact = match (kind, user) {
        (b'A', None) => Fact::Occupied,
        (b'A', Some(user)) => Fact::MemberAdded(user),
        (b'D', None) => Fact::Vacated,
        (b'D', Some(user)) => Fact::MemberRemoved(user),
        (b'M', None) => Fact::CacheMiss,
        (b'N', None) => Fact::Counted(sum),
        _ => return None,
    };
    Some((topic, fact))
}
