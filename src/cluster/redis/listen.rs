//! The connection that listens: what other nodes' events and changes come by.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::Redis;
use super::connection::{Batch, Connection, Gone, Lost, Reader};
use super::link::Link;
use super::message::{read_cached_event, read_change};
use super::place::topic_of;
use super::wire::Reply;
use crate::cluster::envelope::{self, Content, MAGIC};
use crate::cluster::{Received, Site, Topic, Version};

/// What all nodes are told to do.
pub(super) const ORDERS: &str = "orders";
/// There is something new to tell.
pub(super) const NUDGE: &str = "nudge";
/// How long an event waits for space in its channel.
const PATIENCE: Duration = Duration::from_secs(5);
/// Channels without space that are remembered; others are waited for each time.
const MOST_STUCK: usize = 1024;
/// Requests that wait to be sent, and as many that are not answered; who has another waits.
const WAITING: usize = 64;

enum Kind {
    Listen,
    Unlisten,
    Ping,
}

struct Request {
    kind: Kind,
    channels: Vec<String>,
    done: oneshot::Sender<()>,
}

/// Says what to listen to.
pub(super) struct Listener(mpsc::Sender<Request>);

impl Listener {
    /// Waits until all of them are listened to.
    pub(super) async fn listen(&self, channels: Vec<String>) -> Result<(), Gone> {
        self.ask(Kind::Listen, channels).await?.await.map_err(|_| Gone)
    }

    /// Does not wait until it is done.
    pub(super) async fn unlisten(&self, channels: Vec<String>) -> Result<(), Gone> {
        self.ask(Kind::Unlisten, channels).await.map(drop)
    }

    /// Has the connection tried, without waiting for it: it is lost if there is no answer.
    pub(super) fn ping(&self) {
        let (done, _) = oneshot::channel();
        // With so many that wait, it is being tried already.
        let _ = self.0.try_send(Request { kind: Kind::Ping, channels: vec![String::new()], done });
    }

    async fn ask(&self, kind: Kind, channels: Vec<String>) -> Result<oneshot::Receiver<()>, Gone> {
        let (done, waiting) = oneshot::channel();
        self.0.send(Request { kind, channels, done }).await.map_err(|_| Gone)?;
        Ok(waiting)
    }
}

pub(super) struct Hearing {
    connection: Connection,
    requests: mpsc::Receiver<Request>,
    limit: Duration,
}

pub(super) fn listener(connection: Connection, limit: Duration) -> (Listener, Hearing) {
    let (sender, requests) = mpsc::channel(WAITING);
    (Listener(sender), Hearing { connection, requests, limit })
}

impl Hearing {
    /// Works until the connection is lost.
    pub(super) async fn hear(self, engine: Arc<Redis>, link: Arc<Link>) -> Lost {
        let Some(site) = engine.site.get().cloned() else { return "there is no node".to_owned() };
        let Self { connection: Connection { reader, mut writer }, mut requests, limit } = self;
        let (sent, unanswered) = mpsc::channel::<Request>(WAITING);
        let write = async {
            while let Some(request) = requests.recv().await {
                let mut batch = Batch::default();
                let command = match request.kind {
                    Kind::Listen => &b"SSUBSCRIBE"[..],
                    Kind::Unlisten => b"SUNSUBSCRIBE",
                    Kind::Ping => b"PING",
                };
                // One by one: they need not be in the same slot.
                request.channels.iter().for_each(|channel| batch.push(&[command, channel.as_bytes()]));
                if sent.send(request).await.is_err() {
                    break;
                }
                if let Err(lost) = writer.send(batch.bytes()).await {
                    return lost;
                }
            }
            "nobody needs it".to_owned()
        };
        let mut ears = Ears {
            reader,
            unanswered,
            front: None,
            limit,
            engine: &engine,
            link: &link,
            site: &*site,
            stuck: HashSet::new(),
        };
        tokio::select! {
            lost = write => lost,
            lost = ears.hear() => lost,
        }
    }
}

fn counted(request: Request) -> (Request, usize) {
    let answers = request.channels.len();
    (request, answers)
}

struct Ears<'a> {
    reader: Reader,
    unanswered: mpsc::Receiver<Request>,
    /// What is answered next, and how many answers it still takes.
    front: Option<(Request, usize)>,
    limit: Duration,
    engine: &'a Redis,
    link: &'a Link,
    site: &'a dyn Site,
    /// Topics that had no space in time.
    stuck: HashSet<Topic>,
}

