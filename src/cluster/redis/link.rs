//! A link: what serves the partitions that one master keeps, from its connections to their loss.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::connection::{Caller, Gone, Lost, shared};
use super::dirty::Dirty;
use super::keep::Unsettled;
use super::listen::{Listener, ORDERS, listener};
use super::outbox::Outbox;
use super::place::partition_of;
use super::reap::Graves;
use super::scripts::{Scripts, run};
use super::{Redis, flush, keep, publish, reap, tell};
use crate::cluster::{NodeId, Topic};

/// Names that a node has had in a partition, beyond which the oldest are left to be withdrawn.
const FORMER: usize = 4;

pub(super) struct Link {
    /// What the node is called here.
    pub(super) node: NodeId,
    /// The same as text.
    pub(super) name: String,
    pub(super) partitions: Vec<usize>,
    pub(super) scripts: Scripts,
    /// For everything but events.
    pub(super) caller: Caller,
    pub(super) listener: Listener,
    pub(super) dirty: Dirty,
    pub(super) outbox: Outbox,
    /// What the node was called, to be replaced: for each of `partitions`, by commas.
    pub(super) former: Mutex<Vec<String>>,
    /// The world that the node knew before, of each of `partitions`; empty if it knew none.
    pub(super) knew: Mutex<Vec<String>>,
    /// Topics that are listened to.
    pub(super) listening: AtomicUsize,
    /// A bit for each partition whose facts this node tells.
    pub(super) telling: AtomicU32,
    /// There is something to tell.
    pub(super) nudge: Notify,
    pub(super) graves: Graves,
    pub(super) unsettled: Mutex<Unsettled>,
    /// The node leaves: the lease is not renewed any more.
    pub(super) stopped: AtomicBool,
    /// Ends the link.
    pub(super) stop: Notify,
}

impl Link {
    fn new(
        node: NodeId,
        partitions: Vec<usize>,
        scripts: Scripts,
        caller: Caller,
        listener: Listener,
    ) -> Self {
        Self {
            node,
            name: format!("{:016x}", node.0),
            former: Mutex::new(vec![String::new(); partitions.len()]),
            knew: Mutex::default(),
            partitions,
            scripts,
            caller,
            listener,
            dirty: Dirty::new(),
            outbox: Outbox::new(),
            listening: AtomicUsize::new(0),
            telling: AtomicU32::new(0),
            nudge: Notify::new(),
            graves: Graves::default(),
            unsettled: Mutex::default(),
            stopped: AtomicBool::new(false),
            stop: Notify::new(),
        }
    }

    pub(super) fn serves(&self, topic: &Topic) -> bool {
        self.partitions.contains(&partition_of(topic))
    }

    /// What the node was called in a partition, by commas.
    pub(super) fn former_in(&self, partition: usize) -> String {
        let at = self.partitions.iter().position(|&p| p == partition);
        at.and_then(|at| self.former.lock().get(at).cloned()).unwrap_or_default()
    }

    /// The world that the node knew before in a partition, or nothing.
    pub(super) fn knew_in(&self, partition: usize) -> String {
        let at = self.partitions.iter().position(|&p| p == partition);
        at.and_then(|at| self.knew.lock().get(at).cloned()).unwrap_or_default()
    }

    /// Waits until everything touched and published until now is answered, or the link is lost.
    pub(super) fn settled(self: Arc<Self>, limit: Duration) -> impl Future<Output = ()> + Send {
        let (touched, published) = (self.dirty.pushed(), self.outbox.pushed());
        let (mut writing, mut publishing) = (self.dirty.progress(), self.outbox.progress());
        async move {
            let both = async {
                let _ = writing.wait_for(|&done| done >= touched).await;
                let _ = publishing.wait_for(|&done| done >= published).await;
            };
            tokio::select! {
                // Either way the caller goes on: an engine that does not answer is lost by then.
                _ = timeout(limit, both) => {}
                () = self.caller.lost() => {}
            }
        }
    }
}

/// How a link has ended.
pub(super) struct Ended {
    pub(super) why: Lost,
    /// It had been made.
    pub(super) was_up: bool,
}

/// Makes a link and serves it until it is lost.
pub(super) async fn serve(engine: Arc<Redis>, server: (String, u16), partitions: Vec<usize>) -> Ended {
    let mut tasks = JoinSet::new();
    let limit = engine.access.timeout;
    let opened = timeout(limit * 10, open(&engine, &server, partitions, &mut tasks)).await;
    let (link, publisher) = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(why)) => return Ended { why, was_up: false },
        Err(_) => return Ended { why: "it takes too long to connect".to_owned(), was_up: false },
    };
    engine.open(&link);
    tasks.spawn(flush::flush(engine.clone(), link.clone()));
    tasks.spawn(publish::publish(engine.clone(), link.clone(), publisher.clone()));
    tasks.spawn(keep::keep(engine.clone(), link.clone(), publisher));
    tasks.spawn(reap::reap(engine.clone(), link.clone()));
    tasks.spawn(tell::tell(engine.clone(), link.clone()));
    let why = tokio::select! {
        () = link.stop.notified() => "this node leaves".to_owned(),
        why = first_end(&mut tasks) => why,
    };
    engine.close(&link, &format!("{}:{}: {why}", server.0, server.1));
    // Nothing of it goes on when the next link is made.
    tasks.shutdown().await;
    Ended { why, was_up: true }
}

async fn first_end(tasks: &mut JoinSet<Lost>) -> Lost {
    match tasks.join_next().await {
        Some(Ok(why)) => why,
        Some(Err(error)) => format!("a task has failed: {error}"),
        None => "there is nothing to do".to_owned(),
    }
}

