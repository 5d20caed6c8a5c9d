//! `POST /apps/ID/users/UID/terminate_connections` (protocol.md §5.3).

use std::sync::Arc;

use super::{Call, Refusal, empty_object, quota};
use crate::http::Reply;
use crate::mailbox::Mailbox;
use crate::model::close::CloseReason;

/// Sockets closed before others get their turn.
const CLOSED_AT_ONCE: usize = 256;

/// Closes every socket that is signed in as the user. A user who is nowhere is no error.
pub(super) async fn terminate(call: &Call<'_>, user_id: &str) -> Result<Reply, Refusal> {
    quota::read(call)?;
    let sockets = call.hub.sockets_of(user_id);
    tracing::debug!(app = %call.app.id, sockets = sockets.len(), "user terminated");
    // By a task: a caller that hangs up must not leave half of them. It cannot fail but by a panic.
    let _ = tokio::spawn(close(sockets)).await;
    Ok(empty_object())
}

async fn close(sockets: Vec<Arc<Mailbox>>) {
    for chunk in sockets.chunks(CLOSED_AT_ONCE) {
        chunk.iter().for_each(|mailbox| mailbox.close(CloseReason::Terminated));
        tokio::task::yield_now().await;
    }
}
