//! How many sockets other nodes have, in a channel or of a user. Pure.

use crate::cluster::NodeId;

/// Sockets by node, where there are any. There are few nodes.
#[derive(Debug, Default)]
pub(super) struct Elsewhere(Vec<(NodeId, usize)>);

impl From<Vec<(NodeId, usize)>> for Elsewhere {
    fn from(counts: Vec<(NodeId, usize)>) -> Self {
        Self(counts)
    }
}

impl Elsewhere {
    /// Takes in what nodes have now.
    pub(super) fn set(&mut self, counts: Vec<(NodeId, usize)>) {
        for (node, count) in counts {
            self.0.retain(|(other, _)| *other != node);
            if count > 0 {
                self.0.push((node, count));
            }
        }
    }

    /// All of them.
    pub(super) fn sum(&self) -> usize {
        self.0.iter().map(|(_, count)| count).sum()
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
