//! Makes room when too much waits in all mailboxes together: the fullest are closed.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use crate::mailbox::{Backlogs, Mailbox};
use crate::sockets::Sockets;

/// Mailboxes closed before other tasks get their turn.
const CLOSED_AT_ONCE: usize = 64;
/// How long to wait after a search that has found nothing to close.
const PAUSE: Duration = Duration::from_millis(100);

/// Closes the fullest mailboxes as slow consumers each time there is more in all than there may be, until
/// there is little enough. Never ends.
pub async fn relieve(sockets: Arc<Sockets>, backlogs: Arc<Backlogs>) {
    loop {
        backlogs.crossed().await;
        let closed = close_fullest(&sockets, &backlogs).await;
        tracing::debug!(closed, "too much waited for all sockets together");
        if closed == 0 && backlogs.are_too_full() {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn close_fullest(sockets: &Arc<Sockets>, backlogs: &Backlogs) -> usize {
    let all = Arc::clone(sockets);
    // Not on a thread that serves clients: it looks at every socket. A panic has found nothing.
    let fullest = tokio::task::spawn_blocking(move || by_backlog(&all)).await.unwrap_or_default();
    let mut closed = 0;
    for (seen, mailbox) in fullest {
        // Others may have been read meanwhile, and so may this one: only its connection's task writes to some,
        // who have much for a moment however fast they read.
        if !backlogs.are_too_full() {
            break;
        }
        if mailbox.shed(seen.div_ceil(2)) {
            closed += 1;
            if closed % CLOSED_AT_ONCE == 0 {
                tokio::task::yield_now().await;
            }
        }
    }
    closed
}

/// Every mailbox in which something waits, and how much, the fullest first.
fn by_backlog(sockets: &Sockets) -> Vec<(usize, Arc<Mailbox>)> {
    let mut fullest = Vec::new();
    sockets.each(|_, mailbox| {
        let queued = mailbox.queued();
        if queued > 0 {
            fullest.push((queued, Arc::clone(mailbox)));
        }
    });
    fullest.sort_unstable_by_key(|(queued, _)| Reverse(*queued));
    fullest
}
