//! A node by itself: there is nobody to agree with, and nothing of it costs anything.

use std::future::{pending, ready};
use std::sync::Arc;
use std::time::Duration;

use super::{Away, Engine, Order, Report, Seen, Site, Tally, Topic, Waiting};
use crate::model::app::AppId;
use crate::model::channel::ChannelName;
use crate::model::event::Event;

/// The engine of a single node. It is away for good: the node decides everything alone.
#[derive(Debug, Default)]
pub struct Local;

impl Engine for Local {
    fn is_shared(&self) -> bool {
        false
    }

    fn is_away(&self, _: &Topic) -> bool {
        true
    }

    fn touch(&self, _: &Topic) {}

    fn publish(&self, _: &AppId, _: &Event, _: Option<Duration>) {}

    fn has_space(&self, _: &Topic) -> bool {
        true
    }

    fn missed(&self, _: &Topic) {}

    fn order(&self, _: &AppId, _: Order) {}

    fn settled<'a>(&'a self, _: &'a Topic) -> Waiting<'a, ()> {
        Box::pin(ready(()))
    }

    fn look<'a>(&'a self, _: &'a Topic, _: bool) -> Waiting<'a, Result<Seen, Away>> {
        Box::pin(ready(Err(Away)))
    }

    fn occupied<'a>(
        &'a self,
        _: &'a AppId,
        _: &'a str,
        _: bool,
    ) -> Waiting<'a, Result<Vec<(ChannelName, Tally)>, Away>> {
        Box::pin(ready(Err(Away)))
    }

    fn report(&self) -> Report {
        Report::default()
    }

    fn run(self: Arc<Self>, _: Arc<dyn Site>) -> Waiting<'static, ()> {
        Box::pin(pending())
    }

    fn joined(&self) -> Waiting<'_, ()> {
        Box::pin(ready(()))
    }

    fn leave(&self) -> Waiting<'_, ()> {
        Box::pin(ready(()))
    }
}
