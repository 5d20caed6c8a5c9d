//! The command line: one file per subcommand, and what serving has beside it.

pub(crate) mod bench;
pub(crate) mod check;
pub(crate) mod limits;
pub(crate) mod log;
pub(crate) mod reload;
pub(crate) mod run;
pub(crate) mod serve;
pub(crate) mod signals;

use std::io::Write;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap::{Parser, Subcommand};

/// A self-hosted, drop-in replacement for hosted Pusher Channels.
#[derive(Debug, Parser)]
#[command(name = "fanfare", version, args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// `serve` may be left out.
    #[command(flatten)]
    serve: serve::Args,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve until told to stop (what is done when no command is given)
    Serve(serve::Args),
    /// Check a configuration and report every problem
    Check(check::Args),
    /// Put load on a server and say what became of it
    Bench(bench::Args),
}

impl Cli {
    /// The command that was meant.
    pub(crate) fn into_command(self) -> Command {
        self.command.unwrap_or(Command::Serve(self.serve))
    }
}

/// How long a text may take to be written.
const PATIENCE: Duration = Duration::from_secs(1);

/// Tells whoever started the program. Nobody may read it, and then writing never ends: that is waited for no
/// longer than [`PATIENCE`], and is no reason not to serve.
pub(crate) fn write_to(mut out: impl Write + Send + 'static, text: String) {
    let (written, wait) = mpsc::channel();
    let writing = thread::Builder::new().spawn(move || {
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        let _ = written.send(());
    });
    if writing.is_ok() {
        let _ = wait.recv_timeout(PATIENCE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn serve_is_what_is_done_by_default() {
        for words in [
            &["fanfare", "--config", "x", "--listen", "a:1", "--listen", "b:2"][..],
            &["fanfare", "serve", "--config", "x", "--listen", "a:1", "--listen", "b:2"],
        ] {
            match Cli::try_parse_from(words).map(Cli::into_command) {
                Ok(Command::Serve(args)) => {
                    assert_eq!(args.config.as_deref(), Some(std::path::Path::new("x")));
                    assert_eq!(args.listen, ["a:1", "b:2"]);
                    assert!(!args.insecure_dev_app);
                }
                other => panic!("{words:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn check_needs_a_file() {
        assert!(Cli::try_parse_from(["fanfare", "check"]).is_err());
        assert!(matches!(
            Cli::try_parse_from(["fanfare", "check", "--config", "x"]).map(Cli::into_command),
            Ok(Command::Check(_))
        ));
    }
}
