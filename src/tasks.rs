//! Tasks that the broker cannot do without.

use std::time::Duration;

use tokio::task::JoinSet;

use crate::repeats::Repeats;

/// How long a task that a panic has ended stays so.
const RESTART_PAUSE: Duration = Duration::from_millis(100);

/// Runs a task, and begins it again should a panic end it: nobody else would notice.
pub async fn forever<F: Future<Output = ()> + Send + 'static>(name: &'static str, begin: impl Fn() -> F) {
    let panics = Repeats::new();
    loop {
        // In a set, so that it ends with this one.
        let mut task = JoinSet::new();
        task.spawn(begin());
        match task.join_next().await {
            Some(Err(error)) if error.is_panic() => {
                if let Some(left_out) = panics.due() {
                    tracing::error!(%error, left_out, "the {name} task begins again");
                }
            }
            _ => return,
        }
        tokio::time::sleep(RESTART_PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_not_the_end() {
        let begun = Arc::new(AtomicUsize::new(0));
        let counting = Arc::clone(&begun);
        forever("test", move || {
            let times = counting.fetch_add(1, Ordering::Relaxed);
            async move { assert!(times >= 2, "a panic, as this test wants it") }
        })
        .await;
        assert_eq!(begun.load(Ordering::Relaxed), 3);
    }
}
