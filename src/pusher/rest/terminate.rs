//! `POST /apps/ID/users/UID/terminate_connections` (protocol.md §5.3).

use super::{Call, Refusal, empty_object, quota};
use crate::http::Reply;

/// Closes every socket that is signed in as the user. A user who is nowhere is no error.
pub(super) fn terminate(call: &Call<'_>, user_id: &str) -> Result<Reply, Refusal> {
    quota::read(call)?;
    let sockets = call.hub.terminate(user_id);
    tracing::debug!(app = %call.app.id, sockets, "user terminated");
    Ok(empty_object())
}
