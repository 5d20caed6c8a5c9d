//! Questions about what all nodes hold together.

use std::collections::HashMap;
use std::sync::Arc;

use super::Redis;
use super::connection::{Batch, Gone};
use super::link::Link;
use super::message::read_cached;
use super::place::{PARTITIONS, Place, escaped, topic_of};
use super::wire::Reply;
use crate::cluster::{Away, Seen, Tally, Topic};
use crate::model::channel::ChannelName;

/// Channels that are looked at in one step.
const STEP: &[u8] = b"1000";

impl From<Gone> for Away {
    fn from(_: Gone) -> Self {
        Self
    }
}

pub(super) async fn look(engine: &Redis, topic: &Topic, users: bool) -> Result<Seen, Away> {
    let link = engine.link_of(topic).ok_or(Away)?;
    let Place { partition, name } = Place::of(topic);
    let key = |kind: &str| format!("{}:{kind}:{name}", engine.tags[partition]);
    let mut batch = Batch::default();
    batch.push(&[b"HGET", key("t").as_bytes(), b"sum"]);
    batch.push(&[b"HLEN", key("u").as_bytes()]);
    batch.push(&[b"GET", key("e").as_bytes()]);
    batch.push(&[b"PTTL", key("e").as_bytes()]);
    if users {
        batch.push(&[b"HKEYS", key("u").as_bytes()]);
    }
    let replies = link.caller.call(batch).await?;
    let [sum, user_count, event, keep, rest @ ..] = &replies[..] else { return Err(Away) };
    let names = rest.first().and_then(Reply::list).unwrap_or_default();
    Ok(Seen {
        subscriptions: sum.count().unwrap_or_default(),
        user_count: user_count.count().unwrap_or_default(),
        users: names.iter().filter_map(|user| user.text().map(Arc::from)).collect(),
        cached: read_cached(event, keep, topic).flatten(),
    })
}

pub(super) async fn occupied(
    engine: &Redis,
    app: &str,
    prefix: &str,
    users: bool,
) -> Result<Vec<(ChannelName, Tally)>, Away> {
    let links: Vec<Arc<Link>> = engine.links();
    if links.iter().map(|link| link.partitions.len()).sum::<usize>() < PARTITIONS {
        return Err(Away);
    }
    let mut asking: Vec<_> = links
        .iter()
        .flat_map(|link| link.partitions.iter().map(move |&partition| (link, partition)))
        .map(|(link, partition)| (link, partition, b"0".to_vec()))
        .collect();
    let mut found = HashMap::new();
    // All partitions at once, a step each; ends when all have been gone through.
    while !asking.is_empty() {
        let steps = step(engine, app, prefix, &links, &asking).await?;
        asking = read_steps(asking, &steps, prefix, &mut found);
    }
    if users {
        count_users(engine, app, &links, &mut found).await?;
    }
    Ok(found.into_values().map(|(channel, tally, _)| (channel, tally)).collect())
}

type Asking<'a> = (&'a Arc<Link>, usize, Vec<u8>);
/// By name: the channel, how it stands, its partition.
type Found = HashMap<String, (ChannelName, Tally, usize)>;

async fn step(
    engine: &Redis,
    app: &str,
    prefix: &str,
    links: &[Arc<Link>],
    asking: &[Asking<'_>],
) -> Result<Vec<Reply>, Away> {
    let pattern = format!("c/{}/{}*", glob(&escaped(app)), glob(prefix));
    let batches = links.iter().map(|link| {
        let mut batch = Batch::default();
        for (_, partition, cursor) in asking.iter().filter(|(asked, ..)| asked.node == link.node) {
            let key = format!("{}:occ:{}", engine.tags[*partition], escaped(app));
            batch.push(&[b"HSCAN", key.as_bytes(), cursor, b"MATCH", pattern.as_bytes(), b"COUNT", STEP]);
        }
        batch
    });
    all(links, batches.collect()).await
}

/// What each link answers, one link after another, though they are asked at once.
async fn all(links: &[Arc<Link>], batches: Vec<Batch>) -> Result<Vec<Reply>, Away> {
    let mut calls = tokio::task::JoinSet::new();
    for (at, (link, batch)) in links.iter().zip(batches).enumerate() {
        let caller = link.caller.clone();
        calls.spawn(async move { (at, caller.call(batch).await) });
    }
    let mut answers = vec![Vec::new(); links.len()];
    while let Some(done) = calls.join_next().await {
        let (at, replies) = done.map_err(|_| Away)?;
        answers[at] = replies?;
    }
    Ok(answers.into_iter().flatten().collect())
}

/// Takes up what was found, and gives what is still to be asked.
fn read_steps<'a>(
    asking: Vec<Asking<'a>>,
    steps: &[Reply],
    prefix: &str,
    found: &mut Found,
) -> Vec<Asking<'a>> {
    let mut rest = Vec::new();
    for ((link, partition, _), reply) in asking.into_iter().zip(steps) {
        let Some([cursor, pairs]) = reply.list() else { continue };
        for pair in pairs.list().unwrap_or_default().chunks(2) {
            let [name, sum] = pair else { continue };
            let Some(Topic::Channel(_, channel)) = topic_of(&name.bytes()) else { continue };
            if let (Some(name), true) = (name.text(), channel.as_str().starts_with(prefix)) {
                let tally = Tally { subscriptions: sum.count().unwrap_or_default(), users: 0 };
                found.insert(name.to_owned(), (channel, tally, partition));
            }
        }
        let cursor = cursor.bytes();
        if !cursor.is_empty() && cursor != "0" {
            rest.push((link, partition, cursor.to_vec()));
        }
    }
    rest
}

async fn count_users(engine: &Redis, app: &str, links: &[Arc<Link>], found: &mut Found) -> Result<(), Away> {
    debug_assert!(found.keys().all(|name| name.starts_with(&format!("c/{}/", escaped(app)))));
    for link in links {
        let mut here: Vec<(&String, &mut (ChannelName, Tally, usize))> = found
            .iter_mut()
            .filter(|(_, (channel, _, partition))| {
                channel.kind().presence && link.partitions.contains(partition)
            })
            .collect();
        for chunk in here.chunks_mut(512) {
            let mut batch = Batch::default();
            for (name, (_, _, partition)) in chunk.iter() {
                batch.push(&[b"HLEN", format!("{}:u:{name}", engine.tags[*partition]).as_bytes()]);
            }
            let replies = link.caller.call(batch).await?;
            for ((_, (_, tally, _)), reply) in chunk.iter_mut().zip(&replies) {
                tally.users = reply.count().unwrap_or_default();
            }
        }
    }
    Ok(())
}

/// Text that a pattern takes as it is.
fn glob(text: &str) -> String {
    let special = |c: char| "*?[]\\^".contains(c);
    text.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}
