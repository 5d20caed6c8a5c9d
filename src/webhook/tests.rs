//! Churn: what the hub reports of random comings and goings, and what is told of it.

use std::collections::HashMap;

use bytes::Bytes;

use super::app::{AppWebhooks, HELD_CHECK};
use super::queue::Next;
use super::*;
use crate::cluster::Local;
use crate::hub::{
    AppHub, Fact, Format, FormatId, Hub, NoticeFormat, SignedRequest, Subscriber, Subscription, Terms,
};
use crate::mailbox::{Backlogs, Mailbox};
use crate::model::app::{App, Features, KeyPair, Limits, Webhook, WebhookEvent};
use crate::model::channel::ChannelName;
use crate::model::event::Event;
use crate::model::member::{Member, UserId};
use crate::model::secret::Secret;
use crate::model::socket::SocketId;
use crate::model::transport::Transport;

const CHANNELS: [&str; 3] = ["presence-a", "presence-b", "open"];
const USERS: usize = 4;
/// Sockets of a user.
const TABS: usize = 2;
const DELAY: Duration = Duration::from_secs(3);

/// Writes nothing: mailboxes are not looked at here.
struct Silent;

impl Format for Silent {
    fn encode(&self, _: &Event) -> Bytes {
        Bytes::new()
    }

    fn encode_watched(&self, _: &[UserId], _: &[UserId]) -> Bytes {
        Bytes::new()
    }
}

/// `name channel user`.
struct Words;

impl NoticeFormat for Words {
    fn event(&self, kind: WebhookEvent, channel: &ChannelName, fact: &Fact) -> Bytes {
        let user = match fact {
            Fact::MemberAdded(user) | Fact::MemberRemoved(user) => user,
            _ => "",
        };
        format!("{} {channel} {user}", kind.name()).into()
    }

    fn request(&self, _: &App, _: u64, _: &[Bytes]) -> SignedRequest {
        unreachable!("nothing is delivered here")
    }
}

/// xorshift: the same seed, the same churn.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % bound
    }
}

/// A hub and its webhooks, of which nothing is delivered.
struct Stage {
    hub: Arc<AppHub>,
    webhooks: Webhooks,
}

impl Stage {
    fn new(delay: Duration) -> Self {
        Self::bounded(delay, usize::MAX)
    }

    fn bounded(delay: Duration, max_queue_events: usize) -> Self {
        let webhook = Webhook {
            url: "http://127.0.0.1:1/".to_owned(),
            events: WebhookEvent::ALL.map(|(event, _)| event).to_vec(),
            channel_prefix: String::new(),
            batch: true,
            headers: Vec::new(),
        };
        let app = App {
            id: AppId::from("1"),
            keys: vec![KeyPair { key: "k".to_owned(), secret: Secret::new("s") }],
            enabled: true,
            features: Features::default(),
            limits: Limits { webhook_delay: delay, ..Limits::default() },
            webhooks: vec![webhook],
        };
        let settings = WebhookSettings {
            connect_timeout: DELAY,
            timeout: DELAY,
            retry_for: DELAY,
            max_queue_events,
            max_queue_bytes: usize::MAX,
            max_failed_events: 100,
            max_failed_bytes: 1 << 20,
        };
        let webhooks =
            Webhooks::new(&[Arc::new(LiveApp::new(app))], &settings, Arc::new(Words)).expect("webhooks");
        let settings = crate::hub::Settings {
            max_queue_bytes: 1 << 20,
            queue_timeout: DELAY,
            max_cache_bytes: 1 << 20,
            refuse_when_away: false,
        };
        let formats: Arc<[Box<dyn Format>]> = Arc::new([Box::new(Silent)]);
        let hub = Hub::new(settings, formats, Arc::default(), Arc::new(Local)).expect("randomness");
        for (app, observer) in webhooks.observers() {
            hub.observe(&app, observer);
        }
        Self { hub: hub.app(&AppId::from("1")), webhooks }
    }

