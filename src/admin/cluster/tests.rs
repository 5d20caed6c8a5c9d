use std::future::{pending, ready};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use prometheus_client::collector::Collector;
use prometheus_client::registry::Registry;

use super::*;
use crate::cluster::{Local, Order, Seen, Site, Tally, Topic, Waiting};
use crate::model::app::AppId;
use crate::model::channel::ChannelName;
use crate::model::event::Event;

/// An engine that only says how it is.
#[derive(Clone, Default)]
struct Told(Report);

impl Engine for Told {
    fn is_shared(&self) -> bool {
        true
    }

    fn is_away(&self, _: &Topic) -> bool {
        self.0.away.is_some()
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
        self.0.clone()
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

fn away() -> Told {
    Told(Report { away: Some("connection refused".to_owned()), ..Report::default() })
}

async fn readyz(are_stopping: bool, engine: &dyn Engine) -> (u16, String) {
    let reply = readiness(are_stopping, engine);
    let status = reply.status().as_u16();
    let body = reply.into_body().collect().await.expect("a body").to_bytes();
    (status, String::from_utf8(body.to_vec()).expect("text"))
}

#[tokio::test]
async fn without_its_engine_a_node_is_not_ready() {
    assert_eq!(readyz(false, &Local).await, (200, "ready\n".to_owned()));
    assert_eq!(readyz(false, &Told::default()).await, (200, "ready\n".to_owned()));
    let reason = "the cluster's engine cannot be reached: connection refused\n";
    assert_eq!(readyz(false, &away()).await, (503, reason.to_owned()));
    let behind = Told(Report { is_catching_up: true, ..Report::default() });
    assert_eq!(readyz(false, &behind).await, (503, "catching up with the cluster's engine\n".to_owned()));
    // Nobody has to mend an engine that a stopping node has left.
    assert_eq!(readyz(true, &away()).await, (503, "stopping\n".to_owned()));
}

struct Only<E>(E);

impl<E> fmt::Debug for Only<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Only")
    }
}

impl<E: Engine + 'static> Collector for Only<E> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        encode(&self.0, &mut encoder)
    }
}

/// The lines that have a value.
fn values(engine: impl Engine + 'static) -> Vec<String> {
    let mut registry = Registry::with_prefix("fanfare");
    registry.register_collector(Box::new(Only(engine)));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("a text");
    text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

#[test]
fn everything_that_an_engine_reports_is_a_metric() {
    let report = Report {
        away: None,
        published: 1,
        received: 2,
        received_bytes: 3,
        gaps: 4,
        unsent: 5,
        dropped: 6,
        losses: 7,
        withdrawn: 8,
        queued_bytes: 9,
        queued_topics: 10,
        is_catching_up: false,
    };
    let expected = [
        "fanfare_engine_up 1",
        "fanfare_engine_queued_bytes 9",
        "fanfare_engine_queued_topics 10",
        "fanfare_engine_published_events_total 1",
        "fanfare_engine_received_events_total 2",
        "fanfare_engine_received_bytes_total 3",
        "fanfare_engine_gaps_total 4",
        "fanfare_engine_unsent_events_total 5",
        "fanfare_engine_dropped_events_total 6",
        "fanfare_engine_losses_total 7",
        "fanfare_engine_withdrawn_shares_total 8",
    ];
    assert_eq!(values(Told(report)), expected);
    assert_eq!(values(away())[0], "fanfare_engine_up 0");
    let behind = Told(Report { is_catching_up: true, ..Report::default() });
    assert_eq!(values(behind)[0], "fanfare_engine_up 0");
}

#[test]
fn a_node_by_itself_has_no_metrics_of_an_engine() {
    assert_eq!(values(Local), [""; 0]);
}
