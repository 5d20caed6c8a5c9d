//! Writes this node's shares, in batches: who listens does so before its share is written, and the
//! snapshot that comes back misses nothing that was told in between.

use std::collections::HashSet;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Redis;
use super::connection::{Batch, Gone, Lost};
use super::link::Link;
use super::message::read_written;
use super::place::Place;
use super::scripts::run;
use super::wire::Reply;
use crate::cluster::envelope::seal_event;
use crate::cluster::{Holding, Share, Site, Topic};

/// Topics in one batch.
const MOST: usize = 256;
/// What the scripts call a node that they do not know.
pub(super) const GONE: &str = "the engine does not know this node any more";

/// Whole milliseconds, at least one, as text.
pub(super) fn millis(duration: Duration) -> String {
    duration.as_millis().clamp(1, 1 << 52).to_string()
}

/// Works until the link is lost.
pub(super) async fn flush(engine: Arc<Redis>, link: Arc<Link>) -> Lost {
    let Some(site) = engine.site.get().cloned() else { return "there is no node".to_owned() };
    let mut flush = Flush { listened: HashSet::new(), engine, link, site };
    match flush.work().await {
        Ok(()) => "there is nothing to write".to_owned(),
        // The node has left, and tells what is left to tell: that is not to be ended.
        Err(Failed::Bad(_)) if flush.link.stopped.load(Ordering::Acquire) => pending().await,
        Err(Failed::Bad(why)) => why,
        // Whoever serves the connection says why.
        Err(Failed::Gone) => pending().await,
    }
}

struct Flush {
    engine: Arc<Redis>,
    link: Arc<Link>,
    site: Arc<dyn Site>,
    /// Topics that are listened to.
    listened: HashSet<Topic>,
}

enum Failed {
    Gone,
    Bad(Lost),
}

impl From<Gone> for Failed {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

/// A topic in a batch.
struct Writing {
    topic: Topic,
    place: Place,
    share: Share,
    whole: bool,
}

impl Flush {
    async fn work(&mut self) -> Result<(), Failed> {
        // What stands in the queue at first is everything.
        let everything = self.link.dirty.pushed();
        let mut joining = true;
        loop {
            if joining && self.link.dirty.is_written(everything) {
                joining = false;
                self.retire().await?;
            }
            let taken = self.link.dirty.take(MOST).await;
            let count = taken.len();
            let writing: Vec<Writing> =
                taken.into_iter().map(|(topic, whole)| self.ask(topic, whole)).collect();
            self.listen(&writing).await?;
            let told = self.tell_before(&writing).await;
            let mut batch = Batch::default();
            writing.iter().for_each(|writing| self.add(&mut batch, writing));
            let replies = self.link.caller.call(batch).await?;
            self.unlisten(&writing).await?;
            for (writing, reply) in writing.into_iter().zip(&replies) {
                self.done(writing, told, reply)?;
            }
            self.link.dirty.written(count);
        }
    }

    fn ask(&self, topic: Topic, whole: bool) -> Writing {
        let share = self.site.share(&topic, whole);
        Writing { place: Place::of(&topic), topic, share, whole }
    }

    fn channel(&self, place: &Place) -> String {
        format!("{}:{}", self.engine.tags[place.partition], place.name)
    }

    async fn listen(&mut self, writing: &[Writing]) -> Result<(), Failed> {
        let wanted = writing.iter().filter(|w| w.share.listens);
        let new: Vec<&Writing> = wanted.filter(|w| !self.listened.contains(&w.topic)).collect();
        if new.is_empty() {
            return Ok(());
        }
        self.link.listener.listen(new.iter().map(|w| self.channel(&w.place)).collect()).await?;
        self.listened.extend(new.iter().map(|w| w.topic.clone()));
        self.link.listening.store(self.listened.len(), Ordering::Relaxed);
        Ok(())
    }

    /// Waits until everything published until now is in Redis, if somebody is to be shown what is cached.
    /// Whatever is published later comes back, as it is listened to already.
    async fn tell_before(&self, writing: &[Writing]) -> Instant {
        let (told, published) = (Instant::now(), self.link.outbox.pushed());
        let shows = |writing: &Writing| {
            matches!(&writing.topic, Topic::Channel(_, name) if name.kind().cache) && writing.share.snapshot
        };
        if writing.iter().any(shows) {
            let mut progress = self.link.outbox.progress();
            // When the link is lost, this ends with it.
            let _ = progress.wait_for(|&answered| answered >= published).await;
        }
        told
    }

