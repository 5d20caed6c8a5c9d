//! API requests by what they ask and how they are answered: a counter for each pair, so that a request
//! adds to one alone.

use super::Counter;

/// What an API request asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiEndpoint {
    /// `POST /events`.
    Events,
    /// `POST /batch_events`.
    BatchEvents,
    /// `GET /channels`.
    Channels,
    /// `GET /channels/NAME`.
    Channel,
    /// `GET /channels/NAME/users`.
    ChannelUsers,
    /// `POST /users/ID/terminate_connections`.
    TerminateConnections,
    /// `POST /channels/NAME/events`.
    ChannelEvents,
    /// `GET /channels/NAME/stats`.
    ChannelStats,
    /// Nothing that there is.
    Unknown,
}

impl ApiEndpoint {
    /// All of them, for metrics.
    pub const ALL: [Self; 9] = [
        Self::Events,
        Self::BatchEvents,
        Self::Channels,
        Self::Channel,
        Self::ChannelUsers,
        Self::TerminateConnections,
        Self::ChannelEvents,
        Self::ChannelStats,
        Self::Unknown,
    ];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::BatchEvents => "batch_events",
            Self::Channels => "channels",
            Self::Channel => "channel",
            Self::ChannelUsers => "channel_users",
            Self::TerminateConnections => "terminate_connections",
            Self::ChannelEvents => "channel_events",
            Self::ChannelStats => "channel_stats",
            Self::Unknown => "unknown",
        }
    }
}

/// The statuses that the API answers with. What should be another is counted as the last.
const STATUSES: [u16; 13] = [200, 202, 400, 401, 403, 404, 408, 409, 413, 422, 429, 503, 500];

/// A counter for each endpoint and status.
#[derive(Debug, Default)]
pub struct ApiRequests([[Counter; STATUSES.len()]; ApiEndpoint::ALL.len()]);

impl ApiRequests {
    /// Counts a request.
    pub fn answered(&self, endpoint: ApiEndpoint, status: u16) {
        let at = STATUSES.iter().position(|known| *known == status).unwrap_or(STATUSES.len() - 1);
        self.0[endpoint as usize][at].add(1);
    }

    /// Each that has been counted: what was asked, the status, and how often.
    pub fn each(&self) -> impl Iterator<Item = (ApiEndpoint, u16, u64)> {
        ApiEndpoint::ALL.into_iter().flat_map(|endpoint| {
            let counters = self.0[endpoint as usize].iter().zip(STATUSES);
            counters.map(move |(counter, status)| (endpoint, status, counter.get()))
        })
    }

    /// How many succeeded, and how many were refused.
    pub fn sums(&self) -> (u64, u64) {
        self.each().fold((0, 0), |(accepted, refused), (_, status, count)| {
            if status < 300 { (accepted + count, refused) } else { (accepted, refused + count) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_endpoint_and_status_is_counted_for_itself() {
        let requests = ApiRequests::default();
        for (index, endpoint) in ApiEndpoint::ALL.into_iter().enumerate() {
            assert_eq!(endpoint as usize, index, "{endpoint:?} is listed at its place");
        }
        requests.answered(ApiEndpoint::Events, 200);
        requests.answered(ApiEndpoint::Events, 200);
        requests.answered(ApiEndpoint::ChannelUsers, 400);
        requests.answered(ApiEndpoint::Unknown, 418);
        let counted: Vec<_> = requests.each().filter(|(_, _, count)| *count > 0).collect();
        assert_eq!(
            counted,
            [
                (ApiEndpoint::Events, 200, 2),
                (ApiEndpoint::ChannelUsers, 400, 1),
                (ApiEndpoint::Unknown, 500, 1)
            ]
        );
        assert_eq!(requests.sums(), (2, 2));
    }
}
