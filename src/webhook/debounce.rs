//! Who leaves and comes back within the delay has never been away. Pure: the caller tells the time.
//!
//! Only departures are remembered, each until it is told or taken back. Somebody who comes while
//! their departure waits takes it back, and neither is told. So what is told of a channel, or of a
//! user in a channel, alternates strictly, whatever the churn.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::app::WebhookEvent;
use crate::model::channel::ChannelName;
use crate::model::member::UserId;

/// Departures that may wait; above that the earliest are told before their time.
const MAX_WAITING: usize = 100_000;

/// Who leaves: a channel's last subscriber, or a member.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Leaver {
    pub(super) channel: ChannelName,
    /// `None`: the channel's subscribers all together.
    pub(super) user_id: Option<UserId>,
}

impl Leaver {
    /// The kind of webhook event that tells it.
    pub(super) fn kind(&self) -> WebhookEvent {
        if self.user_id.is_some() { WebhookEvent::MemberRemoved } else { WebhookEvent::ChannelVacated }
    }
}

/// What there is to tell.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// This departure.
    Now(Leaver),
    /// The next one has to wait though its time has come.
    Held,
    /// Nothing before this; `None`: nobody waits.
    At(Option<Instant>),
}

/// The departures of one app that wait to be told.
#[derive(Debug)]
pub(super) struct Debounce {
    delay: Duration,
    next: u64,
    waiting: HashMap<Leaver, u64>,
    /// In their order; those whose number is not in `waiting` any more were taken back.
    order: VecDeque<(Instant, u64, Leaver)>,
    /// Since then everybody's time has come.
    hurries_since: Option<Instant>,
}

impl Debounce {
    pub(super) fn new(delay: Duration) -> Self {
        Self { delay, next: 0, waiting: HashMap::new(), order: VecDeque::new(), hurries_since: None }
    }

    /// How long departures wait from now on; none is told before one that left earlier.
    pub(super) fn set_delay(&mut self, delay: Duration) {
        self.delay = delay;
    }

    /// Somebody comes. Says whether that is news.
    pub(super) fn come(&mut self, leaver: &Leaver) -> bool {
        self.waiting.remove(leaver).is_none()
    }

    /// Somebody leaves. Returns who must be told of now, because too many wait.
    pub(super) fn leave(&mut self, leaver: Leaver, now: Instant) -> Option<Leaver> {
        self.next += 1;
        let number = self.next;
        self.waiting.insert(leaver.clone(), number);
        self.order.push_back((now + self.delay, number, leaver));
        if self.order.len() > 2 * MAX_WAITING {
            let waiting = &self.waiting;
            self.order.retain(|(_, number, leaver)| waiting.get(leaver) == Some(number));
        }
        if self.waiting.len() <= MAX_WAITING {
            return None;
        }
        self.skip_taken_back();
        self.pop()
    }

