//! A socket's id: the capability that channel authorisations are signed for.

use std::fmt;
use std::str::FromStr;

/// Two random numbers, written `A.B` (protocol.md §1.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId(u64);

impl SocketId {
    /// No socket's id: for a connection that is refused, and is never told one.
    pub const NOBODY: Self = Self(0);

    /// Draws an id from the system's random generator. Uniqueness is the caller's affair.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn draw() -> Result<Self, getrandom::Error> {
        let random = getrandom::u64()?;
        let half = |bits: u64| (bits & 0x7fff_ffff).max(1);
        Ok(Self(half(random >> 32) << 32 | half(random)))
    }

    /// The id as one number, for other nodes.
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// The id that [`Self::to_bits`] gave; `None` for what no socket's can be.
    pub fn from_bits(bits: u64) -> Option<Self> {
        let half = |half: u64| (1..=0x7fff_ffff).contains(&half);
        (half(bits >> 32) && half(bits & 0xffff_ffff)).then_some(Self(bits))
    }

    fn halves(self) -> (u64, u64) {
        (self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl fmt::Display for SocketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (a, b) = self.halves();
        write!(f, "{a}.{b}")
    }
}

/// The text is not `digits.digits`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a socket id is two numbers joined by a dot")]
pub struct InvalidSocketId;

/// A well-formed id, which need not be one that this broker could have drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GivenSocketId {
    /// May belong to a socket.
    Possible(SocketId),
    /// Well-formed but no socket's: leading zeros, or larger than any drawn.
    Nobody,
}

impl FromStr for GivenSocketId {
    type Err = InvalidSocketId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = |s: &str| !s.is_empty() && s.bytes().all(|c| c.is_ascii_digit());
        let (a, b) = text.split_once('.').ok_or(InvalidSocketId)?;
        if !digits(a) || !digits(b) {
            return Err(InvalidSocketId);
        }
        let half = |s: &str| {
            let n = s.parse::<u32>().ok().filter(|n| (1..=0x7fff_ffff).contains(n))?;
            (!s.starts_with('0')).then_some(u64::from(n))
        };
        Ok(match (half(a), half(b)) {
            (Some(a), Some(b)) => Self::Possible(SocketId(a << 32 | b)),
            _ => Self::Nobody,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drawn_id_reads_back() {
        for _ in 0..1000 {
            let id = SocketId::draw().expect("randomness");
            assert_eq!(id.to_string().parse(), Ok(GivenSocketId::Possible(id)));
        }
    }

    #[test]
    fn malformed_ids_are_refused_and_foreign_ones_are_nobodys() {
        for bad in ["", ".", "1", "1.", ".1", "1.2.3", "a.1", "1.2\n", "-1.2", "1.+2", " 1.2", "١.1"] {
            assert_eq!(bad.parse::<GivenSocketId>(), Err(InvalidSocketId), "{bad:?}");
        }
        for foreign in ["01.2", "0.1", "99999999999999999999.1", "1.4294967295"] {
            assert_eq!(foreign.parse(), Ok(GivenSocketId::Nobody), "{foreign}");
        }
    }
}