    async fn unlisten(&mut self, writing: &[Writing]) -> Result<(), Failed> {
        let unwanted = writing.iter().filter(|w| !w.share.listens);
        let old: Vec<&Writing> = unwanted.filter(|w| self.listened.remove(&w.topic)).collect();
        if old.is_empty() {
            return Ok(());
        }
        self.link.listening.store(self.listened.len(), Ordering::Relaxed);
        self.link.listener.unlisten(old.iter().map(|w| self.channel(&w.place)).collect()).await?;
        Ok(())
    }

    fn add(&self, batch: &mut Batch, writing: &Writing) {
        let Writing { topic, place, share, whole } = writing;
        let flag = |is| if is { "1" } else { "0" };
        let former = if *whole { self.link.former_in(place.partition) } else { String::new() };
        let window = millis(self.engine.settling());
        let count = share.count.to_string();
        let told = told(share);
        let cached = share.cached.as_ref().map(|(event, keep)| {
            let (Topic::Channel(app, _) | Topic::User(app, _)) = topic;
            (millis(*keep), seal_event(self.link.node, app, event))
        });
        let (keep, cached) = cached.unwrap_or_else(|| ("0".to_owned(), Vec::new()));
        let fixed =
            [&place.name, &self.link.name, &count, flag(share.listens), flag(*whole), flag(share.snapshot)];
        let mut args: Vec<&[u8]> = fixed.into_iter().map(str::as_bytes).collect();
        args.extend([told.as_bytes(), former.as_bytes(), window.as_bytes(), keep.as_bytes(), &cached]);
        let knew = if share.known { self.link.knew_in(place.partition) } else { String::new() };
        args.push(knew.as_bytes());
        let members: Vec<[String; 4]> = share.members.iter().map(member).collect();
        args.extend(members.iter().flatten().map(String::as_bytes));
        run(batch, &self.link.scripts.write, &self.engine.tags[place.partition], &args);
    }

    fn done(&self, writing: Writing, told: Instant, reply: &Reply) -> Result<(), Failed> {
        let Writing { topic, share, .. } = writing;
        let is_gone = reply.list().and_then(|parts| parts.first()?.text()) == Some("GONE");
        if is_gone {
            return Err(Failed::Bad(GONE.to_owned()));
        }
        let own = |node| self.engine.is_own(node);
        let Some(written) = read_written(reply, (share.stamp, told), &topic, own) else {
            return Err(Failed::Bad("it answers a share with what cannot be read".to_owned()));
        };
        if written.snapshot.as_ref().is_some_and(|snapshot| snapshot.settling) {
            self.link.unsettled.lock().add(topic.clone());
        }
        self.site.written(&topic, written);
        Ok(())
    }

    /// Everything is written under the node's present name: what its former ones still hold is over.
    async fn retire(&mut self) -> Result<(), Failed> {
        let mut batch = Batch::default();
        for &partition in &self.link.partitions {
            let former = self.link.former_in(partition);
            let names: Vec<&[u8]> = former.split(',').filter(|f| !f.is_empty()).map(str::as_bytes).collect();
            if !names.is_empty() {
                run(&mut batch, &self.link.scripts.retire, &self.engine.tags[partition], &names);
            }
        }
        self.link.caller.call(batch).await?;
        self.engine.is_only(&self.link);
        self.link.dirty.has_joined();
        self.engine.caught_up();
        Ok(())
    }
}

/// What is to be told of the topic, as the script takes it.
fn told(share: &Share) -> String {
    let Some(delay) = share.told_after else { return String::new() };
    format!("{}{}", delay.as_millis(), if share.counted { "n" } else { "" })
}

fn member(holding: &Holding) -> [String; 4] {
    match holding {
        Holding::Present { member, limit, known } => [
            if *known { "=" } else { "+" }.to_owned(),
            member.user_id.to_string(),
            // Nothing is not the same as an empty text.
            member.user_info.as_ref().map_or_else(|| "-".to_owned(), |info| format!("+{info}")),
            limit.map_or_else(String::new, |limit| limit.to_string()),
        ],
        Holding::Absent(user) => ["-".to_owned(), user.to_string(), String::new(), String::new()],
    }
}
