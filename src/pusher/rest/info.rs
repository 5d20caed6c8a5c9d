//! The attributes of channels that a caller can ask for by `info` (protocol.md §6.5).

use super::Refusal;
use crate::hub::AppHub;
use crate::model::channel::ChannelName;

/// Which attributes are asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Info {
    pub(super) user_count: bool,
    pub(super) subscription_count: bool,
    pub(super) cache: bool,
}

impl Info {
    /// Reads a comma list; empty for nothing.
    ///
    /// # Errors
    /// 400 for an attribute that does not exist.
    pub(super) fn parse(list: &str) -> Result<Self, Refusal> {
        let mut info = Self::default();
        for attribute in list.split(',').map(str::trim).filter(|attribute| !attribute.is_empty()) {
            match attribute {
                "user_count" => info.user_count = true,
                "subscription_count" => info.subscription_count = true,
                "cache" => info.cache = true,
                _ => {
                    let known = "user_count, subscription_count, cache";
                    let text = format!("info should be a comma separated list of attributes out of: {known}");
                    return Err(Refusal::bad_request(text));
                }
            }
        }
        Ok(info)
    }

    /// The counts that are asked for, as the members of a JSON object; those that a channel of
    /// this kind does not have are left out.
    pub(super) async fn counts(self, hub: &AppHub, channel: &ChannelName) -> Vec<String> {
        if !self.user_count && !self.subscription_count {
            return Vec::new();
        }
        self.write_counts(channel, hub.counts(channel).await)
    }

    /// The same for counts that are known already.
    pub(super) fn write_counts(self, channel: &ChannelName, counts: crate::hub::Counts) -> Vec<String> {
        let mut members = Vec::new();
        if self.user_count && channel.kind().presence {
            members.push(format!("\"user_count\":{}", counts.users));
        }
        if self.subscription_count {
            members.push(format!("\"subscription_count\":{}", counts.subscriptions));
        }
        members
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_leniently_but_for_unknown_attributes() {
        let both = Info { user_count: true, subscription_count: true, cache: false };
        for list in [
            "user_count,subscription_count",
            " user_count , subscription_count,",
            ",subscription_count,,user_count",
        ] {
            assert_eq!(Info::parse(list).ok(), Some(both), "{list}");
        }
        assert_eq!(Info::parse("").ok(), Some(Info::default()));
        for bad in ["users", "user_count;cache", "User_count"] {
            assert!(
                Info::parse(bad).is_err_and(|refusal| refusal.text.contains("comma separated list")),
                "{bad}"
            );
        }
    }
}