impl Ears<'_> {
    async fn hear(&mut self) -> Lost {
        loop {
            let reply = match self.next().await {
                Ok(reply) => reply,
                Err(lost) => return lost,
            };
            let heard = match reply {
                Reply::Push(parts) => self.pushed(&parts).await,
                Reply::Error(error) => Err(error),
                _ => self.answered(&Kind::Ping),
            };
            if let Err(lost) = heard {
                return lost;
            }
        }
    }

    async fn next(&mut self) -> Result<Reply, Lost> {
        loop {
            if self.front.is_none() {
                self.front = self.unanswered.try_recv().ok().map(counted);
            }
            if self.front.is_some() {
                let next = timeout(self.limit, self.reader.next()).await;
                return next.map_err(|_| "no answer in time".to_owned())?;
            }
            tokio::select! {
                biased;
                request = self.unanswered.recv() => match request {
                    Some(request) => self.front = Some(counted(request)),
                    None => return Err("nobody needs it".to_owned()),
                },
                reply = self.reader.next() => return reply,
            }
        }
    }

    fn answered(&mut self, kind: &Kind) -> Result<(), Lost> {
        let same = |request: &Request| std::mem::discriminant(&request.kind) == std::mem::discriminant(kind);
        match self.front.take() {
            Some((request, 1)) if same(&request) => {
                // Not everybody waits.
                let _ = request.done.send(());
            }
            Some((request, more)) if same(&request) => self.front = Some((request, more - 1)),
            // Redis itself unsubscribes, too: from what it has given to another master.
            _ if matches!(kind, Kind::Unlisten) => return Err("partitions have moved".to_owned()),
            _ => return Err("it answers what was not asked".to_owned()),
        }
        Ok(())
    }

    async fn pushed(&mut self, parts: &[Reply]) -> Result<(), Lost> {
        let text = |at: usize| parts.get(at).and_then(Reply::text);
        match (text(0), parts) {
            (Some("smessage"), [_, channel, payload]) => {
                self.message(&channel.bytes(), payload.bytes()).await;
                Ok(())
            }
            (Some("ssubscribe"), _) => self.answered(&Kind::Listen),
            (Some("sunsubscribe"), _) => self.answered(&Kind::Unlisten),
            _ => Ok(()),
        }
    }

    async fn message(&mut self, channel: &[u8], payload: Bytes) {
        let name = memchr::memmem::find(channel, b"}:").map_or(&[][..], |end| &channel[end + 2..]);
        if name == NUDGE.as_bytes() {
            self.link.nudge.notify_one();
        } else if name == ORDERS.as_bytes() {
            self.order(&payload);
        } else if let Some(topic) = topic_of(name) {
            self.about(&topic, payload).await;
        } else {
            self.engine.stats.bad_data("a topic that is none");
        }
    }

    async fn about(&mut self, topic: &Topic, payload: Bytes) {
        match payload.first() {
            Some(b'C') => match read_change(payload.slice(1..), |node| self.engine.is_own(node)) {
                Some(change) => self.site.changed(topic, change),
                None => {
                    self.engine.stats.bad_data("a change that cannot be read");
                    // Somebody may wait for just that one.
                    self.link.dirty.push(topic, true);
                }
            },
            Some(b'E') => match read_cached_event(payload.slice(1..)) {
                Some((version, keep, envelope)) => {
                    self.event(topic, envelope, payload.len(), Some((version, keep))).await;
                }
                None => self.engine.stats.bad_data("a cached event that cannot be read"),
            },
            Some(&MAGIC) => self.event(topic, payload.clone(), payload.len(), None).await,
            _ => self.engine.stats.bad_data("a message of an unknown kind"),
        }
    }

    async fn event(&mut self, topic: &Topic, bytes: Bytes, size: usize, cached: Option<(Version, Duration)>) {
        let envelope = match envelope::open(&bytes) {
            Ok(envelope) => envelope,
            Err(bad) => return self.engine.stats.bad_data(&bad.to_string()),
        };
        let own = self.engine.is_own(envelope.node);
        let Content::Event(event) = envelope.content else {
            return self.engine.stats.bad_data("an order where events are");
        };
        if !matches!(topic, Topic::Channel(app, name) if *app == envelope.app && *name == event.channel) {
            return self.engine.stats.bad_data("an event in another's topic");
        }
        if own && cached.is_none() {
            return;
        }
        if !own {
            self.engine.stats.received(size);
            if !self.has_space(topic).await {
                return self.engine.stats.dropped(1);
            }
        }
        self.site.received(&envelope.app, Received { event, own, cached });
    }

    /// Waits for space in a channel, so that nothing more is read meanwhile. Where there was none in
    /// time, the next event does not hold up the other channels again.
    async fn has_space(&mut self, topic: &Topic) -> bool {
        let patience = if self.stuck.contains(topic) { Duration::ZERO } else { PATIENCE };
        let has = timeout(patience, self.site.space(topic)).await.is_ok();
        if has {
            self.stuck.remove(topic);
        } else if self.stuck.len() < MOST_STUCK {
            self.stuck.insert(topic.clone());
        }
        has
    }

    fn order(&self, bytes: &Bytes) {
        match envelope::open(bytes) {
            Ok(envelope) if self.engine.is_own(envelope.node) => {}
            Ok(envelope::Envelope { app, content: Content::Order(order), .. }) => {
                self.site.ordered(&app, order)
            }
            Ok(_) => self.engine.stats.bad_data("an event where orders are"),
            Err(bad) => self.engine.stats.bad_data(&bad.to_string()),
        }
    }
}

/// Has the connection hear when there is something to tell in these partitions.
pub(super) async fn hear_nudges(engine: &Redis, link: &Link, partitions: u32) -> Result<(), Gone> {
    let named = link.partitions.iter().filter(|&&p| partitions & 1 << p != 0);
    let channels: Vec<String> = named.map(|&p| format!("{}:{NUDGE}", engine.tags[p])).collect();
    if !channels.is_empty() {
        link.listener.listen(channels).await?;
    }
    Ok(())
}
