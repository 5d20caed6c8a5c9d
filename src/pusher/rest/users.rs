//! `GET /apps/ID/channels/NAME/users`: who is present (protocol.md §6.8).

use hyper::StatusCode;

use super::publication::channel_name;
use super::{Call, Refusal, quota};
use crate::http::{self, Reply};
use crate::model::quoted::push_quoted;

/// Lists each user once.
pub(super) async fn list(call: &Call<'_>, name: &str) -> Result<Reply, Refusal> {
    let name = channel_name(&call.app.limits, name)?;
    if !name.kind().presence {
        return Err(Refusal::bad_request("Users can only be retrieved for presence channels"));
    }
    quota::read(call)?;
    let mut body = b"{\"users\":[".to_vec();
    for (i, user) in call.hub.members(&name).await.iter().enumerate() {
        body.extend_from_slice(if i > 0 { b",{\"id\":" } else { b"{\"id\":" });
        push_quoted(&mut body, user);
        body.push(b'}');
    }
    body.extend_from_slice(b"]}");
    Ok(http::json(StatusCode::OK, body))
}
