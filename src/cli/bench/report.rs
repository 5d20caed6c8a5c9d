//! What came out of a run: a JSON object for programs, a row of a table for people.

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;

use super::failure::Failures;
use super::percentiles::{NAMES, Percentiles, Times};
use super::run::Moment;
use super::traffic::Traffic;

/// What came out of a run of one mode.
#[derive(Debug)]
pub(super) struct Report {
    mode: &'static str,
    what: String,
    figures: Vec<(String, Value)>,
    notes: Vec<String>,
    /// One of what is counted, and several of it.
    unit: (&'static str, &'static str),
    count: u64,
    per_second: f64,
    times: Option<Percentiles>,
    cpu_each: Option<f64>,
    lost: u64,
    doubled: u64,
    out_of_order: u64,
    errors: u64,
}

impl Report {
    /// Nothing came out yet.
    pub(super) fn new(mode: &'static str, what: String) -> Self {
        Self {
            mode,
            what,
            figures: Vec::new(),
            notes: Vec::new(),
            unit: ("", ""),
            count: 0,
            per_second: 0.0,
            times: None,
            cpu_each: None,
            lost: 0,
            doubled: 0,
            out_of_order: 0,
            errors: 0,
        }
    }

    /// Adds a figure for programs.
    pub(super) fn put(&mut self, name: impl Into<String>, value: impl Into<Value>) {
        let value = match value.into() {
            // No more digits than mean something.
            Value::Number(number) if number.is_f64() => {
                number.as_f64().map_or(Value::Null, |exact| ((exact * 1e4).round() / 1e4).into())
            }
            value => value,
        };
        self.figures.push((name.into(), value));
    }

    /// Adds a line for people.
    pub(super) fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    /// What is counted, how many there were, and how many in a second.
    pub(super) fn count(&mut self, one: &'static str, several: &'static str, count: u64, per_second: f64) {
        (self.unit, self.count, self.per_second) = ((one, several), count, per_second);
        self.put(several, count);
        self.put(format!("{several}_per_second"), per_second);
    }

    /// Adds percentiles of some times.
    pub(super) fn times(&mut self, name: &str, times: &Times) {
        let Some(percentiles) = times.percentiles() else { return };
        self.put(format!("{name}_mean_us"), percentiles.mean);
        for (percentile, value) in NAMES.iter().zip(percentiles.told) {
            self.put(format!("{name}_{}_us", percentile.replace('.', "")), value);
        }
    }

    /// The times that stand in the table.
    pub(super) fn row_times(&mut self, times: &Times) {
        self.times = times.percentiles();
    }

    /// What was lost, came twice, or came too late.
    pub(super) fn tally(&mut self, lost: u64, doubled: u64, out_of_order: u64) {
        (self.lost, self.doubled, self.out_of_order) = (lost, doubled, out_of_order);
        self.put("lost", lost);
        self.put("doubled", doubled);
        self.put("out_of_order", out_of_order);
    }

    /// How the deliveries went. One to a socket that it was not meant for is an error.
    pub(super) fn traffic(&mut self, traffic: &Traffic) {
        self.put("expected", traffic.expected());
        self.put("received", traffic.received());
        self.tally(traffic.lost(), traffic.doubled(), traffic.out_of_order());
        self.put("misdirected", traffic.misdirected());
        self.errors += traffic.misdirected();
        self.times("latency", &traffic.latency());
    }

    /// What server and bench used between two moments, in all and for each of `count` things.
    pub(super) fn usage(&mut self, before: &Moment, after: &Moment, count: u64) {
        if let (Some(from), Some(to)) = (&before.own, &after.own) {
            self.put("bench_cpu_s", to.cpu_since(from) as f64 / 1e9);
        }
        let (Some(from), Some(to)) = (&before.server, &after.server) else { return };
        let spent = to.cpu_since(from) as f64;
        let each = spent / 1e3 / count.max(1) as f64;
        self.put("server_cpu_s", spent / 1e9);
        self.put("server_cores", spent / after.at.saturating_sub(before.at).max(1) as f64);
        self.put(format!("server_cpu_us_per_{}", self.unit.0), each);
        self.put("server_rss_before_kib", from.rss_kib);
        self.put("server_rss_after_kib", to.rss_kib);
        self.cpu_each = (count > 0).then_some(each);
    }