    fn departures(&self) -> tokio::task::JoinHandle<()> {
        tokio::spawn(self.app().tell_departures(Arc::clone(&self.webhooks.sender)))
    }

    fn app(&self) -> Arc<AppWebhooks> {
        Arc::clone(&self.webhooks.apps.read()[0])
    }

    fn endpoint(&self) -> Arc<Endpoint> {
        Arc::clone(&self.webhooks.endpoints()[0])
    }

    fn note(&self, channel: &str, fact: Fact) {
        self.app().note(&ChannelName::parse(channel, 200).expect("a name"), fact);
    }

    /// So many channels are vacated at once.
    fn crowd_leaves(&self, count: usize) {
        (0..count).for_each(|number| self.note(&format!("c-{number}"), Fact::Vacated));
    }

    fn dropped(&self) -> u64 {
        self.endpoint().stats.dropped.get()
    }

    /// What would have been sent since this was asked last, in its order.
    fn sent(&self) -> Vec<String> {
        let endpoint = self.endpoint();
        let mut sent = Vec::new();
        while let Next::Batch(batch) = endpoint.take(true) {
            sent.extend(
                batch.iter().map(|waiting| String::from_utf8(waiting.event.to_vec()).expect("words")),
            );
        }
        sent
    }

    fn come(&self, seat: &mut Seat) {
        let socket = SocketId::draw().expect("an id");
        let mailbox = Arc::new(Mailbox::new(
            socket,
            Transport::WebSocket,
            None,
            1 << 20,
            Arc::new(Backlogs::new(0)),
            0,
        ));
        let user_id = UserId::from(seat.user.to_string());
        let member = seat.channel.starts_with("presence-").then_some(Member { user_id, user_info: None });
        let terms = Terms { member, max_members: 1000, counted: false };
        let name = ChannelName::parse(seat.channel, 200).expect("a name");
        let subscriber = Subscriber { mailbox, format: FormatId(0) };
        let subscription = self.hub.subscribe(&name, &subscriber, &terms, |_| {});
        seat.taken = Some((socket, subscription.expect("subscribed")));
    }

    fn toggle(&self, seat: &mut Seat) {
        match seat.taken.take() {
            Some((socket, subscription)) => self.hub.unsubscribe(socket, subscription),
            None => self.come(seat),
        }
    }
}

/// Where a tab of a user may sit in a channel.
struct Seat {
    channel: &'static str,
    user: usize,
    taken: Option<(SocketId, Subscription)>,
}

fn seats() -> Vec<Seat> {
    let users = CHANNELS.iter().flat_map(|channel| (0..USERS).map(move |user| (*channel, user)));
    users.flat_map(|(channel, user)| (0..TABS).map(move |_| Seat { channel, user, taken: None })).collect()
}

/// Follows what is told and holds it to the rules; ends with what is the case, as far as was told.
#[derive(Default)]
struct Told {
    occupied: HashMap<String, bool>,
    present: HashMap<(String, String), bool>,
}

impl Told {
    fn hear(&mut self, words: &str) {
        let words: Vec<&str> = words.split(' ').collect();
        let (name, channel, user) = (words[0], words[1].to_owned(), words[2].to_owned());
        let occupied = self.occupied.entry(channel.clone()).or_default();
        match name {
            "channel_occupied" => assert!(!std::mem::replace(occupied, true), "occupied twice: {channel}"),
            "channel_vacated" => {
                assert!(std::mem::replace(occupied, false), "vacated twice: {channel}");
                let here = self.present.iter().find(|((there, _), here)| *there == channel && **here);
                assert_eq!(here, None, "vacated before its member was removed");
            }
            _ => {
                assert!(*occupied, "{name} of {user} in {channel}, which is vacant");
                let here = self.present.entry((channel, user)).or_default();
                let comes = name == "member_added";
                assert_ne!(std::mem::replace(here, comes), comes, "{words:?} twice");
            }
        }
    }

