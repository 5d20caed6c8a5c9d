//! Reads what scripts answer and publish. What cannot be read is nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::wire::{Fields, Reply};
use crate::cluster::envelope::{Content, open};
use crate::cluster::{Change, NodeId, Snapshot, Topic, Version, Written};
use crate::model::event::Event;
use crate::model::member::{Member, UserId};

/// The answer to a share. `own`: names of this node, which others' shares do not go by.
pub(super) fn read_written(
    reply: &Reply,
    (stamp, told): (u64, Instant),
    topic: &Topic,
    own: impl Fn(NodeId) -> bool,
) -> Option<Written> {
    let [ok, world, number, refused, rest @ ..] = reply.list()? else { return None };
    if ok.text()? != "OK" {
        return None;
    }
    let version = Version { world: hex(world)?, number: u64::try_from(number.number()?).ok()? };
    let refused = refused.list()?.iter().map(user).collect::<Option<_>>()?;
    let snapshot = match rest.first() {
        Some(snapshot) => Some(read_snapshot(snapshot, topic, own)?),
        None => None,
    };
    Some(Written { stamp, version, refused, told, snapshot })
}

fn read_snapshot(reply: &Reply, topic: &Topic, own: impl Fn(NodeId) -> bool) -> Option<Snapshot> {
    let [counts, members, cached, keep, settling] = reply.list()? else { return None };
    let mut snapshot = Snapshot { settling: settling.number()? == 1, ..Snapshot::default() };
    for pair in counts.list()?.chunks(2) {
        let [node, count] = pair else { return None };
        let (node, count) = (NodeId(hex(node)?), count.count()?);
        if !own(node) && count > 0 {
            snapshot.counts.push((node, count));
        }
    }
    for pair in members.list()?.chunks(2) {
        let [node, held] = pair else { return None };
        let node = NodeId(hex(node)?);
        if own(node) {
            continue;
        }
        for pair in held.list()?.chunks(2) {
            let [id, info] = pair else { return None };
            // One that cannot be read is left out: it must not cost the others their snapshot.
            let read = user(id).and_then(|id| member(id, &info.bytes()));
            snapshot.members.extend(read.map(|member| (node, member)));
        }
    }
    snapshot.cached = read_cached(cached, keep, topic)?;
    Some(snapshot)
}

/// A cached event that is kept that long; nothing within if there is none.
pub(super) fn read_cached(event: &Reply, keep: &Reply, topic: &Topic) -> Option<Option<(Event, Duration)>> {
    let bytes = event.bytes();
    let keep = u64::try_from(keep.number()?).unwrap_or_default();
    if bytes.is_empty() || keep == 0 {
        return Some(None);
    }
    let Ok(envelope) = open(&bytes) else {
        // Kept by a broker of another version, perhaps: there is no cached event for this node.
        return Some(None);
    };
    match (envelope.content, topic) {
        (Content::Event(event), Topic::Channel(_, channel)) if event.channel == *channel => {
            Some(Some((event.detached(), Duration::from_millis(keep))))
        }
        _ => Some(None),
    }
}

/// What a script tells of a topic, after the mark.
pub(super) fn read_change(bytes: Bytes, own: impl Fn(NodeId) -> bool) -> Option<Change> {
    let mut fields = Fields(bytes);
    let version = read_version(&mut fields)?;
    let mut change = Change { version, ..Change::default() };
    for _ in 0..fields.count()? {
        let (node, count) = (NodeId(fields.hex()?), fields.count()?);
        if !own(node) {
            change.counts.push((node, count));
        }
    }
    for _ in 0..fields.count()? {
        let (node, id, info) = (NodeId(fields.hex()?), fields.text()?, fields.bytes()?);
        if !own(node) {
            change.added.push((node, member(id.into(), &info)?));
        }
    }
    for _ in 0..fields.count()? {
        let (node, id) = (NodeId(fields.hex()?), fields.text()?);
        if !own(node) {
            change.removed.push((node, id.into()));
        }
    }
    fields.0.is_empty().then_some(change)
}

/// A cached event after the mark: its version, how long it is kept, and its envelope.
pub(super) fn read_cached_event(bytes: Bytes) -> Option<(Version, Duration, Bytes)> {
    let mut fields = Fields(bytes);
    let version = read_version(&mut fields)?;
    let keep = Duration::from_millis(fields.count()? as u64);
    Some((version, keep, fields.0))
}

fn read_version(fields: &mut Fields) -> Option<Version> {
    Some(Version { world: fields.hex()?, number: fields.count()? as u64 })
}

fn hex(reply: &Reply) -> Option<u64> {
    u64::from_str_radix(reply.text()?, 16).ok()
}

fn user(reply: &Reply) -> Option<UserId> {
    reply.text().map(Arc::from)
}

fn member(user_id: UserId, info: &[u8]) -> Option<Member> {
    let user_info = match info.split_first()? {
        (b'-', _) => None,
        (b'+', json) => {
            // It goes into frames as it is.
            serde_json::from_slice::<serde::de::IgnoredAny>(json).ok()?;
            Some(Arc::from(std::str::from_utf8(json).ok()?))
        }
        _ => return None,
    };
    Some(Member { user_id, user_info })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(text: &str) -> Option<Change> {
        read_change(Bytes::copy_from_slice(text.as_bytes()), |node| node.0 == 7)
    }

    #[test]
    fn changes_are_read_without_what_is_own() {
        let text = "2:ff1:52:".to_owned() + "21:10:3";
        assert!(change(&text).is_none());
        let text = "2:ff1:51:21:81:31:71:41:21:81:u3:+{}1:71:v1:-1:11:81:w";
        let change_ = change(text).expect("valid");
        assert_eq!(change_.version, Version { world: 255, number: 5 });
        assert_eq!(change_.counts, [(NodeId(8), 3)]);
        assert_eq!(change_.added.len(), 1);
        assert_eq!(change_.added[0].1.user_info.as_deref(), Some("{}"));
        assert_eq!(change_.removed, [(NodeId(8), "w".into())]);
        assert!(change(&text.replace("3:+{}", "3:+{x")).is_none(), "no JSON");
        for len in 0..text.len() {
            assert!(change(&text[..len]).is_none(), "{len}");
        }
    }

    #[test]
    fn answers_that_cannot_be_read_are_nothing() {
        let text = |text: &'static str| Reply::Text(text.into());
        let topic = Topic::User("a".into(), "u".into());
        let read = |reply: &Reply| read_written(reply, (1, Instant::now()), &topic, |_| false);
        let good = vec![text("OK"), text("f"), text("3"), Reply::List(vec![text("u")])];
        assert_eq!(read(&Reply::List(good.clone())).expect("valid").refused, ["u".into()]);
        for (at, bad) in [(0, text("NO")), (1, text("x")), (2, Reply::Number(-1)), (3, Reply::Nothing)] {
            let mut reply = good.clone();
            reply[at] = bad;
            assert!(read(&Reply::List(reply)).is_none());
        }
        let mut reply = good;
        reply.push(Reply::Number(1));
        assert!(read(&Reply::List(reply)).is_none());
        assert!(read(&Reply::Nothing).is_none());
    }
}
