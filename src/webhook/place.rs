//! Where an endpoint stands in its app's list of webhooks.

use std::sync::Arc;

use tokio::sync::watch;

/// Where an endpoint stands in its app's list, for whoever outlives it.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) index: watch::Sender<Option<usize>>,
}

impl Place {
    pub(super) fn new(index: usize) -> Arc<Self> {
        Arc::new(Self { index: watch::Sender::new(Some(index)) })
    }

    /// `None` when it is in the list no longer.
    pub(super) fn index(&self) -> Option<usize> {
        *self.index.borrow()
    }
}
