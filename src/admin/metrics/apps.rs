//! Which apps have samples of their own: with thousands of them there would be too many.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Admin;
use crate::model::app::AppId;

/// How many apps have samples of their own. The others are summed.
const MAX_LISTED: usize = 100;
/// In place of an id: all apps that are not listed. An app of this name is never listed by itself.
pub(in crate::admin) const OTHER: &str = "other";

/// The apps in which anything has happened, and whether each has samples of its own. What an app was at
/// first it stays: were it listed later, the counters of the others would fall.
#[derive(Default)]
pub(super) struct Known(BTreeMap<AppId, bool>);

impl Known {
    /// The apps that have samples of their own now: those that had, and while there are too few of them
    /// the first by id of those that are new.
    pub(super) fn listed(&mut self, admin: &Admin) -> Listed {
        let mut ids: Vec<_> = admin.sockets.counts().into_iter().map(|(id, _)| id).collect();
        admin.hub.each_app(|id, _| ids.push(Arc::clone(id)));
        self.with(ids)
    }

    fn with(&mut self, ids: Vec<AppId>) -> Listed {
        let mut listed: BTreeSet<_> = self.listed_before().cloned().collect();
        for id in ids.into_iter().collect::<BTreeSet<_>>() {
            if !self.0.contains_key(&id) {
                let is_listed = &*id != OTHER && listed.len() < MAX_LISTED;
                self.0.insert(Arc::clone(&id), is_listed);
                listed.extend(is_listed.then_some(id));
            }
        }
        Listed(listed)
    }

    fn listed_before(&self) -> impl Iterator<Item = &AppId> {
        self.0.iter().filter(|(_, is_listed)| **is_listed).map(|(id, _)| id)
    }
}

/// The apps that have samples of their own, in all metrics the same.
pub(super) struct Listed(BTreeSet<AppId>);

impl Listed {
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
        let listed = Known::default().with((0..count).rev().chain(0..count).map(app).collect());
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
    fn who_was_among_the_others_stays_there_and_who_was_listed_too() {
        let mut known = Known::default();
        // Later ones come before them by id.
        known.with((100..100 + MAX_LISTED + 1).map(app).collect());
        let listed = known.with((0..10).map(app).collect());
        for number in 100..100 + MAX_LISTED {
            assert_eq!(listed.name(&app(number)), &*app(number));
        }
        for number in (0..10).chain([100 + MAX_LISTED]) {
            assert_eq!(listed.name(&app(number)), OTHER);
        }
    }

    #[test]
    fn an_app_named_like_the_others_is_one_of_them() {
        let ids = ["other".into(), "a".into()];
        let listed = Known::default().with(ids.to_vec());
        let sums = listed.sums(&[("other".into(), 2), ("a".into(), 1), ("unknown".into(), 3)]);
        assert_eq!(sums, [([("app", "a".to_owned())], 1), ([("app", "other".to_owned())], 5)]);
    }

    #[test]
    fn few_apps_are_all_listed_and_there_is_no_other() {
        let listed = Known::default().with(vec!["a".into(), "b".into()]);
        let sums = listed.sums(&[("b".into(), 2)]);
        assert_eq!(sums, [([("app", "a".to_owned())], 0), ([("app", "b".to_owned())], 2)]);
    }
}
