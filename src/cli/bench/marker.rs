//! The marker at the front of a measured event's data: when it was sent or due, and its place in
//! its order.
//!
//! `@@<ns, 20 digits>:<lane, 4>:<sequence, 10>:<channel, 8>`. All widths are fixed, so a delivery is
//! read without a JSON parser, and every event of a run has the same size.

use std::fmt::Write;

use memchr::memmem;

const SIGN: &[u8] = b"@@";

/// How long a marker is: no event can be smaller.
pub(super) const LENGTH: usize = 2 + 20 + 1 + 4 + 1 + 10 + 1 + 8;

/// What a marker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Marker {
    /// When the event was sent, or was due when it had a time, by the clock of the run.
    pub(super) sent: u64,
    /// The publisher within the channel: an order is only defined among the events of one lane.
    pub(super) lane: usize,
    /// The place in the lane's order.
    pub(super) sequence: u64,
    /// The number of the channel it was sent to.
    pub(super) channel: usize,
}

impl Marker {
    /// Writes the marker and fills up to `size` bytes.
    pub(super) fn write(&self, out: &mut String, size: usize) {
        let Self { sent, lane, sequence, channel } = self;
        // Writing to a string cannot fail.
        let _ = write!(out, "@@{sent:020}:{lane:04}:{sequence:010}:{channel:08}");
        out.extend(std::iter::repeat_n('x', size.saturating_sub(LENGTH)));
    }

    /// Finds the marker in a frame. `hint` is where it was the last time, and where it will
    /// nearly always be again.
    pub(super) fn find(frame: &[u8], hint: &mut usize) -> Option<Self> {
        let sign_at = |at: usize| frame.get(at..at + SIGN.len()) == Some(SIGN);
        if !sign_at(*hint) {
            *hint = memmem::find(frame, SIGN)?;
        }
        let text = frame.get(*hint..*hint + LENGTH)?;
        Some(Self {
            sent: digits(&text[2..22]),
            lane: digits(&text[23..27]) as usize,
            sequence: digits(&text[28..38]),
            channel: digits(&text[39..47]) as usize,
        })
    }
}

fn digits(text: &[u8]) -> u64 {
    text.iter()
        .fold(0, |value: u64, byte| value.wrapping_mul(10).wrapping_add(u64::from(byte.wrapping_sub(b'0'))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_found_again() {
        let marker = Marker { sent: 1_234_567_890_123, lane: 3, sequence: 42, channel: 99_999 };
        for (before, size) in [("{\"data\":\"", 256), ("{\"channel\":\"c\",\"data\":\"", LENGTH)] {
            let mut frame = String::from(before);
            marker.write(&mut frame, size);
            assert_eq!(frame.len(), before.len() + size);
            for start in [0, before.len(), 5000] {
                let mut hint = start;
                assert_eq!(Marker::find(frame.as_bytes(), &mut hint), Some(marker));
                assert_eq!(hint, before.len());
            }
        }
    }

    #[test]
    fn other_frames_have_none() {
        for frame in ["", "{\"event\":\"pusher:ping\"}", "@@123", "@"] {
            assert_eq!(Marker::find(frame.as_bytes(), &mut 0), None);
        }
    }
}