    fn expect_true(&self, seats: &[Seat]) {
        for seat in seats {
            let here = |other: &&Seat| other.channel == seat.channel && other.taken.is_some();
            let is_occupied = seats.iter().any(|other| here(&other));
            assert_eq!(self.occupied.get(seat.channel).copied().unwrap_or_default(), is_occupied);
            if seat.channel.starts_with("presence-") {
                let is_present = seats.iter().any(|other| here(&other) && other.user == seat.user);
                let key = (seat.channel.to_owned(), seat.user.to_string());
                assert_eq!(self.present.get(&key).copied().unwrap_or_default(), is_present, "{key:?}");
            }
        }
    }
}

/// Ten minutes of comings and goings, many of them at the very end of the delay.
async fn churn(seed: u64) -> usize {
    let (stage, mut random, mut seats) = (Stage::new(DELAY), Random(seed), seats());
    let departures = stage.departures();
    let (mut told, mut heard) = (Told::default(), 0);
    let end = Instant::now() + Duration::from_secs(600);
    while Instant::now() < end {
        // Now and then everybody goes at once, so that channels are vacated.
        let crowd = if random.below(20) == 0 { seats.len() } else { 1 };
        for _ in 0..crowd {
            let seat = random.below(seats.len());
            if crowd == 1 || seats[seat].taken.is_some() {
                stage.toggle(&mut seats[seat]);
            }
        }
        let pause = [0, 1, 10, 200, 1_000, 2_999, 3_000, 3_001, 7_000][random.below(9)];
        tokio::time::sleep(Duration::from_millis(pause)).await;
        for words in stage.sent() {
            told.hear(&words);
            heard += 1;
        }
    }
    tokio::time::sleep(DELAY).await;
    tokio::task::yield_now().await;
    stage.sent().iter().for_each(|words| told.hear(words));
    told.expect_true(&seats);
    assert_eq!(stage.webhooks.departures(), 0);
    departures.abort();
    heard
}

#[tokio::test(start_paused = true)]
async fn whatever_the_churn_what_is_told_is_in_turns_and_true_in_the_end() {
    let mut kinds = 0;
    for seed in 1..=16_u64 {
        kinds += churn(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)).await;
    }
    assert!(kinds > 1000, "only {kinds} events: the churn shows nothing");
}

/// The same from several threads at once, with a delay that ends all the time.
#[tokio::test(flavor = "multi_thread")]
async fn comings_and_goings_on_many_threads_are_told_in_turns() {
    let stage = Arc::new(Stage::new(Duration::from_micros(50)));
    let departures = stage.departures();
    let threads: Vec<_> = (0..TABS)
        .map(|thread| {
            let stage = Arc::clone(&stage);
            tokio::task::spawn_blocking(move || {
                let (mut random, mut seats) = (Random(thread as u64 + 1), seats());
                for _ in 0..20_000 {
                    let seat = random.below(seats.len());
                    stage.toggle(&mut seats[seat]);
                    if random.below(10) == 0 {
                        seats
                            .iter_mut()
                            .filter(|seat| seat.taken.is_some())
                            .for_each(|seat| stage.toggle(seat));
                    }
                }
                seats
            })
        })
        .collect();
    let (mut all, mut told) = (Vec::new(), Told::default());
    for thread in threads {
        all.extend(thread.await.expect("no panic"));
    }
    stage.app().hurry();
    while stage.webhooks.departures() > 0 {
        tokio::task::yield_now().await;
    }
    let sent = stage.sent();
    sent.iter().for_each(|words| told.hear(words));
    told.expect_true(&all);
    assert!(sent.iter().any(|words| words.starts_with("channel_vacated")), "nothing was vacated");
    departures.abort();
}

