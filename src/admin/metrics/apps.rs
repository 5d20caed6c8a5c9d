//! Which apps have samples of their own: with thousands of them there would be too many.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Admin;
use crate::model::app::AppId;

/// How many apps have samples of their own, the first by id. The others are summed.
const MAX_LISTED: usize = 100;
/// In place of an id: all apps that are not listed. An app of this name is never listed by itself.
pub(in crate::admin) const OTHER: &str = "other";

/// The apps that have samples of their own, in all metrics the same.
pub(super) struct Listed(BTreeSet<AppId>);

impl Listed {
    /// Of the apps in which anything has happened.
    pub(super) fn of(admin: &Admin) -> Self {
        let mut ids: Vec<_> = admin.sockets.counts().into_iter().map(|(id, _)| id).collect();
        admin.hub.each_app(|id, _| ids.push(Arc::clone(id)));
        Self::first(ids)
    }

    fn first(ids: Vec<AppId>) -> Self {
        let ids: BTreeSet<_> = ids.into_iter().filter(|id| &**id != OTHER).collect();
        Self(ids.into_iter().take(MAX_LISTED).collect())
    }

    /// What an app goes by.
    pub(super) fn name<'a>(&self, id: &'a str) -> &'a str {
        if self.0.contains(id) { id } else { OTHER }
    }

    /// A sample for each listed app, and one for all others if there are any.
    pub(super) fn sums(&self, values: &[(AppId, usize)]) -> Vec<([(&'static str, String); 1], usize)> {
        let mut sums: BTreeMap<_, usize> = self.0.iter().map(|id| (id.as_ref(), 0)).collect();
        for (id, value) in values {
            *sums.entry(self.name(id)).or_default() += value;
        }
        sums.into_iter().map(|(name, sum)| ([("app", name.to_owned())], sum)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(number: usize) -> AppId {
        format!("app-{number:04}").into()
    }

    #[test]
    fn the_first_apps_have_samples_of_their_own_and_all_others_share_one() {
        let count = 3 * MAX_LISTED;
        // Twice: sockets and channels both know them.
        let listed = Listed::first((0..count).rev().chain(0..count).map(app).collect());
        let values: Vec<_> = (0..count).map(|number| (app(number), number)).collect();
        let sums = listed.sums(&values);
        assert_eq!(sums.len(), MAX_LISTED + 1);
        for (number, ([(_, name)], value)) in sums.iter().take(MAX_LISTED).enumerate() {
            assert_eq!((name.as_str(), *value), (&*app(number), number));
        }
        let rest: usize = (MAX_LISTED..count).sum();
        assert_eq!(sums.last(), Some(&([("app", OTHER.to_owned())], rest)));
    }

    #[test]
    fn an_app_named_like_the_others_is_one_of_them() {
        let ids = ["other".into(), "a".into()];
        let listed = Listed::first(ids.to_vec());
        let sums = listed.sums(&[("other".into(), 2), ("a".into(), 1), ("unknown".into(), 3)]);
        assert_eq!(sums, [([("app", "a".to_owned())], 1), ([("app", "other".to_owned())], 5)]);
    }

    #[test]
    fn few_apps_are_all_listed_and_there_is_no_other() {
        let listed = Listed::first(vec!["a".into(), "b".into()]);
        let sums = listed.sums(&[("b".into(), 2)]);
        assert_eq!(sums, [([("app", "a".to_owned())], 0), ([("app", "b".to_owned())], 2)]);
    }
}
