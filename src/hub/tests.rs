//! The hub with real mailboxes, on a runtime of one thread: tasks run only where a test awaits, so
//! queues fill for certain.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::cluster::Local;
use crate::mailbox::{Backlogs, Mailbox};
use crate::model::member::Member;
use crate::model::quoted::Quoted;
use crate::model::transport::Transport;

/// Events as single bytes: the data, or `+` and `-` for members.
struct Letters;

impl Format for Letters {
    fn encode(&self, event: &Event) -> Bytes {
        match &event.body {
            Body::Message { data, .. } if data.as_bytes()[1] == b'?' => {
                panic!("an event that cannot be written")
            }
            Body::Message { data, .. } => Bytes::copy_from_slice(&data.as_bytes()[1..2]),
            Body::MemberAdded { .. } => Bytes::from_static(b"+"),
            Body::MemberRemoved { .. } => Bytes::from_static(b"-"),
            Body::SubscriptionCount { .. } => Bytes::from_static(b"#"),
        }
    }

    fn encode_watched(&self, online: &[UserId], offline: &[UserId]) -> Bytes {
        let letters = [vec![b'o'; online.len()], vec![b'x'; offline.len()]];
        letters.concat().into()
    }
}

pub(super) fn hub(max_queue_bytes: usize) -> Arc<AppHub> {
    hub_of(bounds(max_queue_bytes)).app(&AppId::from("1"))
}

fn bounds(max_queue_bytes: usize) -> Settings {
    let queue_timeout = Duration::from_millis(50);
    Settings { max_queue_bytes, queue_timeout, max_cache_bytes: 4096, refuse_when_away: false }
}

fn hub_of(settings: Settings) -> Hub {
    let formats: Formats = Arc::new([Box::new(Letters) as Box<dyn Format>]);
    Hub::new(settings, formats, Arc::default(), Arc::new(Local)).expect("randomness")
}

pub(super) async fn socket() -> (Subscriber, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("an address");
    let (far, near) = tokio::join!(TcpStream::connect(address), listener.accept());
    let near = near.expect("accept").0;
    near.writable().await.expect("writable");
    let mailbox = Mailbox::new(
        SocketId::draw().expect("an id"),
        Transport::WebSocket,
        Some(near),
        1 << 20,
        Arc::new(Backlogs::new(0)),
        0,
    );
    (Subscriber { mailbox: Arc::new(mailbox), format: FormatId(0) }, far.expect("connect"))
}

pub(super) fn name(name: &str) -> ChannelName {
    ChannelName::parse(name, 200).expect("a name")
}

fn member(user: usize) -> Terms {
    let member = Some(Member { user_id: user.to_string().into(), user_info: None });
    Terms { member, max_members: 1000, counted: false }
}

pub(super) fn subscribe(hub: &Arc<AppHub>, channel: &str, who: &Subscriber) -> Subscription {
    let mailbox = Arc::clone(&who.mailbox);
    let welcome = move |_: Result<&Snapshot<'_>, NotSubscribed>| mailbox.push(&Bytes::from_static(b"!"));
    hub.subscribe(&name(channel), who, &Terms::default(), welcome).expect("subscribed")
}

fn publish(hub: &Arc<AppHub>, channel: &str, letter: &str, budget: &mut Budget) {
    let body = Body::Message { name: Quoted::from_text("e"), data: Quoted::from_text(letter), user_id: None };
    let cache_for = Some(Duration::from_secs(60));
    hub.publish(&name(channel), Draft { origin: Origin::Api, except: None, body, cache_for }, budget);
}

/// Lets every task run, then closes the socket's end and returns all that came.
pub(super) async fn all_received(who: Subscriber, mut far: TcpStream) -> String {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let stream = who.mailbox.stream().expect("a stream");
    socket2::SockRef::from(stream).shutdown(std::net::Shutdown::Write).expect("shut down");
    let mut received = String::new();
    far.read_to_string(&mut received).await.expect("read");
    received
}

#[tokio::test]
async fn a_subscriber_gets_exactly_what_lies_between_its_subscribe_and_its_unsubscribe() {
    let hub = hub(1 << 20);
    let (who, far) = socket().await;
    publish(&hub, "a", "0", &mut Budget::none());
    let subscription = subscribe(&hub, "a", &who);
    publish(&hub, "a", "1", &mut Budget::none());
    publish(&hub, "a", "2", &mut Budget::none());
    hub.unsubscribe(who.mailbox.socket(), subscription);
    publish(&hub, "a", "3", &mut Budget::none());
    assert_eq!(all_received(who, far).await, "!12");
    assert_eq!(hub.totals().0, 0);
}

/// What was owed to the earlier subscription once came after the success of the next one.
#[tokio::test]
async fn nothing_from_before_comes_after_the_success_of_a_second_subscription() {
    let hub = hub(1 << 20);
    let (who, far) = socket().await;
    let (other, _other_far) = socket().await;
    let _stays = subscribe(&hub, "a", &other);
    let first = subscribe(&hub, "a", &who);
    publish(&hub, "a", "1", &mut Budget::none());
    hub.unsubscribe(who.mailbox.socket(), first);
    publish(&hub, "a", "2", &mut Budget::none());
    let _second = subscribe(&hub, "a", &who);
    publish(&hub, "a", "3", &mut Budget::none());
    assert_eq!(all_received(who, far).await, "!!3");
}

