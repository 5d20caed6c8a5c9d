//! What the system allows a process: raised where it can be, and told where it is little.

/// Open files that are not clients' sockets: listeners, webhooks, other nodes.
const RESERVED: u64 = 256;
/// Fewer sockets than this are less than a broker is put up for.
const FEW_SOCKETS: u64 = 10_000;
/// A shorter queue of connections to accept is filled by a crowd that comes back at once.
const SHORT_QUEUE: u64 = 1024;

const SOMAXCONN: &str = "/proc/sys/net/core/somaxconn";

/// What the system allows.
pub(crate) struct Limits {
    open_files: u64,
    /// Connections that may wait to be accepted, where the system says so.
    queue: Option<u64>,
}

impl Limits {
    /// Raises the limit of open files as far as this process may, and looks at what there is.
    pub(crate) fn raise() -> Self {
        let raised = rlimit::increase_nofile_limit(u64::MAX);
        let current = || rlimit::Resource::NOFILE.get_soft();
        let open_files = raised.or_else(|_| current()).unwrap_or(rlimit::INFINITY);
        let queue = std::fs::read_to_string(SOMAXCONN).ok().and_then(|text| text.trim().parse().ok());
        Self { open_files, queue }
    }

    fn sockets(&self) -> u64 {
        self.open_files.saturating_sub(RESERVED)
    }

    /// One line: how many sockets fit.
    pub(crate) fn line(&self) -> String {
        if self.open_files == rlimit::INFINITY {
            return "fanfare: any number of sockets (open files: unlimited)\n".to_owned();
        }
        let (sockets, files) = (grouped(self.sockets()), grouped(self.open_files));
        format!("fanfare: up to {sockets} sockets (open files: {files})\n")
    }

    /// What is little, one line each.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.sockets() < FEW_SOCKETS {
            let sockets = grouped(self.sockets());
            warnings.push(format!("only {sockets} sockets fit; raise the limit of open files (ulimit -Hn)"));
        }
        if let Some(queue) = self.queue.filter(|queue| *queue < SHORT_QUEUE) {
            warnings.push(format!(
                "net.core.somaxconn is {queue}: of a crowd that connects at once, most will have to wait"
            ));
        }
        warnings
    }
}

/// A number with its thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (12_345_678, "12,345,678")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn the_line_tells_how_many_sockets_fit() {
        let line = |open_files| Limits { open_files, queue: None }.line();
        assert_eq!(line(524_288), "fanfare: up to 524,032 sockets (open files: 524,288)\n");
        assert_eq!(line(100), "fanfare: up to 0 sockets (open files: 100)\n");
        assert_eq!(line(rlimit::INFINITY), "fanfare: any number of sockets (open files: unlimited)\n");
    }

    #[test]
    fn what_is_little_is_warned_of_in_a_line_each() {
        let warnings = |open_files, queue| Limits { open_files, queue }.warnings();
        assert_eq!(warnings(FEW_SOCKETS + RESERVED, None), [""; 0]);
        assert_eq!(warnings(rlimit::INFINITY, Some(1024)), [""; 0]);
        let both = warnings(FEW_SOCKETS + RESERVED - 1, Some(128));
        assert_eq!(both.len(), 2, "{both:?}");
        assert!(both[0].contains("only 9,999 sockets") && both[1].contains("somaxconn is 128"), "{both:?}");
    }
}
