//! Whether there are descriptors enough, here and at the server.

use std::fs;

/// Descriptors that a process has besides its sockets.
const SPARE: u64 = 64;

/// Says before a run that there are too few descriptors for it.
///
/// # Errors
/// There are, for us or for a server whose process is known.
pub(super) fn check(sockets: u64, pids: &[u32]) -> Result<(), String> {
    let needed = sockets + SPARE;
    let ours = ("this process".to_owned(), "self".to_owned());
    let theirs = pids.iter().map(|pid| (format!("the server ({pid})"), pid.to_string()));
    for (who, process) in std::iter::once(ours).chain(theirs) {
        let text = fs::read_to_string(format!("/proc/{process}/limits")).unwrap_or_default();
        if let Some(limit) = soft_limit(&text).filter(|limit| *limit < needed) {
            return Err(format!(
                "{sockets} connections need {needed} file descriptors, and {who} may have {limit}: \
                 raise the limit with `ulimit -n {needed}`, or ask for fewer connections"
            ));
        }
    }
    Ok(())
}

/// The soft limit on open files, when there is one.
fn soft_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_the_first_number() {
        let text =
            |soft| format!("Limit  Soft  Hard\nMax open files            {soft}   20000   files     \n");
        assert_eq!(soft_limit(&text("1024")), Some(1024));
        assert_eq!(soft_limit(&text("unlimited")), None);
        assert_eq!(soft_limit(""), None);
    }

    #[test]
    fn too_many_connections_are_refused_before_they_are_tried() {
        assert_eq!(check(1, &[]), Ok(()));
        let refused = check(u64::MAX / 2, &[]).expect_err("no limit is as high");
        assert!(refused.contains("ulimit -n"), "{refused}");
    }
}
