//! Wire forms of events. Each door that sockets speak through registers one.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::mailbox::SeatId;
use crate::model::event::Event;
use crate::model::member::UserId;

/// One wire form of events.
pub trait Format: Send + Sync {
    /// The event as a ready-to-write frame.
    fn encode(&self, event: &Event) -> Bytes;

    /// A frame for who watches these users: some are online, some offline.
    fn encode_watched(&self, online: &[UserId], offline: &[UserId]) -> Bytes;
}

/// How many wire forms there can be.
pub(super) const MAX_FORMATS: usize = 4;

/// The wire forms of this broker; a [`FormatId`] is an index into it.
pub type Formats = Arc<[Box<dyn Format>]>;

/// Names a wire form: its place in [`Formats`], below [`MAX_FORMATS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FormatId(pub u8);

impl FormatId {
    pub(super) fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// An event that has its place in a channel's order, and its frames once somebody needs them.
pub(super) struct Published {
    pub(super) event: Event,
    /// Whoever has its seat from this one on has it already.
    pub(super) spared: Option<SeatId>,
    frames: [OnceLock<Bytes>; MAX_FORMATS],
}

impl Published {
    pub(super) fn new(event: Event) -> Self {
        Self { event, spared: None, frames: Default::default() }
    }

    /// Nobody gets it who has the seat `from` or a later one.
    pub(super) fn sparing(self, from: Option<SeatId>) -> Self {
        Self { spared: from, ..self }
    }

    /// The frame in one wire form, encoded by the first who asks.
    pub(super) fn frame(&self, format: FormatId, formats: &Formats) -> &Bytes {
        let index = format.index();
        self.frames[index].get_or_init(|| formats[index].encode(&self.event))
    }
}
