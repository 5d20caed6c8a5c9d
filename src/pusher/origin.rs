//! Which pages may connect: an app's list of allowed origins. Pure.

/// Whether a request with this `Origin` may connect. An empty list allows everything, a filled
/// one asks for an origin. An entry is `scheme://host[:port]`, or `host[:port]` for any scheme;
/// `*.` before the host stands for any subdomain.
pub(super) fn allows(list: &[String], origin: Option<&str>) -> bool {
    if list.is_empty() {
        return true;
    }
    let Some((scheme, host)) = origin.and_then(|origin| origin.split_once("://")) else { return false };
    list.iter().any(|entry| match entry.split_once("://") {
        Some((wanted, pattern)) => wanted.eq_ignore_ascii_case(scheme) && host_matches(pattern, host),
        None => host_matches(entry, host),
    })
}

fn host_matches(pattern: &str, host: &str) -> bool {
    let ends_alike = |suffix: &str| {
        host.len() > suffix.len()
            && host.get(host.len() - suffix.len()..).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
    };
    match pattern.strip_prefix('*') {
        Some("") => true,
        Some(suffix) => suffix.starts_with('.') && ends_alike(suffix),
        None => pattern.eq_ignore_ascii_case(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_match_by_scheme_host_port_and_subdomain() {
        let allowed = |entry: &str, origin: &str| allows(&[entry.to_owned()], Some(origin));
        assert!(allowed("https://a.test", "https://A.test"));
        assert!(!allowed("https://a.test", "http://a.test"));
        assert!(!allowed("https://a.test", "https://a.test:8443"));
        assert!(allowed("a.test", "http://a.test"));
        assert!(allowed("*.a.test", "https://x.a.test"));
        assert!(!allowed("*.a.test", "https://a.test"));
        assert!(!allowed("*.a.test", "https://evil-a.test"));
        assert!(!allowed("a.test", "https://a.test.evil"));
        assert!(allowed("*", "https://anything"));
        assert!(!allows(&["a.test".to_owned()], None));
        assert!(!allowed("a.test", "null"));
        assert!(allows(&[], None));
    }
}
