//! `GET /apps/ID/channels`: the occupied channels (protocol.md §6.6).

use hyper::StatusCode;

use super::info::Info;
use super::{Call, Refusal, quota};
use crate::http::{self, Reply};

/// Lists them by name.
pub(super) async fn list(call: &Call<'_>) -> Result<Reply, Refusal> {
    let prefix = call.query.get("filter_by_prefix").unwrap_or_default();
    let info = Info::parse(&call.query.get("info").unwrap_or_default())?;
    if info.user_count && !prefix.starts_with("presence-") {
        // Spelt as the hosted service spells it: libraries look for the text.
        return Err(Refusal::bad_request(
            "user_count may only be requested for presence channels - please supply filter_by_prefix begining with presence-",
        ));
    }
    if info.cache {
        return Err(Refusal::bad_request("cache may only be requested for a single channel"));
    }
    quota::read(call)?;
    let occupied = call.hub.occupied(&prefix, info.user_count).await;
    let members: Vec<_> = occupied
        .iter()
        .map(|(name, counts)| format!("\"{name}\":{{{}}}", info.write_counts(name, *counts).join(",")))
        .collect();
    Ok(http::json(StatusCode::OK, format!("{{\"channels\":{{{}}}}}", members.join(","))))
}