    /// From now on everybody's time has come.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.hurries_since.get_or_insert(now);
    }

    /// Who has stayed away: the next of those whose time has come, unless `holds`, which is asked with
    /// that time, wants it to wait.
    pub(super) fn due(&mut self, now: Instant, holds: impl FnOnce(&Leaver, Instant) -> bool) -> Due {
        self.skip_taken_back();
        let Some(due) = self.next_due() else {
            self.shrink();
            return Due::At(None);
        };
        if due > now {
            return Due::At(Some(due));
        }
        if self.order.front().is_some_and(|(.., leaver)| holds(leaver, due)) {
            return Due::Held;
        }
        self.pop().map_or(Due::At(None), Due::Now)
    }

    /// When to look again.
    fn next_due(&self) -> Option<Instant> {
        let (due, ..) = self.order.front()?;
        Some(self.hurries_since.map_or(*due, |since| since.min(*due)))
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    fn skip_taken_back(&mut self) {
        while let Some((_, number, leaver)) = self.order.front()
            && self.waiting.get(leaver) != Some(number)
        {
            self.order.pop_front();
        }
    }

    fn pop(&mut self) -> Option<Leaver> {
        let (.., leaver) = self.order.pop_front()?;
        self.waiting.remove(&leaver);
        Some(leaver)
    }

    /// Gives back what a crowd that left together took.
    fn shrink(&mut self) {
        if self.order.is_empty() && self.order.capacity() > 1024 {
            self.order = VecDeque::new();
            self.waiting = HashMap::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_secs(3);

    fn channel(name: &str) -> ChannelName {
        ChannelName::parse(name, 200).expect("a name")
    }

    fn member(user: usize) -> Leaver {
        Leaver { channel: channel("presence-a"), user_id: Some(user.to_string().into()) }
    }

    fn due(debounce: &mut Debounce, now: Instant) -> Option<Leaver> {
        match debounce.due(now, |_, _| false) {
            Due::Now(leaver) => Some(leaver),
            Due::Held => panic!("nobody holds it"),
            Due::At(_) => None,
        }
    }

    #[test]
    fn who_comes_back_in_time_was_never_away() {
        let (mut debounce, now) = (Debounce::new(DELAY), Instant::now());
        assert!(debounce.come(&member(1)), "nobody knew of it");
        assert_eq!(debounce.leave(member(1), now), None);
        assert!(!debounce.come(&member(1)));
        assert_eq!(due(&mut debounce, now + DELAY), None);
        debounce.leave(member(1), now);
        assert_eq!(due(&mut debounce, now + DELAY / 2), None);
        assert_eq!(due(&mut debounce, now + DELAY), Some(member(1)));
        assert!(debounce.come(&member(1)));
        assert_eq!((debounce.len(), debounce.next_due()), (0, None));
    }

    #[test]
    fn each_departure_has_the_whole_delay() {
        let (mut debounce, now) = (Debounce::new(DELAY), Instant::now());
        debounce.leave(member(1), now);
        debounce.come(&member(1));
        debounce.leave(member(1), now + DELAY / 2);
        assert_eq!(due(&mut debounce, now + DELAY), None, "the first departure was taken back");
        assert_eq!(due(&mut debounce, now + DELAY + DELAY / 2), Some(member(1)));
    }

    #[test]
    fn departures_are_told_in_their_order() {
        let (mut debounce, now) = (Debounce::new(DELAY), Instant::now());
        let all = Leaver { channel: channel("presence-a"), user_id: None };
        debounce.leave(member(1), now);
        debounce.leave(all.clone(), now);
        debounce.leave(member(2), now);
        let told: Vec<_> = std::iter::from_fn(|| due(&mut debounce, now + DELAY)).collect();
        assert_eq!(told, [member(1), all, member(2)]);
        debounce.leave(member(3), now);
        debounce.hurry(now);
        assert_eq!([due(&mut debounce, now), due(&mut debounce, now)], [Some(member(3)), None]);
    }

    #[test]
    fn too_many_departures_are_told_early() {
        let (mut debounce, now) = (Debounce::new(DELAY), Instant::now());
        assert!((0..MAX_WAITING).all(|user| debounce.leave(member(user), now).is_none()));
        assert_eq!(debounce.leave(member(MAX_WAITING), now), Some(member(0)));
        assert!(debounce.come(&member(0)), "it was told, so its return is news");
        assert_eq!(debounce.len(), MAX_WAITING);
    }

    #[test]
    fn who_is_held_can_still_come_back_and_others_wait_behind() {
        let (mut debounce, now) = (Debounce::new(DELAY), Instant::now());
        debounce.leave(member(1), now);
        debounce.leave(member(2), now);
        let holds = |leaver: &Leaver, due| {
            assert_eq!(due, now + DELAY);
            *leaver == member(1)
        };
        assert_eq!(debounce.due(now, holds), Due::At(Some(now + DELAY)));
        assert_eq!(debounce.due(now + 2 * DELAY, holds), Due::Held);
        assert!(!debounce.come(&member(1)));
        assert_eq!(debounce.due(now + 2 * DELAY, holds), Due::Now(member(2)));
        assert_eq!(debounce.due(now + 2 * DELAY, holds), Due::At(None));
    }

    /// One user who came and went all the time once had others told early.
    #[test]
    fn what_was_taken_back_takes_nobodys_place() {
        let (mut debounce, now) = (Debounce::new(DELAY), Instant::now());
        debounce.leave(member(1), now);
        for _ in 0..MAX_WAITING * 5 {
            assert_eq!(debounce.leave(member(2), now), None);
            assert!(!debounce.come(&member(2)));
        }
        assert!(debounce.order.len() <= 2 * MAX_WAITING);
        assert!(!debounce.come(&member(1)));
    }
}
