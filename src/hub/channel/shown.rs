//! Who was shown which cached event on arrival. The answer that shows it may overtake the event itself
//! on its way from the engine: then the event is for those who were here before.

use crate::cluster::Version;
use crate::mailbox::SeatId;

/// Snapshots whose events may still be under way, at most. Above it the oldest is forgotten: should an
/// event of it come after all, who was shown it hears it twice.
const MAX_SNAPSHOTS: usize = 8;

/// Snapshots, oldest first: whoever has its seat from one on was shown what was cached at that version, or
/// something newer.
#[derive(Debug, Default)]
pub(super) struct Shown(Vec<(Version, SeatId)>);

impl Shown {
    /// Everything cached up to `version` is shown to whoever takes the seat `next` or a later one.
    pub(super) fn begin(&mut self, version: Version, next: SeatId) {
        if self.0.last().is_some_and(|(last, _)| has(*last, version)) {
            return;
        }
        if self.0.len() == MAX_SNAPSHOTS {
            self.0.remove(0);
        }
        self.0.push((version, next));
    }

    /// From this seat on an event that leads to `version` was shown already.
    pub(super) fn since(&self, version: Version) -> Option<SeatId> {
        self.0.iter().find(|(shown, _)| has(*shown, version)).map(|(_, seat)| *seat)
    }

    /// The engine's messages up to `version` have come: none of them is under way any more.
    pub(super) fn come(&mut self, version: Version) {
        self.0.retain(|(shown, _)| !has(version, *shown));
        if self.0.is_empty() {
            self.0 = Vec::new();
        }
    }
}

/// Whether one version has what leads to another.
fn has(version: Version, other: Version) -> bool {
    version.world == other.world && version.number >= other.number
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::cluster::{Received, Snapshot, Written};
    use crate::hub::channel::subscription::Arrival;
    use crate::hub::tests::{all_received, hub, name, socket, subscribe};
    use crate::hub::{AppHub, Body, Budget, Channel, Draft, Origin, Terms};
    use crate::model::event::Event;
    use crate::model::quoted::Quoted;

    fn at(number: u64) -> Version {
        Version { world: 7, number }
    }

    fn event(hub: &AppHub, channel: &Channel, letter: &str) -> Event {
        let (name, data) = (Quoted::from_text("e"), Quoted::from_text(letter));
        let body = Body::Message { name, data, user_id: None };
        let draft = Draft { origin: Origin::Api, except: None, body, cache_for: None };
        hub.shared.event(channel.name(), draft)
    }

    /// Who came while the node caught up with the engine heard the cached event it was shown once more.
    #[tokio::test]
    async fn what_was_shown_is_not_heard_again() {
        let hub = hub(1 << 20);
        let channel = hub.channel(&name("cache-a"));
        let ((early, early_far), (late, late_far)) = (socket().await, socket().await);
        let _subscription = subscribe(&hub, "cache-a", &early);
        let (first, keep) = (event(&hub, &channel, "1"), Duration::from_secs(60));

        let mailbox = std::sync::Arc::clone(&late.mailbox);
        let arrival: Arrival = Box::new(move |found| mailbox.push(found.unwrap().cached.as_ref().unwrap()));
        channel.wait(&mut channel.state.lock(), &hub, late.clone(), Terms::default(), arrival);
        let stamp = channel.share(&hub, 1, true).stamp;
        let snapshot = Snapshot { cached: Some((first.clone(), keep)), ..Snapshot::default() };
        let (version, told, refused) = (at(5), Instant::now(), Vec::new());
        let written = Written { stamp, version, refused, told, snapshot: Some(snapshot) };
        hub.shared.start(channel.written(&hub, written), &mut Budget::one_chunk());

        for (event, number) in [(first, 5), (event(&hub, &channel, "2"), 6)] {
            let received = Received { event, own: false, cached: Some((at(number), keep)) };
            hub.shared.start(channel.receive(&hub, received), &mut Budget::one_chunk());
        }
        assert_eq!(all_received(early, early_far).await, "!12");
        assert_eq!(all_received(late, late_far).await, "12");
        assert!(channel.state.lock().joint.as_ref().unwrap().shown.0.is_empty(), "it has all come");
    }

    /// An engine that came back as it was a while ago numbers other events as those that were shown.
    #[tokio::test]
    async fn what_was_shown_by_a_link_that_is_lost_hides_nothing_of_the_next() {
        let hub = hub(1 << 20);
        let channel = hub.channel(&name("cache-a"));
        let (subscriber, far) = socket().await;
        let _subscription = subscribe(&hub, "cache-a", &subscriber);
        for number in [9, 4] {
            let stamp = channel.share(&hub, number, true).stamp;
            let (version, told, refused) = (at(number), Instant::now(), Vec::new());
            let written = Written { stamp, version, refused, told, snapshot: Some(Snapshot::default()) };
            hub.shared.start(channel.written(&hub, written), &mut Budget::one_chunk());
            if number == 9 {
                hub.shared.start(channel.cut_off(&hub), &mut Budget::one_chunk());
            }
        }
        let (late, late_far) = socket().await;
        let _late = subscribe(&hub, "cache-a", &late);
        let cached = Some((at(5), Duration::from_secs(60)));
        let received = Received { event: event(&hub, &channel, "1"), own: false, cached };
        hub.shared.start(channel.receive(&hub, received), &mut Budget::one_chunk());
        assert_eq!(all_received(subscriber, far).await, "!1");
        assert_eq!(all_received(late, late_far).await, "!1");
    }

    #[test]
    fn an_event_is_for_those_who_were_here_before_the_snapshot_that_has_it() {
        let mut shown = Shown::default();
        shown.begin(at(5), 10);
        shown.begin(at(5), 15);
        shown.begin(at(8), 20);
        let since = [4, 5, 6, 8, 9].map(|number| shown.since(at(number)));
        assert_eq!(since, [Some(10), Some(10), Some(20), Some(20), None]);
        assert_eq!(shown.since(Version { world: 8, number: 5 }), None, "of another world");
    }

    #[test]
    fn what_has_come_is_forgotten() {
        let mut shown = Shown::default();
        shown.begin(at(5), 10);
        shown.begin(at(8), 20);
        shown.come(at(4));
        assert_eq!(shown.since(at(5)), Some(10));
        shown.come(at(7));
        assert_eq!(shown.since(at(5)), Some(20), "the next one has it too");
        shown.come(at(8));
        assert!(shown.0.is_empty());
    }

    #[test]
    fn what_is_under_way_is_bounded() {
        let mut shown = Shown::default();
        (0..100).for_each(|number| shown.begin(at(number), number));
        assert_eq!(shown.0.len(), MAX_SNAPSHOTS);
        assert_eq!(shown.since(at(99)), Some(99));
    }
}
