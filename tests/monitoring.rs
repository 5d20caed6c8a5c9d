//! The dashboard and the alerts of `config/deploy`, and the pages for operators, name only metrics that there are.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::BTreeSet;
use std::path::Path;

use common::certificates::{Authority, Folder};
use common::redis::Redis;
use common::{APP, Api, Metrics, Program, http, settings};
use serde_json::Value;

fn text_of(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect(path)
}

/// Every metric of ours or of the process that a text names.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = words.filter(|word| word.starts_with("fanfare_") || word.starts_with("process_"));
    ours.map(str::to_owned).collect()
}

/// What stands under this key, wherever in it that is.
fn texts_under<'a>(key: &str, value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(object) => {
            found.extend(object.get(key).and_then(Value::as_str));
            object.values().for_each(|value| texts_under(key, value, found));
        }
        Value::Array(array) => array.iter().for_each(|value| texts_under(key, value, found)),
        _ => {}
    }
}

/// Of a node that has everything that is measured.
async fn names() -> BTreeSet<String> {
    let redis = Redis::start().await;
    let (folder, authority) = (Folder::new("monitored-tls"), Authority::new());
    folder.hold(&authority.issue_number(1));
    let files = ["cert", "key"].map(|name| (name.to_owned(), folder.file(&format!("{name}.pem")).into()));
    let settings = settings().cluster("engine", "redis").cluster("url", redis.url());
    let settings = settings.server("listen", vec!["127.0.0.1:0", "tls://127.0.0.1:0"]);
    let settings = settings.server("tls", toml::Table::from_iter(files));
    let program = Program::start("monitored", &settings.hook("http://127.0.0.1:9/"), "").await;
    Api::new(program.address, APP).publish("a", "b", "c").await;
    let metrics = Metrics::of(&http::ask(program.admin, "GET", "/metrics").await);
    metrics.0.into_keys().map(|sample| sample.split('{').next().expect("a name").to_owned()).collect()
}

fn assert_known(what: &str, wanted: &BTreeSet<String>, names: &BTreeSet<String>) {
    let unknown: Vec<_> = wanted.difference(names).collect();
    assert!(unknown.is_empty(), "{what} names what there is not: {unknown:?}, of {names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_metrics_that_there_are_are_named() {
    let names = names().await;
    let dashboard: Value =
        serde_json::from_str(&text_of("config/deploy/grafana-dashboard.json")).expect("JSON");
    let (mut expressions, mut queries) = (Vec::new(), Vec::new());
    texts_under("expr", &dashboard, &mut expressions);
    texts_under("query", &dashboard, &mut queries);
    assert!(expressions.len() > 30 && queries.len() >= 2, "{}", expressions.len());
    for text in expressions.iter().chain(&queries) {
        let named = named(text);
        assert!(!named.is_empty() || *text == "prometheus", "{text} is about nothing");
        assert_known(text, &named, &names);
    }
    let alerts = text_of("config/deploy/alerts.yaml");
    let expressions: Vec<_> = alerts.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).collect();
    assert_eq!(expressions.len(), alerts.matches("alert: ").count());
    for text in expressions {
        assert_known(text, &named(text), &names);
    }
    let mut named = named(&(text_of("README.md") + &text_of("config/operation.md")));
    for broker in ["soketi", "reverb", "sockudo", "pusher"] {
        let page = self::named(&text_of(&format!("config/migrate/{broker}.md")));
        // What else there is may be a setting of theirs.
        named.extend(page.into_iter().filter(|name| name.starts_with("fanfare_")));
    }
    // The beginning of many names.
    named.retain(|name| !name.ends_with('_'));
    assert!(named.len() > 30, "{named:?}");
    // A histogram as a whole.
    let histograms = names.iter().filter_map(|name| name.strip_suffix("_bucket")).map(str::to_owned);
    let names = histograms.chain(names.clone()).collect();
    assert_known("a page", &named, &names);
}

#[test]
fn a_metric_that_is_misspelt_is_found() {
    let names = named("fanfare_a_total fanfare_b_bucket");
    let in_use = named("rate(fanfare_a_total{x=\"y\"}[5m]) / fanfare_b");
    assert_eq!(in_use.difference(&names).collect::<Vec<_>>(), ["fanfare_b"]);
}
