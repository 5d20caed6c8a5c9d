//! What this node holds of a channel, as the engine is to know it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::joint::Standing;
use super::{Channel, State};
use crate::cluster::{Holding, NodeId, Share, Snapshot};
use crate::hub::AppHub;
use crate::hub::cache::Cached;
use crate::model::member::UserId;

impl Channel {
    /// What this node holds. With `whole`, the engine knows nothing of it.
    pub(in crate::hub) fn share(&self, app: &AppHub, stamp: u64, whole: bool) -> Share {
        let mut state = self.state.lock();
        let cached = state.cached.as_deref().filter(|_| whole).and_then(Cached::left);
        let members = state.holdings(whole);
        let (subscribers, counted) = (state.subscribers, state.is_counted());
        let joint = state.joint.get_or_insert_default();
        joint.asked = Some(stamp);
        for newcomer in joint.newcomers.iter_mut().filter(|it| it.standing == Standing::Unknown) {
            newcomer.standing = Standing::Asked;
        }
        let count = subscribers + joint.newcomers.len();
        let known = joint.known.is_some();
        let forgotten = joint.forgot_cached && joint.has_newcomers();
        let snapshot = count > 0 && (whole || forgotten || !joint.following.is_live());
        if snapshot || count == 0 {
            // What has come until now is in the snapshot, or nobody is told anything from here on.
            joint.following.forget();
        }
        if count == 0 {
            joint.ahead = None;
        }
        let observer = app.observer.get().filter(|_| self.name.kind().is_listed());
        let told_after = observer.map(|observer| observer.departures_after());
        Share { stamp, listens: count > 0, count, members, snapshot, cached, known, told_after, counted }
    }
}

impl State {
    /// Somebody is told how many subscribers there are, or will be.
    fn is_counted(&self) -> bool {
        let newcomers = self.joint.iter().flat_map(|joint| &joint.newcomers);
        self.counting.is_some() || newcomers.into_iter().any(|newcomer| newcomer.terms.counted)
    }

    /// Members that have come or gone since the share was written last; or all there are.
    fn holdings(&mut self, whole: bool) -> Vec<Holding> {
        let joint = self.joint.get_or_insert_default();
        let mut ids = std::mem::take(&mut joint.unwritten);
        let coming = joint.newcomers.iter().filter_map(|it| Some((it.terms.member.as_ref()?, &it.terms)));
        let coming: HashMap<_, _> =
            coming.map(|(member, terms)| (&member.user_id, (member, terms))).collect();
        if whole {
            ids.extend(coming.keys().map(|id| Arc::clone(id)));
            ids.extend(self.members.iter().flat_map(|members| members.here()).map(|member| member.user_id));
        }
        let known = |id: &UserId| joint.known.as_ref().is_some_and(|known| known.contains(id));
        let holding = |id: UserId| {
            let here = self.members.as_ref().and_then(|members| members.member_here(&id));
            match (here, coming.get(&id)) {
                (Some(member), _) => Holding::Present { member, limit: None, known: known(&id) },
                (None, Some((member, terms))) => {
                    let (member, limit) = ((*member).clone(), Some(terms.max_members));
                    Holding::Present { member, limit, known: known(&id) }
                }
                (None, None) => Holding::Absent(id),
            }
        };
        ids.into_iter().map(holding).collect()
    }

    /// The members of whom the engine knows, if it knows that anybody is here. What it knew when it was
    /// lost before, and has not been told again, stays.
    pub(super) fn known_to_the_engine(&self) -> Option<HashSet<UserId>> {
        let joint = self.joint.as_ref()?;
        if joint.known.is_some() || !joint.following.is_live() {
            return joint.known.clone();
        }
        let here = self.members.iter().flat_map(|members| members.here()).map(|member| member.user_id);
        (self.subscribers > 0).then(|| here.filter(|id| !joint.unwritten.contains(id)).collect())
    }

    /// Who was known to be on other nodes and is not any more.
    pub(super) fn not_in(&self, snapshot: &Snapshot) -> Vec<(NodeId, UserId)> {
        let there: HashSet<_> =
            snapshot.members.iter().map(|(node, member)| (*node, &member.user_id)).collect();
        let known = self.members.iter().flat_map(|members| members.elsewhere());
        known.filter(|known| !there.contains(known)).map(|(node, id)| (node, Arc::clone(id))).collect()
    }
}
