//! `GET /apps/ID/channels/NAME`: one channel, which need not exist (protocol.md §6.7).

use hyper::StatusCode;

use super::info::Info;
use super::publication::channel_name;
use super::{Call, Refusal, quota};
use crate::http::{self, Reply};
use crate::model::channel::ChannelName;

/// Whether it is occupied, and what else was asked for.
pub(super) async fn show(call: &Call<'_>, name: &str) -> Result<Reply, Refusal> {
    let name = channel_name(&call.app.limits, name)?;
    let info = Info::parse(&call.query.get("info").unwrap_or_default())?;
    if info.user_count && !name.kind().presence {
        return Err(Refusal::bad_request(
            "Cannot retrieve the user count unless the channel is a presence channel",
        ));
    }
    if info.cache && !name.kind().cache {
        return Err(Refusal::bad_request("Cannot retrieve the cache unless the channel is a cache channel"));
    }
    quota::read(call)?;
    let counts = call.hub.counts(&name).await;
    let mut members = vec![format!("\"occupied\":{}", counts.subscriptions > 0)];
    members.extend(info.write_counts(&name, counts));
    if info.cache {
        members.push(cache(call, &name).await);
    }
    Ok(http::json(StatusCode::OK, format!("{{{}}}", members.join(","))))
}

async fn cache(call: &Call<'_>, name: &ChannelName) -> String {
    let Some(cached) = call.hub.cached(name).await else { return "\"cache\":null".to_owned() };
    let data = String::from_utf8_lossy(cached.data.as_bytes());
    // Rounded up: an event that is still there has at least a second.
    let ttl = cached.ttl.as_secs() + u64::from(cached.ttl.subsec_nanos() > 0);
    format!("\"cache\":{{\"data\":{data},\"ttl\":{ttl}}}")
}
