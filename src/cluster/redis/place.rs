//! Where things are: the partitions, and the names of topics in them.

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use crate::cluster::Topic;
use crate::model::channel::ChannelName;

/// Everything is in one of so many partitions, each in one slot of a Redis Cluster. All nodes have to
/// agree on it for ever.
pub(super) const PARTITIONS: usize = 32;

/// What would end an app's id within a topic's name, or a partition's tag within a key.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'%').add(b'/').add(b':').add(b'{').add(b'}').add(b' ');

/// A topic's name in the engine, and its partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) partition: usize,
    pub(super) name: String,
}

impl Place {
    pub(super) fn of(topic: &Topic) -> Self {
        let name = match topic {
            Topic::Channel(app, channel) => format!("c/{}/{channel}", escaped(app)),
            Topic::User(app, user) => format!("u/{}/{user}", escaped(app)),
        };
        Self { partition: partition(&name), name }
    }
}

/// The partition of a topic, without writing its name down.
pub(super) fn partition_of(topic: &Topic) -> usize {
    let (kind, app, name) = match topic {
        Topic::Channel(app, channel) => ("c/", app, channel.as_str()),
        Topic::User(app, user) => ("u/", app, &**user),
    };
    let mut hash = Fnv::new();
    hash.add(kind);
    utf8_percent_encode(app, ESCAPED).for_each(|part| hash.add(part));
    hash.add("/");
    hash.add(name);
    hash.partition()
}

fn partition(name: &str) -> usize {
    let mut hash = Fnv::new();
    hash.add(name);
    hash.partition()
}

/// An app's id as it stands in topics' names.
pub(super) fn escaped(app: &str) -> String {
    utf8_percent_encode(app, ESCAPED).to_string()
}

/// The topic that goes by a name.
pub(super) fn topic_of(name: &[u8]) -> Option<Topic> {
    let mut parts = std::str::from_utf8(name).ok()?.splitn(3, '/');
    let (kind, app, rest) = (parts.next()?, parts.next()?, parts.next()?);
    let app = percent_decode_str(app).decode_utf8().ok()?;
    match kind {
        "c" => Some(Topic::Channel((&*app).into(), ChannelName::parse(rest, usize::MAX).ok()?)),
        "u" => Some(Topic::User((&*app).into(), rest.into())),
        _ => None,
    }
}

/// The tag that all keys of a partition begin with. Its braces make Redis Cluster keep them together.
pub(super) fn tag(prefix: &str, database: u32, partition: usize) -> String {
    let prefix = escaped(prefix);
    // Channels are the same in all databases of a server.
    if database == 0 {
        format!("{{{prefix}:{partition}}}")
    } else {
        format!("{{{prefix}:{partition}:{database}}}")
    }
}

/// The slot of Redis Cluster that a tag's keys are in.
pub(super) fn slot(tag: &str) -> u16 {
    let inner = tag.trim_start_matches('{').trim_end_matches('}');
    let crc =
        inner.bytes().fold(0_u16, |crc, byte| {
            (0..8).fold(crc ^ u16::from(byte) << 8, |crc, _| {
                if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 }
            })
        });
    crc % 16384
}

/// FNV-1a with 64 bits.
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, text: &str) {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn partition(self) -> usize {
        (self.0 ^ self.0 >> 32) as usize % PARTITIONS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(app: &str, name: &str) -> Topic {
        Topic::Channel(app.into(), ChannelName::parse(name, 200).expect("valid"))
    }

    #[test]
    fn names_lead_back_to_their_topics() {
        let topics = [
            channel("a", "presence-x"),
            channel("a/b:{c}%", "#server-to-user-1"),
            Topic::User("ä".into(), "u/v/ü".into()),
            Topic::User("".into(), "".into()),
        ];
        for topic in topics {
            let place = Place::of(&topic);
            assert_eq!(topic_of(place.name.as_bytes()), Some(topic.clone()));
            assert_eq!(partition_of(&topic), place.partition, "{topic:?}");
        }
        for bad in [&b"c/a"[..], b"", b"x/a/b", b"c/a/b c", b"c/a/\xff", b"c/%ff/a"] {
            assert_eq!(topic_of(bad), None);
        }
    }

    #[test]
    fn topics_stay_where_they_are_in_every_version() {
        let at = |topic| Place::of(&topic).partition;
        assert_eq!(
            [at(channel("app", "a")), at(channel("app", "b")), at(Topic::User("app".into(), "a".into()))],
            PLACES
        );
        let mut filled = [0; PARTITIONS];
        (0..3200).for_each(|i| filled[at(channel("app", &format!("c-{i}")))] += 1);
        assert!(filled.iter().all(|&n| n > 50 && n < 200), "{filled:?}");
    }
    const PLACES: [usize; 3] = [13, 0, 8];

    #[test]
    fn slots_are_those_of_redis() {
        // From its documentation.
        assert_eq!(slot("123456789"), 0x31c3);
        assert_eq!(slot("{user1000}"), 3443);
        assert_eq!(tag("a{b}", 0, 3), "{a%7Bb%7D:3}");
        assert_ne!(tag("a", 1, 3), tag("a", 0, 3));
    }
}
