//! What the hub answers about itself. Every answer is read from the live tables.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{AppHub, Hub};
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
    /// How many are in a channel; nobody is in one that does not exist.
    pub fn counts(&self, name: &str) -> Counts {
        self.channels.get(name).map_or_else(Counts::default, |channel| counts(&channel))
    }

    /// The channels with at least one subscriber whose names begin with `prefix`, by name. Those of
    /// users are not listed.
    pub fn occupied(&self, prefix: &str) -> Vec<(ChannelName, Counts)> {
        let matching = self.channels.iter().filter(|entry| {
            let name = entry.key();
            name.kind().is_listed() && name.as_str().starts_with(prefix)
        });
        let counted = matching.map(|entry| (entry.key().clone(), counts(&entry)));
        let mut occupied: Vec<_> = counted.filter(|(_, counts)| counts.subscriptions > 0).collect();
        occupied.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        occupied
    }

    /// The users present in a channel.
    pub fn members(&self, name: &str) -> Vec<UserId> {
        let Some(channel) = self.channels.get(name).map(|channel| Arc::clone(&channel)) else {
            return Vec::new();
        };
        channel.look(|_, members, _| {
            members.map_or_else(Vec::new, |members| members.users().map(|(id, _)| Arc::clone(id)).collect())
        })
    }

    /// The event that a cache channel keeps, if its time is not over.
    pub fn cached(&self, name: &str) -> Option<CachedEvent> {
        let channel = self.channels.get(name).map(|channel| Arc::clone(&channel))?;
        channel.look(|_, _, cached| {
            let cached = cached?;
            let Body::Message { data, .. } = &cached.fresh()?.event.body else { return None };
            let ttl = cached.expires.saturating_duration_since(Instant::now());
            Some(CachedEvent { data: data.clone(), ttl })
        })
    }

    /// How many listed channels are occupied, and the sums of what is in them.
    pub fn totals(&self) -> (usize, Counts) {
        let (mut channels, mut sum) = (0, Counts::default());
        for entry in self.channels.iter().filter(|entry| entry.key().kind().is_listed()) {
            let counts = counts(&entry);
            channels += usize::from(counts.subscriptions > 0);
            sum.subscriptions += counts.subscriptions;
            sum.users += counts.users;
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
