//! A node's own cached events are cached here at once, and numbered by the engine a moment later. Until
//! then events that come from the engine are older: they must not take the place of the own one, which
//! nobody would hear again who comes now.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::joint::Joint;
use super::{Channel, State};
use crate::hub::AppHub;
use crate::hub::format::Published;
use crate::model::event::EventId;

/// The newest of the own cached events, while it has not come back from the engine.
pub(super) struct Ahead {
    id: EventId,
    since: Instant,
    /// What the engine has cached meanwhile.
    behind: Option<(Arc<Published>, Duration)>,
}

impl Joint {
    /// The cached event has been forgotten here, though the engine may still have it.
    pub(super) fn forget_cached(&mut self) {
        self.forgot_cached = true;
    }
}

impl State {
    /// An own event is cached, and will come back.
    pub(super) fn run_ahead(&mut self, id: EventId) {
        let is_deserted = self.is_deserted();
        let Some(joint) = self.joint.as_deref_mut() else { return };
        // Nobody listens for it otherwise; whoever comes then is told by the engine.
        if joint.following.is_live() || !is_deserted {
            let behind = joint.ahead.take().and_then(|ahead| ahead.behind);
            joint.ahead = Some(Ahead { id, since: Instant::now(), behind });
        }
    }

    /// The engine has been given everything that was published here before `told`, and says what is
    /// cached after that.
    pub(super) fn catch_up(&mut self, told: Instant) {
        if let Some(joint) = &mut self.joint {
            joint.ahead.take_if(|ahead| ahead.since <= told);
        }
    }
}

impl Channel {
    /// An own event has come back from the engine.
    pub(super) fn come_back(&self, state: &mut State, app: &Arc<AppHub>, id: EventId) {
        let Some(joint) = state.joint.as_deref_mut() else { return };
        let ahead = joint.ahead.take_if(|ahead| ahead.id == id);
        // What is not live is told by a snapshot.
        let behind = ahead.and_then(|ahead| ahead.behind).filter(|_| joint.following.is_live());
        if let Some((published, ttl)) = behind {
            self.keep(state, app, &published, ttl);
        }
    }

    /// Caches what the engine has cached, when its turn comes.
    pub(super) fn keep_in_turn(
        &self,
        state: &mut State,
        app: &Arc<AppHub>,
        published: Arc<Published>,
        ttl: Duration,
    ) {
        match state.joint.as_deref_mut().and_then(|joint| joint.ahead.as_mut()) {
            Some(ahead) => ahead.behind = Some((published, ttl)),
            None => self.keep(state, app, &published, ttl),
        }
    }
}