#[tokio::test]
async fn few_subscribers_are_delivered_to_in_place_and_keep_the_order_of_a_request() {
    let hub = hub(1 << 20);
    let (who, mut far) = socket().await;
    let _subscriptions = [subscribe(&hub, "a", &who), subscribe(&hub, "b", &who)];
    let mut budget = Budget::one_chunk();
    publish(&hub, "b", "1", &mut budget);
    publish(&hub, "a", "2", &mut budget);
    let mut received = [0; 4];
    far.read_exact(&mut received).await.expect("read");
    assert_eq!(&received, b"!!12");
}

/// Joins once went past the queue's limit, for nobody had to wait with them.
#[tokio::test]
async fn joins_that_a_channel_cannot_tell_its_members_are_refused() {
    let hub = hub(4096);
    let (who, _far) = socket().await;
    let channel = name("presence-a");
    let mut subscriptions = Vec::new();
    let (refusals, refused) = std::sync::mpsc::channel();
    for user in 0..1000 {
        let refusals = refusals.clone();
        let arrival = move |found: Result<&Snapshot<'_>, NotSubscribed>| {
            found.err().into_iter().for_each(|refusal| refusals.send(refusal).expect("heard"));
        };
        match hub.subscribe(&channel, &who, &member(user), arrival) {
            Some(subscription) => subscriptions.push(subscription),
            None => break,
        }
    }
    assert_eq!(refused.try_recv(), Ok(NotSubscribed::Busy));
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(hub.subscribe(&channel, &who, &member(1001), |_| {}).is_some(), "all is well once they are told");
}

#[tokio::test]
async fn publishers_may_publish_and_are_told_when_there_is_none() {
    let hub = hub(200);
    let (who, _far) = socket().await;
    let _subscription = subscribe(&hub, "a", &who);
    let channels = [name("a"), name("b")];
    for _ in 0..10 {
        publish(&hub, "a", "x", &mut Budget::none());
    }
    assert!(!hub.has_space(&channels[0]) && hub.has_space(&channels[1]));
    assert_eq!(hub.may_publish(&channels).await, Ok(()), "the runner makes space while we wait");
}

#[tokio::test]
async fn other_bounds_hold_at_once_also_for_publishers_that_wait() {
    let hub = hub_of(bounds(200));
    let app = hub.app(&AppId::from("1"));
    let (who, _far) = socket().await;
    let _subscription = subscribe(&app, "a", &who);
    for _ in 0..10 {
        publish(&app, "a", "x", &mut Budget::none());
        publish(&app, "cache-a", "x", &mut Budget::none());
    }
    let channels = [name("a")];
    let mut publisher = std::pin::pin!(app.may_publish(&channels));
    // The runner has no turn meanwhile: nothing else makes space.
    let mut poll = || publisher.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(poll().is_pending());
    hub.change(&Settings { max_cache_bytes: 0, ..bounds(1 << 20) });
    assert_eq!(poll(), Poll::Ready(Ok(())));
    assert_eq!(app.shared.cache.size(), (0, 0));
}

#[tokio::test]
async fn a_channel_lives_while_it_is_occupied_or_cached_and_no_longer() {
    let hub = hub(1 << 20);
    let (who, _far) = socket().await;
    hub.unsubscribe(who.mailbox.socket(), subscribe(&hub, "a", &who));
    assert_eq!(hub.channels.len(), 0);
    publish(&hub, "a", "1", &mut Budget::none());
    assert_eq!(hub.channels.len(), 0, "an event that nobody is there for leaves nothing");
    for channel in 0..100 {
        publish(&hub, &format!("cache-{channel}"), "1", &mut Budget::none());
    }
    let (events, bytes) = hub.shared.cache.size();
    assert!(bytes <= 4096 && events > 0 && hub.channels.len() == events, "{events} events, {bytes} bytes");
    assert!(
        hub.cached(&name("cache-99")).await.is_some() && hub.cached(&name("cache-0")).await.is_none(),
        "the oldest goes first"
    );
}

/// A full queue once stayed full for ever when its runner had died.
#[tokio::test]
async fn an_event_that_cannot_be_written_takes_only_itself_away() {
    let hub = hub(200);
    let (who, far) = socket().await;
    let subscription = subscribe(&hub, "a", &who);
    publish(&hub, "a", "?", &mut Budget::none());
    tokio::task::yield_now().await;
    for letter in ["1", "2", "3", "4"] {
        publish(&hub, "a", letter, &mut Budget::none());
    }
    assert_eq!(hub.may_publish(&[name("a")]).await, Ok(()));
    hub.unsubscribe(who.mailbox.socket(), subscription);
    assert_eq!(all_received(who, far).await, "!1234");
}