async fn open(
    engine: &Arc<Redis>,
    server: &(String, u16),
    partitions: Vec<usize>,
    tasks: &mut JoinSet<Lost>,
) -> Result<(Arc<Link>, Caller), Lost> {
    let access = &engine.access;
    let mut write = access.connect(server).await?;
    let scripts = Scripts::load(&mut write, access).await?;
    let (publish, listen) = (access.connect(server).await?, access.connect(server).await?);
    let (caller, calling) = shared(write, access.timeout);
    let (publisher, publishing) = shared(publish, access.timeout);
    let (ears, hearing) = listener(listen, access.timeout);
    let link = Arc::new(Link::new(engine.draw(), partitions, scripts, caller, ears));
    tasks.spawn(calling);
    tasks.spawn(publishing);
    tasks.spawn(hearing.hear(engine.clone(), link.clone()));
    if engine.leaving.load(Ordering::Acquire) {
        // A name that is entered now would stand there until its lease has run out.
        return Err("this node leaves".to_owned());
    }
    tokio::select! {
        done = enter(engine, &link) => match done {
            Ok(()) => Ok((link, publisher)),
            // Whoever serves the connection says why.
            Err(Gone) => Err(first_end(tasks).await),
        },
        why = first_end(tasks) => Err(why),
    }
}

/// Enters the node in each partition, and has it hear orders.
async fn enter(engine: &Redis, link: &Link) -> Result<(), Gone> {
    register(engine, link).await?;
    let orders = link.partitions.iter().map(|&p| format!("{}:{ORDERS}", engine.tags[p]));
    link.listener.listen(orders.collect()).await
}

async fn register(engine: &Redis, link: &Link) -> Result<(), Gone> {
    let lease = flush::millis(engine.settings.lease);
    let mut batch = super::connection::Batch::default();
    let (mut replaced, mut knew) = (Vec::new(), Vec::new());
    for &partition in &link.partitions {
        let world = format!("{:016x}", getrandom::u64().unwrap_or(link.node.0));
        let former = engine.former.lock()[partition].clone();
        let (old, recent) = former.split_at(former.len().saturating_sub(FORMER));
        let (old, recent) = (names(old), names(recent));
        let known = engine.worlds.lock()[partition].clone();
        let args = [&link.name, &lease, &world, &recent, &old, &known].map(|arg| arg.as_bytes());
        run(&mut batch, &link.scripts.register, &engine.tags[partition], &args);
        replaced.push(recent);
        knew.push(known);
    }
    // Before the answer: it may be lost, and what it would have entered is to be replaced as well.
    engine.was_called(link);
    let replies = link.caller.call(batch).await?;
    for (&partition, reply) in link.partitions.iter().zip(&replies) {
        if let Some([_, world]) = reply.list() {
            engine.worlds.lock()[partition] = world.text().unwrap_or_default().to_owned();
        }
    }
    *link.former.lock() = replaced;
    *link.knew.lock() = knew;
    Ok(())
}

fn names(nodes: &[NodeId]) -> String {
    let names: Vec<String> = nodes.iter().map(|node| format!("{:016x}", node.0)).collect();
    names.join(",")
}

impl Redis {
    /// Remembers the names that a node goes by as long as they may hold something.
    fn was_called(&self, link: &Link) {
        let mut former = self.former.lock();
        for &partition in &link.partitions {
            let names = &mut former[partition];
            let old = names.len().saturating_sub(FORMER);
            names.drain(..old);
            names.push(link.node);
        }
    }

    /// The former names hold nothing any more.
    pub(super) fn is_only(&self, link: &Link) {
        let mut former = self.former.lock();
        for &partition in &link.partitions {
            former[partition].retain(|&node| node == link.node);
        }
        link.former.lock().iter_mut().for_each(String::clear);
    }

    /// A link is there.
    fn open(&self, link: &Arc<Link>) {
        let mut routes = self.routes.write();
        link.partitions.iter().for_each(|&partition| routes[partition] = Some(link.clone()));
        let complete = routes.iter().all(Option::is_some);
        drop(routes);
        if let Some(site) = self.site.get() {
            site.topics(&mut |topic| {
                if link.serves(&topic) {
                    link.dirty.push(&topic, true);
                }
            });
        }
        if complete {
            self.joined.send_replace(true);
        }
    }

    /// A link has written everything once, and listens to all of it.
    pub(super) fn caught_up(&self) {
        if self.is_whole() {
            self.stats.back(|| format!("{:?}, prefix {:?}", self.url, self.settings.prefix));
        }
    }

    /// Every partition is served, and knows what this node holds: no event of another node is missed.
    pub(super) fn is_whole(&self) -> bool {
        self.routes.read().iter().all(|link| link.as_ref().is_some_and(|link| !link.dirty.is_joining()))
    }

    /// Every partition is served.
    pub(super) fn is_reached(&self) -> bool {
        self.routes.read().iter().all(Option::is_some)
    }

    /// A link is no longer.
    fn close(&self, link: &Link, why: &str) {
        let mut routes = self.routes.write();
        link.partitions.iter().for_each(|&partition| routes[partition] = None);
        drop(routes);
        if !link.stopped.load(Ordering::Acquire) {
            self.stats.lost(why, true);
            self.stats.gaps(link.listening.load(Ordering::Relaxed) as u64);
        }
        let (events, bytes) = link.outbox.close();
        self.stats.unsent(events as u64);
        self.unqueue(bytes);
        if let Some(site) = self.site.get() {
            site.cut_off(&|topic| link.serves(topic));
        }
    }
}
