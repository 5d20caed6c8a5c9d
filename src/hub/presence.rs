//! Who is present in a channel. Pure: no locks, no I/O.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::member::{Member, UserId};
use crate::model::socket::SocketId;

/// The members of one presence channel, each with the sockets it is present on.
#[derive(Debug, Default)]
pub struct Members {
    users: BTreeMap<UserId, Present>,
}

#[derive(Debug)]
struct Present {
    /// That of the user's first socket; it stands until the user leaves.
    user_info: Option<Arc<str>>,
    sockets: Vec<SocketId>,
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
    /// The user has no other socket here.
    Last,
    /// The user stays, on another socket.
    Stays,
}

impl Members {
    /// Lets a member in on one more socket. Only a further user counts against `limit`.
    pub(super) fn join(&mut self, member: &Member, socket: SocketId, limit: usize) -> Joined {
        let users = self.users.len();
        if let Some(present) = self.users.get_mut(&member.user_id) {
            present.sockets.push(socket);
            return Joined::Again;
        }
        if users >= limit {
            return Joined::Full;
        }
        let present = Present { user_info: member.user_info.clone(), sockets: vec![socket] };
        self.users.insert(Arc::clone(&member.user_id), present);
        Joined::First
    }

    /// Takes a member's socket out.
    pub(super) fn leave(&mut self, user_id: &UserId, socket: SocketId) -> Left {
        let Some(present) = self.users.get_mut(user_id) else { return Left::Stays };
        present.sockets.retain(|&s| s != socket);
        if !present.sockets.is_empty() {
            return Left::Stays;
        }
        self.users.remove(user_id);
        Left::Last
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
    fn only_further_users_count_against_the_limit() {
        let mut members = Members::default();
        assert_eq!(members.join(&member("a", "1"), socket(), 1), Joined::First);
        assert_eq!(members.join(&member("b", "1"), socket(), 1), Joined::Full);
        assert_eq!(members.join(&member("a", "1"), socket(), 1), Joined::Again);
        assert_eq!(members.len(), 1);
    }
}
