//! What the hub answers about itself. Every answer is read from the live tables; where nodes are joined,
//! the engine answers for all of them, and this node alone only while the engine is away.

use std::sync::Arc;
use std::time::Duration;

use super::{AppHub, Hub};
use crate::cluster::{Engine, Seen, Tally};
use crate::model::channel::ChannelName;
use crate::model::event::Body;
use crate::model::member::UserId;
use crate::model::quoted::Quoted;

/// How many are in a channel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sockets.
    pub subscriptions: usize,
    /// Distinct users.
    pub users: usize,
}

/// What a cache channel keeps.
#[derive(Debug, Clone)]
pub struct CachedEvent {
    /// The payload of the last event.
    pub data: Quoted,
    /// How long it is still kept.
    pub ttl: Duration,
}

impl AppHub {
    /// How many are in a channel, on all nodes; nobody is in one that does not exist.
    pub async fn counts(&self, name: &ChannelName) -> Counts {
        match self.look(name, false).await {
            Some(seen) => Counts { subscriptions: seen.subscriptions, users: seen.user_count },
            None => self.channels.get(name).map_or_else(Counts::default, |channel| counts(&channel)),
        }
    }

    /// The channels with at least one subscriber on any node whose names begin with `prefix`, by name.
    /// Those of users are not listed. Users are counted only if `users` is set.
    pub async fn occupied(&self, prefix: &str, users: bool) -> Vec<(ChannelName, Counts)> {
        let mut occupied = match self.occupied_anywhere(prefix, users).await {
            Some(occupied) => occupied,
            None => self.channels.iter().map(|entry| (entry.key().clone(), counts(&entry))).collect(),
        };
        occupied.retain(|(name, counts)| {
            name.kind().is_listed() && counts.subscriptions > 0 && name.as_str().starts_with(prefix)
        });
        occupied.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        occupied
    }

    /// The users present in a channel, on whatever node.
    pub async fn members(&self, name: &ChannelName) -> Vec<UserId> {
        if let Some(mut seen) = self.look(name, true).await {
            seen.users.sort_unstable();
            return seen.users;
        }
        let Some(channel) = self.channels.get(name).map(|channel| Arc::clone(&channel)) else {
            return Vec::new();
        };
        channel.look(|_, members, _| {
            members.map_or_else(Vec::new, |members| members.users().map(|(id, _)| Arc::clone(id)).collect())
        })
    }

    /// The event that a cache channel keeps, if its time is not over.
    pub async fn cached(&self, name: &ChannelName) -> Option<CachedEvent> {
        let (event, ttl) = match self.look(name, false).await {
            Some(seen) => seen.cached?,
            None => {
                let channel = self.channels.get(name).map(|channel| Arc::clone(&channel))?;
                channel.look(|_, _, cached| cached?.left())?
            }
        };
        let Body::Message { data, .. } = event.body else { return None };
        Some(CachedEvent { data, ttl })
    }

    /// What all nodes together know of a channel, this one's latest included; `None` when this node is
    /// alone.
    async fn look(&self, name: &ChannelName, users: bool) -> Option<Seen> {
        if self.decides_alone(|| self.topic(name)) {
            return None;
        }
        let topic = self.topic(name);
        self.shared.engine.settled(&topic).await;
        self.shared.engine.look(&topic, users).await.ok()
    }

    async fn occupied_anywhere(&self, prefix: &str, users: bool) -> Option<Vec<(ChannelName, Counts)>> {
        if !self.shared.is_joined {
            return None;
        }
        let occupied = self.shared.engine.occupied(&self.id, prefix, users).await.ok()?;
        let counts = |tally: Tally| Counts { subscriptions: tally.subscriptions, users: tally.users };
        Some(occupied.into_iter().map(|(name, tally)| (name, counts(tally))).collect())
    }

    /// Waits until the other nodes' newcomers find what has been published in cache channels.
    pub async fn settle(&self, channels: &[ChannelName]) {
        for name in channels.iter().filter(|name| self.shared.is_joined && name.kind().cache) {
            self.shared.engine.settled(&self.topic(name)).await;
        }
    }

    /// How many listed channels are occupied by sockets of this node, and the sums of what is in them.
    pub fn totals(&self) -> (usize, Counts) {
        let (mut channels, mut sum) = (0, Counts::default());
        for entry in self.channels.iter().filter(|entry| entry.key().kind().is_listed()) {
            let (subscriptions, users) = entry.counts_here();
            channels += usize::from(subscriptions > 0);
            sum.subscriptions += subscriptions;
            sum.users += users;
        }
        (channels, sum)
    }
}

/// How many entries the hub's tables have. All are 0 when nobody is left and nothing is cached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tables {
    /// Channels, those of users included.
    pub channels: usize,
    /// Users who are signed in or watched.
    pub users: usize,
    /// Things to do later.
    pub jobs: usize,
}

impl Hub {
    /// The engine that joins this node to others.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.shared.engine
    }

    /// The size of the tables, over all apps.
    pub fn tables(&self) -> Tables {
        let mut tables = Tables { jobs: self.shared.agenda.len(), ..Tables::default() };
        self.each_app(|_, app| {
            tables.channels += app.channels.len();
            tables.users += app.users.len();
        });
        tables
    }

    /// How many events are cached, and their bytes.
    pub fn cache_size(&self) -> (usize, usize) {
        self.shared.cache.size()
    }
}

fn counts(channel: &super::channel::Channel) -> Counts {
    channel.look(|subscriptions, members, _| Counts {
        subscriptions,
        users: members.map_or(0, super::Members::len),
    })
}
