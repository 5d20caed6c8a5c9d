//! The two text forms of metrics, and which of them a scraper is given.

use std::fmt::Write;

use hyper::HeaderMap;
use hyper::header::ACCEPT;

/// How metrics are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// OpenMetrics 1.0.0.
    Open,
    /// Prometheus's own text format 0.0.4, which everything reads.
    Plain,
}

impl Form {
    /// OpenMetrics for whoever names it and does not like plain text better.
    pub(super) fn accepted(headers: &HeaderMap) -> Self {
        let (mut open, mut plain) = (0.0, 0.0);
        let lines = headers.get_all(ACCEPT).iter().filter_map(|line| line.to_str().ok());
        for range in lines.flat_map(|line| line.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            let weight = parts.filter_map(|part| part.strip_prefix("q=")).next_back();
            let weight: f64 = weight.map_or(1.0, |weight| weight.parse().unwrap_or(0.0));
            if kind.eq_ignore_ascii_case("application/openmetrics-text") {
                open = weight.max(open);
            } else if kind.eq_ignore_ascii_case("text/plain") {
                plain = weight.max(plain);
            }
        }
        if open > 0.0 && open >= plain { Self::Open } else { Self::Plain }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Open => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Plain => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// Writes what is given as OpenMetrics in this form.
    pub(super) fn write(self, open: &str) -> String {
        match self {
            Self::Open => open.to_owned(),
            Self::Plain => plain(open),
        }
    }
}

/// In the older form a counter's name has its `_total` also where it is described, and nothing marks
/// the end.
fn plain(open: &str) -> String {
    let mut plain = String::with_capacity(open.len() + open.len() / 16);
    let mut described = ("", "");
    for line in open.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            described = help.split_once(' ').unwrap_or((help, ""));
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|it| it.split_once(' ')) {
            let total = if kind == "counter" { "_total" } else { "" };
            let kind = if kind == "unknown" { "untyped" } else { kind };
            if described.0 == name {
                let _ = writeln!(plain, "# HELP {name}{total} {}", described.1);
            }
            let _ = writeln!(plain, "# TYPE {name}{total} {kind}");
        } else if !line.starts_with('#') {
            let _ = writeln!(plain, "{line}");
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn accepted(accept: &[&'static str]) -> Form {
        Form::accepted(&accept.iter().map(|line| (ACCEPT, HeaderValue::from_static(line))).collect())
    }

    #[test]
    fn who_names_openmetrics_gets_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
             application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        assert_eq!(accepted(&[prometheus]), Form::Open);
        assert_eq!(accepted(&["Application/OpenMetrics-Text"]), Form::Open);
        assert_eq!(accepted(&["text/html", "application/openmetrics-text; q=0.1"]), Form::Open);
    }

    #[test]
    fn everybody_else_gets_plain_text() {
        assert_eq!(accepted(&[]), Form::Plain);
        for accept in [
            "",
            "*/*",
            "text/plain;version=0.0.4",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=much",
            "application/openmetrics-text;q=0.2,text/plain;q=0.3",
            ",;q=1;;=,/",
        ] {
            assert_eq!(accepted(&[accept]), Form::Plain, "{accept}");
        }
        let no_text = HeaderValue::from_bytes(b"\xff").expect("a header");
        assert_eq!(Form::accepted(&[(ACCEPT, no_text)].into_iter().collect()), Form::Plain);
    }

    #[test]
    fn plain_text_names_counters_in_whole_and_has_no_end() {
        let open = "# HELP a_sent What.\n# TYPE a_sent counter\na_sent_total{x=\"# TYPE\"} 1\n# HELP b B.\n\
             # TYPE b unknown\n# UNIT b bytes\nb 2\n# EOF\n";
        let expected = "# HELP a_sent_total What.\n# TYPE a_sent_total counter\n\
             a_sent_total{x=\"# TYPE\"} 1\n# HELP b B.\n# TYPE b untyped\nb 2\n";
        assert_eq!(Form::Plain.write(open), expected);
        assert_eq!(Form::Open.write(open), open);
    }
}
