//! The connection behind a mailbox.

use std::io::{self, IoSlice};
use std::task::{Context, Poll};

/// The connection, as its own task has it.
pub trait Wire: Send + 'static {
    /// Reads what has come; 0 is the end.
    ///
    /// # Errors
    /// Those of the connection.
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>>;

    /// Writes some of these buffers.
    ///
    /// # Errors
    /// Those of the connection.
    fn poll_write(&mut self, cx: &mut Context<'_>, buffers: &[IoSlice<'_>]) -> Poll<io::Result<usize>>;

    /// Waits until what was written is with the kernel.
    ///
    /// # Errors
    /// Those of the connection.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Tells the peer that nothing more will come.
    fn poll_shut_down(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Bytes that it has taken, and that are not with the kernel or the peer yet. They are asked for after
    /// each write and flush.
    fn held(&self) -> usize {
        0
    }
}
