//! What the files of `[server.tls]` hold: the one part of a configuration that is not in itself.

use super::Config;
use super::listen::Listen;
use super::reading::Reading;
use crate::certificates::inspect;

/// Reports what the `tls://` listeners could not be served with; returns warnings.
pub(super) fn check(config: &Config, reading: &Reading) -> Vec<String> {
    let wanted = config.server.listen.iter().any(|listen| matches!(listen, Listen::Tls(_)));
    let (Some(cert), Some(key), true) = (&config.server.tls.cert, &config.server.tls.key, wanted) else {
        return Vec::new();
    };
    match inspect(cert, key) {
        Ok(warnings) => warnings.iter().map(ToString::to_string).collect(),
        Err(problems) => {
            for problem in problems {
                reading.problem(problem.key, format!("{}: {}", problem.file.display(), problem.fault));
            }
            Vec::new()
        }
    }
}
