//! The registry of apps, by id for the API and by key for sockets.

use std::collections::HashMap;
use std::sync::Arc;

use crate::model::app::{App, AppId, KeyPair};

/// Every app the broker serves.
#[derive(Debug, Default)]
pub struct Apps {
    by_id: HashMap<AppId, Arc<App>>,
    by_key: HashMap<String, Arc<App>>,
}

impl Apps {
    /// Indexes `apps`, whose ids and keys the config has found to be unique.
    pub fn new(apps: impl IntoIterator<Item = App>) -> Self {
        let mut registry = Self::default();
        for app in apps.into_iter().map(Arc::new) {
            for pair in &app.keys {
                registry.by_key.insert(pair.key.clone(), Arc::clone(&app));
            }
            registry.by_id.insert(Arc::clone(&app.id), app);
        }
        registry
    }

    /// The app whose id stands in an API path.
    pub fn by_id(&self, id: &str) -> Option<&Arc<App>> {
        self.by_id.get(id)
    }

    /// The app that one of its active keys names.
    pub fn by_key(&self, key: &str) -> Option<&Arc<App>> {
        self.by_key.get(key)
    }

    /// The app and the pair that a key names.
    pub fn pair(&self, key: &str) -> Option<(&Arc<App>, &KeyPair)> {
        let app = self.by_key.get(key)?;
        Some((app, app.key_pair(key)?))
    }

    /// Every app.
    pub fn all(&self) -> impl Iterator<Item = &Arc<App>> {
        self.by_id.values()
    }
}
