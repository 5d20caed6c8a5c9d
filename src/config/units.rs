//! Sizes and durations as people write them.

use std::time::Duration;

const UNITS: [(&str, u64); 8] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
    ("", 1),
];

/// Reads "64KiB", "1 MB" or "512" as bytes. The case of the unit does not matter.
pub(super) fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit.trim_start()))?.1;
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// Writes bytes with the largest unit that divides them.
pub(super) fn size_text(bytes: u64) -> String {
    let fits = |factor: u64| bytes >= factor && bytes.is_multiple_of(factor);
    match UNITS.iter().find(|(name, factor)| name.ends_with("iB") && fits(*factor)) {
        Some((name, factor)) => format!("{}{name}", bytes / factor),
        None => format!("{bytes} bytes"),
    }
}

/// Reads "15s", "500ms", "1h 30m".
pub(super) fn duration(text: &str) -> Option<Duration> {
    humantime::parse_duration(text).ok()
}

/// Writes a duration as it could be read.
pub(super) fn duration_text(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("512B", 512),
            ("64KiB", 65_536),
            ("64kib", 65_536),
            ("1 MB", 1_000_000),
            (" 2MiB ", 2 << 20),
            ("1GiB", 1 << 30),
        ] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for bad in
            ["", "KiB", "-1", "1.5MiB", "1TiB", "1 K", "1KiBs", "99999999999999999999", "99999999999999GiB"]
        {
            assert_eq!(size(bad), None, "{bad}");
        }
        assert_eq!(size_text(64 << 10), "64KiB");
        assert_eq!(size_text(3 << 30), "3GiB");
        assert_eq!(size_text(1000), "1000 bytes");
        assert_eq!(size_text(0), "0 bytes");
    }

    #[test]
    fn durations() {
        assert_eq!(duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(duration("1h 30m"), Some(Duration::from_secs(5400)));
        for bad in ["", "15", "s", "-1s", "15x"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
        assert_eq!(duration_text(Duration::from_secs(1800)), "30m");
    }
}
