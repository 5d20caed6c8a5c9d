//! Who is present in a channel, here and on other nodes. Pure: no locks, no I/O.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cluster::NodeId;
use crate::model::member::{Member, UserId};
use crate::model::socket::SocketId;

/// The members of one presence channel, each with the sockets and the other nodes it is present on.
#[derive(Debug, Default)]
pub struct Members {
    users: BTreeMap<UserId, Present>,
    /// Those with sockets here.
    here: usize,
}

#[derive(Debug)]
struct Present {
    /// That of the user's first socket; it stands until the user leaves.
    user_info: Option<Arc<str>>,
    sockets: Vec<SocketId>,
    elsewhere: Vec<NodeId>,
}

impl Present {
    fn is_nowhere(&self) -> bool {
        self.sockets.is_empty() && self.elsewhere.is_empty()
    }
}

/// What a join meant.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Joined {
    /// The user was not here before.
    First,
    /// The user was here already, on another socket.
    Again,
    /// There are as many users as there may be.
    Full,
}

/// What a departure meant.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// The user has no other socket.
    Last,
    /// The user has no other socket on this node, but stays on another node.
    Elsewhere,
    /// The user stays, on another socket.
    Stays,
}

impl Members {
    /// Lets a member in on one more socket. Only a further user counts against `limit`.
    pub(super) fn join(&mut self, member: &Member, socket: SocketId, limit: usize) -> Joined {
        let users = self.users.len();
        if let Some(present) = self.users.get_mut(&member.user_id) {
            self.here += usize::from(present.sockets.is_empty());
            present.sockets.push(socket);
            return Joined::Again;
        }
        if users >= limit {
            return Joined::Full;
        }
        let user_info = member.user_info.clone();
        let present = Present { user_info, sockets: vec![socket], elsewhere: Vec::new() };
        self.users.insert(Arc::clone(&member.user_id), present);
        self.here += 1;
        Joined::First
    }

    /// Takes a member's socket out.
    pub(super) fn leave(&mut self, user_id: &UserId, socket: SocketId) -> Left {
        let Some(present) = self.users.get_mut(user_id) else { return Left::Stays };
        let before = present.sockets.len();
        present.sockets.retain(|&s| s != socket);
        if !present.sockets.is_empty() || before == 0 {
            return Left::Stays;
        }
        self.here -= 1;
        if !present.elsewhere.is_empty() {
            return Left::Elsewhere;
        }
        self.users.remove(user_id);
        Left::Last
    }

    /// A member is present on another node. Says whether the user was not here before.
    pub(super) fn arrive(&mut self, node: NodeId, member: &Member) -> bool {
        if let Some(present) = self.users.get_mut(&member.user_id) {
            if !present.elsewhere.contains(&node) {
                present.elsewhere.push(node);
            }
            return false;
        }
        let user_info = member.user_info.clone();
        let present = Present { user_info, sockets: Vec::new(), elsewhere: vec![node] };
        self.users.insert(Arc::clone(&member.user_id), present);
        true
    }

    /// A member is no longer present on another node. Says whether the user is nowhere then.
    pub(super) fn depart(&mut self, node: NodeId, user_id: &UserId) -> bool {
        let Some(present) = self.users.get_mut(user_id) else { return false };
        present.elsewhere.retain(|&other| other != node);
        let is_nowhere = present.is_nowhere();
        if is_nowhere {
            self.users.remove(user_id);
        }
        is_nowhere
    }

    /// The user, if it has a socket on this node.
    pub(super) fn member_here(&self, user_id: &UserId) -> Option<Member> {
        let present = self.users.get(user_id).filter(|present| !present.sockets.is_empty())?;
        Some(Member { user_id: Arc::clone(user_id), user_info: present.user_info.clone() })
    }

    /// Those with a socket on this node.
    pub(super) fn here(&self) -> impl Iterator<Item = Member> {
        let here = self.users.iter().filter(|(_, present)| !present.sockets.is_empty());
        here.map(|(id, present)| Member { user_id: Arc::clone(id), user_info: present.user_info.clone() })
    }

    /// How many they are.
    pub(super) fn len_here(&self) -> usize {
        self.here
    }

    /// On which other nodes who is present.
    pub(super) fn elsewhere(&self) -> impl Iterator<Item = (NodeId, &UserId)> {
        self.users.iter().flat_map(|(id, present)| present.elsewhere.iter().map(move |&node| (node, id)))
    }

    /// How many users are present.
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Whether nobody is.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// Each user once, with what the others are shown of it.
    pub fn users(&self) -> impl Iterator<Item = (&UserId, Option<&str>)> {
        self.users.iter().map(|(id, present)| (id, present.user_info.as_deref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: &str, info: &str) -> Member {
        Member { user_id: Arc::from(id), user_info: Some(Arc::from(info)) }
    }

    fn socket() -> SocketId {
        SocketId::draw().expect("id")
    }

    #[test]
    fn a_user_on_two_sockets_is_one_member() {
        let (mut members, one, two) = (Members::default(), socket(), socket());
        assert_eq!(members.join(&member("a", "1"), one, 10), Joined::First);
        assert_eq!(members.join(&member("a", "2"), two, 10), Joined::Again);
        assert_eq!(members.users().map(|(_, info)| info).collect::<Vec<_>>(), [Some("1")]);
        let id = UserId::from("a");
        assert_eq!(members.leave(&id, one), Left::Stays);
        assert_eq!(members.leave(&id, one), Left::Stays, "leaving twice changes nothing");
        assert_eq!(members.leave(&id, two), Left::Last);
        assert!(members.is_empty());
        assert_eq!(members.leave(&id, two), Left::Stays, "nobody left to leave");
    }

    #[test]
    fn a_user_on_two_nodes_is_one_member() {
        let (mut members, here, node) = (Members::default(), socket(), NodeId(7));
        assert!(members.arrive(node, &member("a", "1")));
        assert!(!members.arrive(node, &member("a", "1")), "arriving twice changes nothing");
        assert_eq!(members.join(&member("a", "2"), here, 1), Joined::Again);
        assert_eq!(members.len_here(), 1);
        let id = UserId::from("a");
        assert_eq!(members.leave(&id, here), Left::Elsewhere);
        assert_eq!(members.len_here(), 0);
        assert_eq!(members.elsewhere().collect::<Vec<_>>(), [(node, &id)]);
        assert!(!members.depart(NodeId(8), &id), "it was not there");
        assert!(members.depart(node, &id));
        assert!(!members.depart(node, &id));
        assert!(members.is_empty());
    }

    #[test]
    fn who_is_here_stays_when_it_has_gone_elsewhere() {
        let (mut members, here) = (Members::default(), socket());
        assert_eq!(members.join(&member("a", "1"), here, 1), Joined::First);
        assert!(!members.arrive(NodeId(7), &member("a", "2")));
        assert!(!members.depart(NodeId(7), &UserId::from("a")));
        assert_eq!(members.leave(&UserId::from("a"), here), Left::Last);
    }

    #[test]
    fn only_further_users_count_against_the_limit() {
        let mut members = Members::default();
        assert_eq!(members.join(&member("a", "1"), socket(), 1), Joined::First);
        assert_eq!(members.join(&member("b", "1"), socket(), 1), Joined::Full);
        assert_eq!(members.join(&member("a", "1"), socket(), 1), Joined::Again);
        assert_eq!(members.len(), 1);
    }
}