/// Nothing of it is delivered, and the request never ends.
#[tokio::test(start_paused = true)]
async fn departures_wait_for_room_but_not_at_an_endpoint_that_hangs() {
    let stage = Stage::bounded(DELAY, 8);
    let departures = stage.departures();
    stage.crowd_leaves(100);
    tokio::time::sleep(DELAY + Duration::from_millis(1)).await;
    assert_eq!((stage.webhooks.departures(), stage.dropped()), (94, 0), "a quarter is kept free");
    let Next::Batch(batch) = stage.endpoint().take(true) else { panic!("nothing to send") };
    tokio::time::sleep(HELD_CHECK).await;
    assert_eq!((batch.len(), stage.webhooks.departures(), stage.dropped()), (6, 88, 0));
    stage.note("c-99", Fact::Occupied);
    assert_eq!(stage.webhooks.departures(), 87, "it has never been away");
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!((stage.webhooks.departures(), stage.dropped()), (0, 93 - 8));
    departures.abort();
}

/// Others are told no later than that.
#[tokio::test(start_paused = true)]
async fn departures_wait_for_a_slow_endpoint_no_longer_than_so() {
    let stage = Stage::bounded(DELAY, 8);
    let departures = stage.departures();
    stage.crowd_leaves(1_000);
    let left = async || {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let _ = stage.endpoint().take(true);
        stage.webhooks.departures()
    };
    tokio::time::sleep(DELAY).await;
    for _ in 0..29 {
        assert!(left().await > 500 && stage.dropped() == 0);
    }
    left().await;
    assert_eq!(left().await, 0);
    departures.abort();
}

#[tokio::test]
async fn whoever_misses_a_cache_is_told_again_when_the_telling_was_lost() {
    let stage = Stage::bounded(DELAY, 1);
    stage.note("cache-a", Fact::CacheMiss);
    stage.note("cache-a", Fact::CacheMiss);
    assert_eq!(stage.dropped(), 0);
    stage.note("cache-b", Fact::CacheMiss);
    assert_eq!((stage.dropped(), stage.webhooks.misses()), (1, 1));
    assert_eq!(stage.sent(), ["cache_miss cache-b "]);
    stage.note("cache-a", Fact::CacheMiss);
    assert_eq!(stage.sent(), ["cache_miss cache-a "]);
}

/// They were once counted as under way for ever, and a stop waited for them.
#[tokio::test]
async fn events_that_a_panic_took_are_counted_as_lost() {
    let stage = Stage::new(DELAY);
    stage.note("c", Fact::Occupied);
    assert!(matches!(stage.endpoint().take(true), Next::Batch(_)));
    assert_eq!((stage.endpoint().unsent(), stage.dropped()), (1, 0));
    let running = tokio::spawn(stage.endpoint().run(Arc::clone(&stage.webhooks.sender)));
    tokio::task::yield_now().await;
    assert_eq!((stage.endpoint().unsent(), stage.dropped()), (0, 1));
    running.abort();
}

/// What found no room was once forgotten, and counted as sent again.
#[tokio::test]
async fn a_replay_leaves_what_has_no_room_on_the_list() {
    let stage = Stage::bounded(DELAY, 8);
    for number in 0..10 {
        let event = Bytes::from(format!("{number}"));
        let (app, url, reason) = (AppId::from("1"), "http://x/".into(), "down".into());
        let endpoint = Arc::clone(stage.endpoint().place());
        let failed = failed::FailedEvent { app, endpoint, url, event, created_ms: 0, attempts: 1, reason };
        stage.webhooks.sender.failed.add(failed);
    }
    let selection = Selection::default();
    assert_eq!((stage.webhooks.replay(&selection), stage.webhooks.failed_len()), (6, 4));
    assert_eq!(stage.sent(), ["0", "1", "2", "3", "4", "5"]);
    assert_eq!((stage.webhooks.replay(&selection), stage.webhooks.failed_len()), (4, 0));
    assert_eq!((stage.sent().len(), stage.dropped()), (4, 0));
}
