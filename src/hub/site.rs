//! The hub as the cluster's engine sees it.

use std::sync::Arc;

use super::channel::Channel;
use super::notice::Fact;
use super::users::User;
use super::{AppHub, Budget, Hub, Shared};
use crate::cluster::{self, Change, Order, Received, Share, Site, Topic, Waiting, Written};
use crate::model::app::AppId;
use crate::model::channel::ChannelName;
use crate::model::member::UserId;

impl Site for Hub {
    fn topics(&self, visit: &mut dyn FnMut(Topic)) {
        self.each_app(|id, app| {
            let channels: Vec<_> = app.channels.iter().map(|entry| entry.key().clone()).collect();
            channels.into_iter().for_each(|name| visit(Topic::Channel(Arc::clone(id), name)));
            let users: Vec<_> = app.users.iter().map(|entry| Arc::clone(entry.key())).collect();
            users.into_iter().for_each(|user| visit(Topic::User(Arc::clone(id), user)));
        });
    }

    fn share(&self, topic: &Topic, whole: bool) -> Share {
        let stamp = self.shared.next_stamp();
        let (Topic::Channel(id, _) | Topic::User(id, _)) = topic;
        let Some(app) = self.known(id) else { return Share { stamp, ..Share::default() } };
        match topic {
            Topic::Channel(_, name) => app.share(name, stamp, whole),
            Topic::User(_, user) => app.share_user(user, stamp, whole),
        }
    }

    fn written(&self, topic: &Topic, written: Written) {
        match self.find(topic) {
            Some(Found::Channel(app, channel)) => {
                let idle = channel.written(&app, written);
                self.shared.start(idle, &mut Budget::none());
                self.shared.cache.evict();
            }
            Some(Found::User(app, user)) if user.written(&self.shared, written) => app.touch_user(user.id()),
            _ => {}
        }
    }

    fn changed(&self, topic: &Topic, change: Change) {
        match self.find(topic) {
            Some(Found::Channel(app, channel)) => {
                let idle = channel.changed(&app, change);
                self.shared.start(idle, &mut Budget::one_chunk());
            }
            Some(Found::User(app, user)) if user.changed(&self.shared, change) => app.touch_user(user.id()),
            _ => {}
        }
    }

    fn received(&self, app: &AppId, received: Received) {
        let Some(app) = self.known(app) else { return };
        let channel = app.channels.get(&received.event.channel).map(|channel| Arc::clone(&channel));
        let Some(channel) = channel else { return };
        let is_cached = received.cached.is_some();
        let idle = channel.receive(&app, received);
        self.shared.start(idle, &mut Budget::one_chunk());
        if is_cached {
            self.shared.cache.evict();
        }
    }

    fn space<'a>(&'a self, topic: &'a Topic) -> Waiting<'a, ()> {
        Box::pin(async move {
            let has_space = || match self.find(topic) {
                Some(Found::Channel(_, channel)) => channel.has_space(self.shared.bounds.max_queue_bytes()),
                _ => true,
            };
            if !has_space() {
                self.shared.space.wait_until(has_space).await;
            }
        })
    }

    fn space_made(&self) {
        self.shared.space.made();
    }

    fn told(&self, topic: &Topic, fact: cluster::Fact) {
        let Topic::Channel(id, name) = topic else { return };
        if let Some(app) = self.known(id)
            && let Some(observer) = app.observer.get()
        {
            observer.tell(name, Fact::from(fact));
        }
    }

    fn ordered(&self, app: &AppId, order: Order) {
        let Some(app) = self.known(app) else { return };
        match order {
            Order::Terminate(user) => {
                tokio::spawn(async move { app.terminate_here(&user).await });
            }
        }
    }

    fn cut_off(&self, concerned: &dyn Fn(&Topic) -> bool) {
        let mut topics = Vec::new();
        self.topics(&mut |topic| topics.extend(Some(topic).filter(|topic| concerned(topic))));
        for topic in topics {
            match self.find(&topic) {
                Some(Found::Channel(app, channel)) => {
                    let idle = channel.cut_off(&app);
                    self.shared.start(idle, &mut Budget::none());
                    app.give_back(channel.name());
                }
                Some(Found::User(app, user)) => {
                    user.cut_off(&self.shared);
                    app.give_back_user(user.id());
                }
                None => {}
            }
        }
    }
}

/// What a topic is about, as far as this node has it.
enum Found {
    Channel(Arc<AppHub>, Arc<Channel>),
    User(Arc<AppHub>, Arc<User>),
}

impl Hub {
    fn find(&self, topic: &Topic) -> Option<Found> {
        Some(match topic {
            Topic::Channel(id, name) => {
                let app = self.known(id)?;
                let channel = Arc::clone(app.channels.get(name)?.value());
                Found::Channel(app, channel)
            }
            Topic::User(id, user) => {
                let app = self.known(id)?;
                let user = Arc::clone(app.users.get(user)?.value());
                Found::User(app, user)
            }
        })
    }
}

impl AppHub {
    /// A channel that is vacant is removed here: its last share says so.
    fn share(&self, name: &ChannelName, stamp: u64, whole: bool) -> Share {
        let Some(channel) = self.channels.get(name).map(|channel| Arc::clone(&channel)) else {
            return Share { stamp, ..Share::default() };
        };
        let share = channel.share(self, stamp, whole);
        let Shared { agenda, cache, .. } = &*self.shared;
        let cache = (!self.decides_alone(|| self.topic(name))).then_some(cache);
        let removed = self.channels.remove_if(name, |_, channel| channel.retire(agenda, cache));
        if removed.is_some() { Share { listens: false, count: 0, snapshot: false, ..share } } else { share }
    }

    /// The same for users.
    fn share_user(&self, id: &UserId, stamp: u64, whole: bool) -> Share {
        let Some(user) = self.users.get(id).map(|user| Arc::clone(&user)) else {
            return Share { stamp, ..Share::default() };
        };
        let share = user.share(stamp, whole);
        let removed = self.users.remove_if(id, |_, user| user.retire(&self.shared.agenda));
        if removed.is_some() { Share { listens: false, count: 0, snapshot: false, ..share } } else { share }
    }
}

impl From<cluster::Fact> for Fact {
    fn from(fact: cluster::Fact) -> Self {
        match fact {
            cluster::Fact::Occupied => Self::Occupied,
            cluster::Fact::Vacated => Self::Vacated,
            cluster::Fact::MemberAdded(user) => Self::MemberAdded(user),
            cluster::Fact::MemberRemoved(user) => Self::MemberRemoved(user),
            cluster::Fact::CacheMiss => Self::CacheMiss,
            cluster::Fact::Counted(count) => Self::Counted(count),
        }
    }
}
