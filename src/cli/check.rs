//! `fanfare check`: loads a configuration as `serve` would, and says what is wrong with it.

use std::fmt::Write;
use std::path::PathBuf;

use fanfare::config::{Config, Env, Problems, Source};

/// Flags of `check`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file to check
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Checks the file; returns what to tell when nothing is wrong.
///
/// # Errors
/// Everything that is wrong with it.
pub(crate) fn run(args: &Args, env: &Env) -> Result<String, Problems> {
    let config = Config::load_with_certificate(Source::read(&args.config)?, env)?;
    let apps = match config.apps.len() {
        1 => "1 app".to_owned(),
        count => format!("{count} apps"),
    };
    let mut report = format!("{}: ok, {apps}\n", args.config.display());
    for warning in &config.warnings {
        // Writing to a string cannot fail.
        let _ = writeln!(report, "warning: {warning}");
    }
    Ok(report)
}
