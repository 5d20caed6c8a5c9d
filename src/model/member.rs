//! A member: a user present in a presence channel.

use std::sync::Arc;

/// A user's id: always text on the wire, whatever the backend signed.
pub type UserId = Arc<str>;

/// Who joins a presence channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The user.
    pub user_id: UserId,
    /// What the others are shown of the user: JSON text, or nothing.
    pub user_info: Option<Arc<str>>,
}
