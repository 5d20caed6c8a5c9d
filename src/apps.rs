//! The registry of apps, by id for the API and by key for sockets. A reload replaces them while they
//! are served.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;

use crate::model::app::{App, AppId};
use crate::model::close::CloseReason;

/// Every app the broker serves.
#[derive(Debug)]
pub struct Apps {
    served: ArcSwap<Served>,
    /// Those of the past too: an app that comes back is the same again for who still holds it. So many
    /// as there ever were in the config.
    known: Mutex<HashMap<AppId, Arc<LiveApp>>>,
}

#[derive(Debug, Default)]
struct Served {
    by_id: HashMap<AppId, Arc<LiveApp>>,
    by_key: HashMap<String, Arc<LiveApp>>,
}

/// An app for whoever stays with it longer than a reload may take: what it is can change.
#[derive(Debug)]
pub struct LiveApp {
    id: AppId,
    now: ArcSwap<App>,
    removed: AtomicBool,
}

impl LiveApp {
    /// An app that is served.
    pub fn new(app: App) -> Self {
        Self { id: Arc::clone(&app.id), now: ArcSwap::from_pointee(app), removed: AtomicBool::new(false) }
    }

    /// Its id, which never changes.
    pub fn id(&self) -> &AppId {
        &self.id
    }

    /// What it is now. For a moment: not to be kept across an `.await`.
    pub fn now(&self) -> Guard<Arc<App>> {
        self.now.load()
    }

    /// Why its sockets have to end, if they have to.
    pub fn end(&self) -> Option<CloseReason> {
        if self.removed.load(Ordering::SeqCst) {
            Some(CloseReason::UnknownApp)
        } else {
            (!self.now().enabled).then_some(CloseReason::AppDisabled)
        }
    }
}

impl Apps {
    /// Serves `apps`, whose ids and keys the config has found to be unique.
    pub fn new(apps: impl IntoIterator<Item = App>) -> Self {
        let new = Self { served: ArcSwap::default(), known: Mutex::default() };
        new.replace(apps, |_| {});
        new
    }

    /// Serves these from now on, and no others. `prepare` is given them before anybody can come to one
    /// that is new.
    pub fn replace(&self, apps: impl IntoIterator<Item = App>, prepare: impl FnOnce(&[Arc<LiveApp>])) {
        let mut known = self.known.lock();
        let mut served = Served::default();
        for app in apps {
            let keys: Vec<_> = app.keys.iter().map(|pair| pair.key.clone()).collect();
            let live =
                known.entry(Arc::clone(&app.id)).or_insert_with(|| Arc::new(LiveApp::new(app.clone())));
            live.now.store(Arc::new(app));
            served.by_key.extend(keys.into_iter().map(|key| (key, Arc::clone(live))));
            served.by_id.insert(Arc::clone(&live.id), Arc::clone(live));
        }
        for live in known.values() {
            live.removed.store(!served.by_id.contains_key(&live.id), Ordering::SeqCst);
        }
        prepare(&served.by_id.values().cloned().collect::<Vec<_>>());
        self.served.store(Arc::new(served));
    }

    /// The app whose id stands in an API path, as it is now.
    pub fn by_id(&self, id: &str) -> Option<Arc<App>> {
        self.served.load().by_id.get(id).map(|live| Arc::clone(&live.now()))
    }

    /// The app that one of its active keys names.
    pub fn by_key(&self, key: &str) -> Option<Arc<LiveApp>> {
        self.served.load().by_key.get(key).cloned()
    }

    /// Every app.
    pub fn all(&self) -> Vec<Arc<LiveApp>> {
        self.served.load().by_id.values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::app::{Features, KeyPair, Limits};
    use crate::model::secret::Secret;

    fn app(id: &str, keys: &[&str], enabled: bool) -> App {
        let pair = |key: &&str| KeyPair { key: (*key).to_owned(), secret: Secret::new("s") };
        App {
            id: id.into(),
            keys: keys.iter().map(pair).collect(),
            enabled,
            features: Features::default(),
            limits: Limits::default(),
            webhooks: Vec::new(),
        }
    }

    #[test]
    fn who_holds_an_app_sees_what_becomes_of_it() {
        let apps = Apps::new([app("1", &["a"], true), app("2", &["b"], true)]);
        let held = apps.by_key("a").expect("an app");
        assert_eq!(held.end(), None);
        apps.replace([app("1", &["a", "c"], false), app("2", &["b"], true)], |_| {});
        assert_eq!((held.end(), held.now().keys.len()), (Some(CloseReason::AppDisabled), 2));
        assert!(apps.by_key("c").is_some_and(|app| Arc::ptr_eq(&app, &held)));
        apps.replace([app("2", &["b"], true)], |_| {});
        assert_eq!(held.end(), Some(CloseReason::UnknownApp));
        assert!(apps.by_key("a").is_none() && apps.by_id("1").is_none());
        apps.replace([app("1", &["d"], true)], |_| {});
        assert_eq!(held.end(), None);
        assert!(apps.by_key("d").is_some_and(|app| Arc::ptr_eq(&app, &held)) && apps.by_key("a").is_none());
        assert_eq!(apps.by_id("1").map(|app| app.keys[0].key.clone()).as_deref(), Some("d"));
        assert_eq!(apps.all().len(), 1);
    }
}
