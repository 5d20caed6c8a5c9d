//! `suite`: a short run of every mode, always in the same order and sizes.

use super::flags::{Churn, ClientEvents, Fanout, Idle, Load, Mode, Presence, Publish, Spread, Suite};

/// Bytes of an event's data.
const SIZE: usize = 256;
/// How many sockets are opened at the same time.
const WINDOW: u32 = 64;

impl Suite {
    /// The modes of the suite.
    pub(super) fn modes(&self) -> Vec<Mode> {
        let one = self.connections;
        let many = (one / 10).clamp(1, 100);
        vec![
            Mode::Idle(self.idle()),
            // About as many deliveries a second however many sockets there are.
            Mode::Fanout(self.fanout(1, Some((40_000.0 / f64::from(one)).clamp(5.0, 100.0)))),
            Mode::Fanout(self.fanout(1, None)),
            Mode::Fanout(self.fanout(many, None)),
            Mode::Publish(self.publish(None)),
            Mode::Publish(self.publish(Some(10))),
            // As many members as a channel may have by default.
            Mode::Presence(Presence { members: one.min(100), window: 16 }),
            Mode::ClientEvents(self.client_events()),
            Mode::Churn(self.churn()),
        ]
    }

    fn load(&self) -> Load {
        Load { size: SIZE, duration: self.duration, warmup: self.warmup }
    }

    fn idle(&self) -> Idle {
        Idle { connections: self.connections, channels: Spread::Own, duration: self.duration, window: WINDOW }
    }

    /// Paced when there is a rate, else saturated.
    fn fanout(&self, channels: u32, rate: Option<f64>) -> Fanout {
        Fanout {
            connections: self.connections,
            channels,
            rate: rate.unwrap_or_default(),
            saturate: rate.is_none(),
            max_outstanding: 8,
            publishers: None,
            load: self.load(),
        }
    }

    fn publish(&self, batch: Option<u32>) -> Publish {
        Publish { connections: 16, channels: 100, subscribers: 0, batch, load: self.load() }
    }

    fn client_events(&self) -> ClientEvents {
        let pairs = (self.connections / 2).clamp(1, 500);
        // Below the ten a second that a client may send by default.
        ClientEvents { pairs, rate: 8.0, load: self.load() }
    }

    fn churn(&self) -> Churn {
        let connections = self.connections.min(WINDOW);
        Churn { connections, channels: Spread::Own, duration: self.duration, max: 100_000, abrupt: false }
    }
}
