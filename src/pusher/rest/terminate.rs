//! `POST /apps/ID/users/UID/terminate_connections` (protocol.md §5.3).

use super::{Call, Refusal, empty_object, quota};
use crate::http::Reply;
use crate::model::member::UserId;

/// Closes every socket that is signed in as the user. A user who is nowhere is no error.
pub(super) async fn terminate(call: &Call<'_>, user_id: &str) -> Result<Reply, Refusal> {
    quota::read(call)?;
    call.hub.terminate(&UserId::from(user_id)).await;
    Ok(empty_object())
}
