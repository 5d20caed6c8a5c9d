//! The node stops: others need not wait for its lease to run out.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Redis;
use super::connection::Gone;
use super::link::Link;
use super::place::PARTITIONS;
use super::reap::withdraw;
use super::scripts::call;
use super::tell::take;

/// Waits until nothing of this node is left. The caller bounds the time.
pub(super) async fn leave(engine: &Redis) {
    engine.leaving.store(true, Ordering::Release);
    for link in engine.links() {
        let settled = link.clone().settled(engine.settings.timeout * 2);
        settled.await;
        // A link that is lost just now leaves its lease to run out.
        let _ = leave_link(engine, &link).await;
        link.stop.notify_one();
        link.caller.lost().await;
    }
    engine.left.notify_one();
}

async fn leave_link(engine: &Redis, link: &Arc<Link>) -> Result<(), Gone> {
    link.stopped.store(true, Ordering::Release);
    let mut last = 0_u32;
    for &partition in link.partitions.iter().filter(|&&partition| partition < PARTITIONS) {
        let former = link.former_in(partition);
        let names: Vec<&str> = former.split(',').filter(|f| !f.is_empty()).chain([&*link.name]).collect();
        let args: Vec<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
        let replies = link.caller.call(call(&link.scripts.retire, &engine.tags[partition], &args)).await?;
        let Some([left, gone]) = replies.first().and_then(|reply| reply.list()) else { continue };
        for name in gone.list().unwrap_or_default().iter().filter_map(|name| name.text()) {
            withdraw(engine, link, partition, name).await?;
        }
        last |= u32::from(left.number() == Some(0)) << partition;
    }
    // Where nobody is left to tell what waits, it is told now.
    while last != 0 && take(engine, link, last, true).await?.is_none() {}
    Ok(())
}