    /// What went wrong.
    pub(super) fn failures(&mut self, failures: &Failures) {
        self.errors += failures.count();
        self.put("errors", self.errors);
        self.put("first_error", failures.first());
        if let Some(first) = failures.first() {
            let count = failures.count();
            self.note(format!("{count} {}: {first}", if count == 1 { "error" } else { "errors, the first" }));
        }
    }

    /// Whether everything came, once and in order, and nothing went wrong.
    pub(super) fn is_clean(&self) -> bool {
        self.lost == 0 && self.doubled == 0 && self.out_of_order == 0 && self.errors == 0
    }

    fn cells(&self) -> Vec<String> {
        let mut cells = vec![self.mode.to_owned(), format!("{} {}", self.count, self.unit.1)];
        cells.push(format!("{:.0}", self.per_second));
        match &self.times {
            Some(times) => cells.extend(times.told.iter().map(|time| time_text(*time))),
            None => cells.extend(NAMES.iter().map(|_| "-".to_owned())),
        }
        cells
            .extend([self.lost, self.doubled, self.out_of_order, self.errors].map(|count| count.to_string()));
        cells.push(self.cpu_each.map_or("-".to_owned(), time_text));
        cells
    }
}

impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("mode", self.mode)?;
        map.serialize_entry("what", &self.what)?;
        map.serialize_entry("ok", &self.is_clean())?;
        for (name, value) in &self.figures {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// A table of all reports, and below it what does not fit into a row.
pub(super) fn table(reports: &[Report]) -> String {
    let mut rows = vec![head()];
    rows.extend(reports.iter().map(Report::cells));
    let mut text = aligned(&rows);
    text.push('\n');
    for report in reports {
        text.push_str(&format!("{}: {}\n", report.mode, report.what));
        report.notes.iter().for_each(|note| text.push_str(&format!("  {note}\n")));
    }
    text
}

fn head() -> Vec<String> {
    let mut head = vec!["mode", "count", "a second"];
    head.extend(NAMES);
    head.extend(["lost", "doubled", "disorder", "errors", "CPU each"]);
    head.into_iter().map(str::to_owned).collect()
}

/// Names to the left, figures to the right.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (n, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let cell = if n == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") };
            line.push_str(&cell);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Microseconds as people read them.
fn time_text(microseconds: f64) -> String {
    match microseconds {
        us if us < 10.0 => format!("{us:.2} µs"),
        us if us < 1000.0 => format!("{us:.0} µs"),
        us if us < 10_000.0 => format!("{:.2} ms", us / 1e3),
        us if us < 1_000_000.0 => format!("{:.1} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits_and_a_unit() {
        for (time, text) in [
            (2.345, "2.35 µs"),
            (812.4, "812 µs"),
            (9130.0, "9.13 ms"),
            (45_670.0, "45.7 ms"),
            (2.5e6, "2.50 s"),
        ] {
            assert_eq!(time_text(time), text);
        }
    }

    #[test]
    fn only_a_faultless_run_is_clean() {
        let new = || Report::new("fanout", String::new());
        assert!(new().is_clean());
        for (lost, doubled, disorder) in [(1, 0, 0), (0, 1, 0), (0, 0, 1)] {
            let mut report = new();
            report.tally(lost, doubled, disorder);
            assert!(!report.is_clean());
        }
        let (mut report, failures) = (new(), Failures::default());
        failures.add(&"no");
        report.failures(&failures);
        assert!(!report.is_clean());
        assert!(table(&[report]).contains("  1 error: no\n"));
    }

    #[test]
    fn json_keeps_the_order_of_the_figures() {
        let mut report = Report::new("idle", "x".to_owned());
        report.count("socket", "sockets", 3, 1.0 / 3.0);
        let json = serde_json::to_string(&report).expect("JSON");
        let expected = r#"{"mode":"idle","what":"x","ok":true,"sockets":3,"sockets_per_second":0.3333}"#;
        assert_eq!(json, expected);
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["mode".into(), "n".into()], vec!["x".into(), "100".into()]];
        assert_eq!(aligned(&rows), "mode    n\nx     100\n");
    }
}
