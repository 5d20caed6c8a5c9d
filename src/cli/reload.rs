//! A running broker follows its configuration: on SIGHUP, and when the files change.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fanfare::Control;
use fanfare::config::Env;
use fanfare::tasks::forever;
use parking_lot::Mutex;
use tokio::signal::unix::Signal;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

use super::log::SetLevel;
use super::serve::{self, Args};
use super::signals::hangup;

/// How often files are looked at. They are read when they have stayed the same from one look to the
/// next: whoever writes one may be half-way through.
const LOOK: Duration = Duration::from_secs(1);

/// How long a signal waits for a look at the files: a disk that does not answer keeps nobody from reading
/// those on others.
const LONG_LOOK: Duration = Duration::from_secs(10);

/// What is read again, and who is told.
pub(crate) struct Reloads {
    pub(crate) args: Args,
    pub(crate) env: Env,
    pub(crate) control: Arc<Control>,
    pub(crate) set_level: SetLevel,
    /// The files as they were before they were read.
    pub(crate) seen: Seen,
    /// Where the first signals are heard.
    pub(crate) hangup: Mutex<Option<Signal>>,
}

impl Reloads {
    /// Follows the configuration, for ever.
    pub(crate) async fn follow(self) {
        let reloads = Arc::new(self);
        forever("reload", move || Arc::clone(&reloads).follow_on()).await;
    }

    /// Begun again, it reads again what has changed since the start: that does no harm.
    async fn follow_on(self: Arc<Self>) {
        let first = self.hangup.lock().take();
        let mut hangup = match first.map_or_else(hangup, Ok) {
            Ok(hangup) => hangup,
            Err(error) => return tracing::error!(%error, "the configuration is not followed any more"),
        };
        let mut watched = Watched::new(self.seen.clone());
        loop {
            tokio::select! {
                _ = hangup.recv() => drop(timeout(LONG_LOOK, watched.look()).await),
                () = watched.changed(), if self.control.reload_on_change() => {}
            }
            self.reload().await;
        }
    }

    async fn reload(&self) {
        let (args, env) = (self.args.clone(), self.env.clone());
        match self.control.reload(move || serve::load_again(&args, &env)).await {
            Ok(reloaded) => {
                (self.set_level)(&reloaded.log_level);
                reloaded.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                let (added, changed, removed) = (reloaded.added, reloaded.changed, reloaded.removed);
                tracing::info!(?added, ?changed, ?removed, "the configuration was read again");
            }
            Err(why) => tracing::error!("the configuration was read again, and nothing was changed:\n{why}"),
        }
    }
}

/// Files, and what was seen of each.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Seen(Vec<(PathBuf, Option<Stamp>)>);

/// What shows that a file is another, or may be read by others: the time of its last change with nanoseconds,
/// its size, its inode. Of what a link leads to, since directories of links are how orchestrators swap files.
type Stamp = (i64, i64, u64, u64);

impl Seen {
    /// Looks at further files. May block.
    pub(crate) fn and<'a>(mut self, files: impl IntoIterator<Item = &'a PathBuf>) -> Self {
        self.0.extend(files.into_iter().map(|file| (file.clone(), stamp(file))));
        self
    }

    /// Looks at the same files again. May block.
    fn again(&self) -> Self {
        Self::default().and(self.0.iter().map(|(file, _)| file))
    }
}

/// Files that are looked at, elsewhere: the answer may be long in coming.
struct Watched {
    /// As they were before they were last read.
    known: Seen,
    /// One look at a time.
    looking: Option<JoinHandle<Seen>>,
}

impl Watched {
    fn new(known: Seen) -> Self {
        Self { known, looking: None }
    }

    /// What the files are now is read next.
    async fn look(&mut self) {
        self.known = self.now().await;
    }

    /// Waits until a file is another than it was, and stays so. Can be begun again at any time.
    async fn changed(&mut self) {
        let mut before = None;
        loop {
            tokio::time::sleep(LOOK).await;
            let now = self.now().await;
            if before.as_ref() == Some(&now) && now != self.known {
                self.known = now;
                return;
            }
            before = Some(now);
        }
    }

    /// What the files are now, or were when a look began that nobody has waited for.
    async fn now(&mut self) -> Seen {
        let known = &self.known;
        let looking = self.looking.get_or_insert_with(|| {
            let known = known.clone();
            spawn_blocking(move || known.again())
        });
        let seen = looking.await;
        self.looking = None;
        // A look that panics has seen nothing new.
        seen.unwrap_or_else(|_| self.known.clone())
    }
}

fn stamp(file: &Path) -> Option<Stamp> {
    // Of a pipe nothing can be read again.
    let meta = std::fs::metadata(file).ok().filter(std::fs::Metadata::is_file)?;
    Some((meta.ctime(), meta.ctime_nsec(), meta.size(), meta.ino()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    // What must be seen is waited for without a limit: paused time would jump to that while a thread looks.

    #[tokio::test(start_paused = true)]
    async fn a_file_is_read_when_it_stays_as_it_is() {
        let folder = std::env::temp_dir().join(format!("fanfare-watched-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (file, other) = (folder.join("file"), folder.join("other"));
        std::fs::write(&file, "one").unwrap();
        let mut watched = Watched::new(Seen::default().and(&[file.clone(), folder.join("missing")]));
        let quiet = timeout(LOOK * 10, watched.changed());
        assert!(quiet.await.is_err(), "nothing has changed");
        std::fs::write(&other, "two").unwrap();
        std::fs::rename(&other, &file).unwrap();
        watched.changed().await;
        let quiet = timeout(LOOK * 10, watched.changed());
        assert!(quiet.await.is_err(), "once");
        // It could not be read before, and can be now.
        let before = stamp(&file);
        // The clock of the file system ticks slowly.
        while stamp(&file) == before {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        watched.changed().await;
        std::fs::remove_file(&file).unwrap();
        watched.changed().await;
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_changes_between_the_first_reading_and_the_first_look_is_read() {
        let file = std::env::temp_dir().join(format!("fanfare-seen-{}", std::process::id()));
        std::fs::write(&file, "one").unwrap();
        let seen = Seen::default().and([&file]);
        // It is read here, and written again.
        std::fs::write(&file, "three").unwrap();
        let mut watched = Watched::new(seen);
        watched.changed().await;
        std::fs::remove_file(&file).unwrap();
    }
}
