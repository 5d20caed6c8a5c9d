//! A running broker follows its configuration: on SIGHUP, and when the files change.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fanfare::Control;
use fanfare::config::{Config, Env};
use tokio::signal::unix::Signal;

use super::log::SetLevel;
use super::serve::{self, Args};

/// How often files are looked at. They are read when they have stayed the same from one look to the
/// next: whoever writes one may be half-way through.
const LOOK: Duration = Duration::from_secs(1);

/// What is read again, and who is told.
pub(crate) struct Reloads {
    pub(crate) args: Args,
    pub(crate) env: Env,
    pub(crate) control: Arc<Control>,
    pub(crate) set_level: SetLevel,
}

impl Reloads {
    /// Follows the configuration, for ever.
    pub(crate) async fn follow(self, mut hangup: Signal, config: &Config) {
        let tls = &config.server.tls;
        let files = self.args.config.iter().chain(&tls.cert).chain(&tls.key).cloned().collect();
        let mut watched = Watched::new(files);
        loop {
            tokio::select! {
                _ = hangup.recv() => watched.look(),
                () = watched.changed(), if self.control.reload_on_change() => {}
            }
            self.reload().await;
        }
    }

    async fn reload(&self) {
        match self.control.reload(|| serve::load_again(&self.args, &self.env)).await {
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

/// Files that are looked at.
struct Watched {
    files: Vec<PathBuf>,
    /// What was read.
    known: Vec<Option<Stamp>>,
}

/// What shows that a file is another: its time with nanoseconds, its size, its inode. Of what a link
/// leads to, since directories of links are how orchestrators swap files.
type Stamp = (i64, i64, u64, u64);

impl Watched {
    fn new(files: Vec<PathBuf>) -> Self {
        let mut watched = Self { files, known: Vec::new() };
        watched.look();
        watched
    }

    /// What the files are now is read now.
    fn look(&mut self) {
        self.known = self.files.iter().map(|file| stamp(file)).collect();
    }

    /// Waits until a file is another than it was, and stays so. Can be begun again at any time.
    async fn changed(&mut self) {
        let mut before = None;
        loop {
            tokio::time::sleep(LOOK).await;
            let now: Vec<_> = self.files.iter().map(|file| stamp(file)).collect();
            if before.as_ref() == Some(&now) && now != self.known {
                self.known = now;
                return;
            }
            before = Some(now);
        }
    }
}

fn stamp(file: &Path) -> Option<Stamp> {
    let meta = std::fs::metadata(file).ok()?;
    Some((meta.mtime(), meta.mtime_nsec(), meta.size(), meta.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_file_is_read_when_it_stays_as_it_is() {
        let folder = std::env::temp_dir().join(format!("fanfare-watched-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (file, other) = (folder.join("file"), folder.join("other"));
        std::fs::write(&file, "one").unwrap();
        let mut watched = Watched::new(vec![file.clone(), folder.join("missing")]);
        let quiet = tokio::time::timeout(LOOK * 10, watched.changed());
        assert!(quiet.await.is_err(), "nothing has changed");
        std::fs::write(&other, "two").unwrap();
        std::fs::rename(&other, &file).unwrap();
        tokio::time::timeout(LOOK * 3, watched.changed()).await.expect("it has changed");
        let quiet = tokio::time::timeout(LOOK * 10, watched.changed());
        assert!(quiet.await.is_err(), "once");
        std::fs::remove_file(&file).unwrap();
        tokio::time::timeout(LOOK * 3, watched.changed()).await.expect("it is gone");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
