//! Tests of the whole way, from what is given to a checked configuration.

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;

const FULL: &str = include_str!("../../config/fanfare.toml");
const MINIMAL: &str = include_str!("../../config/minimal.toml");

fn load(source: Source, env: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let loaded = Config::load(source, &env.iter().copied().collect());
    loaded.map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

fn development(env: &[(&str, &str)]) -> Config {
    load(Source::development(), env).expect("no problems")
}

/// The example with everything switched on that is switched off in it.
fn uncommented() -> String {
    let on = |line: &str| match line.strip_prefix('#') {
        Some(setting) if !setting.is_empty() && !setting.starts_with(' ') => setting.to_owned(),
        _ => line.to_owned(),
    };
    FULL.lines().map(on).collect::<Vec<_>>().join("\n")
}

fn secrets() -> Env {
    [("APP_SECRET_2", "second"), ("FANFARE_SECRET", "first"), ("HOOK_TOKEN", "t")].into_iter().collect()
}

/// The uncommented example as it is read, with its known keys.
fn reading_of_everything() -> Reading {
    let mut problems = Vec::new();
    let root = file::read(Some("f"), &uncommented(), &secrets(), &mut problems).expect("TOML");
    let reading = Reading::new(root, problems);
    gather(&reading);
    reading
}

#[test]
fn without_anything_the_development_app_is_served() {
    let config = development(&[]);
    assert_eq!(config.server, Server::default());
    assert_eq!(config.admin, Admin::default());
    assert_eq!(config.warnings, [""; 0]);
    let [app] = &config.apps[..] else { panic!("{config:?}") };
    assert_eq!((&*app.id, app.enabled, app.features.client_events), ("1", true, true));
    let pairs: Vec<_> = app.keys.iter().map(|pair| (pair.key.as_str(), pair.secret.reveal())).collect();
    assert_eq!(pairs, [("app-key", "app-secret")]);
}

#[test]
fn the_example_is_what_is_served_without_it() {
    assert_eq!(Config::parse(FULL), Ok(development(&[])));
}

#[test]
fn the_example_names_every_key() {
    let reading = reading_of_everything();
    let written = |path: &str| {
        // What an app may say differently is written out once, as the default.
        let part = |name: &str| path.split_once(name).map(|(_, key)| format!("defaults{name}{key}"));
        let default = part(".features.").or_else(|| part(".limits."));
        let path = default.as_deref().unwrap_or(path);
        let (parent, key) = path.rsplit_once('.').unwrap_or(("", path));
        matches!(&reading.root().nearest(parent).value, Value::Table(entries) if entries.contains_key(key))
    };
    let known: BTreeSet<String> = reading.leaves().union(&reading.sections()).cloned().collect();
    let missing: Vec<_> = known.iter().filter(|path| !written(path)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    for path in [
        "server.tls.cert",
        "apps[0].keys[0].secret",
        "apps[0].webhooks[0].batch",
        "defaults.limits.cache_ttl",
    ] {
        assert!(known.contains(path), "{path} is not among {known:?}");
    }
}

#[test]
fn the_example_uncommented_is_fine_too() {
    let config = Config::load(Source::text("f", uncommented()), &secrets()).expect("no problems");
    assert_eq!(config.apps[0].keys[1].secret.reveal(), "second");
    assert_eq!(config.apps[0].webhooks.len(), 1);
    assert!(config.warnings.is_empty());
}

#[test]
fn the_minimal_example_needs_nothing_but_its_secret() {
    let config = Config::load(Source::text("f", MINIMAL), &secrets()).expect("no problems");
    assert_eq!(config.apps[0].keys[0].secret.reveal(), "first");
    assert!(!config.apps[0].features.client_events);
}

#[test]
fn every_key_has_its_variable() {
    for path in reading_of_everything().leaves() {
        let env: Env = [(env::name_of(&path), "@"), ("APP_SECRET_2".to_owned(), "x")].into_iter().collect();
        let loaded = Config::load(Source::text("f", uncommented()), &env);
        let problems = loaded.err().map(|problems| problems.to_string()).unwrap_or_default();
        // Neither unknown nor of the wrong kind.
        assert!(!problems.contains("unknown key") && !problems.contains("found text"), "{problems}");
    }
}

#[test]
fn flags_win_over_variables_over_the_file_over_defaults() {
    let text = FULL.replace("\"127.0.0.1:6001\"", "\"127.0.0.1:1\"").replace("\"15s\"", "\"16s\"");
    let source = || Source::text("f", text.clone());
    let first = |config: &Config| config.server.listen[0].to_string();
    let config = load(source(), &[]).expect("no problems");
    assert_eq!(
        (first(&config), config.server.shutdown_grace),
        ("127.0.0.1:1".to_owned(), Duration::from_secs(16))
    );
    let env = [
        ("FANFARE_SERVER__LISTEN", "127.0.0.1:2, 127.0.0.1:3"),
        ("FANFARE_SERVER__SHUTDOWN_GRACE", "20s"),
        ("FANFARE_SERVER__SUBSCRIPTION_ERRORS", "false"),
        ("FANFARE_SERVER__TRUSTED_PROXIES", "10.0.0.0/8,::1"),
        ("FANFARE_SERVER__TLS__CERT", "/cert"),
        ("FANFARE_SERVER__TLS__KEY", "/key"),
        ("FANFARE_DEFAULTS__LIMITS__MAX_EVENT_BYTES", "64KiB"),
        ("FANFARE_APPS__0__LIMITS__MAX_BATCH_EVENTS", "20"),
        ("FANFARE_BIN", "/not/ours"),
    ];
    let config = load(source(), &env).expect("no problems");
    assert_eq!((first(&config), config.server.listen.len()), ("127.0.0.1:2".to_owned(), 2));
    assert_eq!(config.server.shutdown_grace, Duration::from_secs(20));
    assert!(!config.server.subscription_errors);
    assert_eq!(config.server.trusted_proxies.len(), 2);
    assert_eq!(config.server.tls.cert.as_deref(), Some(Path::new("/cert")));
    let limits = &config.apps[0].limits;
    assert_eq!((limits.max_event_bytes, limits.max_batch_events), (65_536, 20));
    let config = load(source().listen(vec!["[::1]:4".to_owned()]), &env).expect("no problems");
    assert_eq!((first(&config), config.server.listen.len()), ("[::1]:4".to_owned(), 1));
}

#[test]
fn variables_can_add_apps_and_are_taken_literally() {
    let env =
        [("FANFARE_APPS__1__ID", "2"), ("FANFARE_APPS__1__KEY", "k2"), ("FANFARE_APPS__1__SECRET", "${X}")];
    let config = development(&env);
    assert_eq!(config.apps.len(), 2);
    assert_eq!(config.apps[1].keys[0].secret.reveal(), "${X}");
}

#[test]
fn variables_that_match_no_key_are_problems() {
    let env = [
        ("FANFARE_SERVER__SHUTDWON_GRACE", "1s"),
        ("FANFARE_SRVER__LISTEN", "x"),
        ("FANFARE_ADMIN__LISTEN__PORT", "1"),
        ("FANFARE_APPS__5__ID", "1"),
        ("FANFARE_APPS__FIRST__ID", "1"),
    ];
    let problems = load(Source::development(), &env).expect_err("problems");
    for (problem, expected) in problems.iter().zip([
        "FANFARE_ADMIN__LISTEN__PORT: admin.listen: expected text, found a section",
        "FANFARE_APPS__5__ID: apps[5].id: the next element of the list is number 1",
        "FANFARE_APPS__FIRST__ID: apps.first.id: expected the number of a list element, found \"first\"",
        "FANFARE_SERVER__SHUTDWON_GRACE: server.shutdwon_grace: unknown key, did you mean FANFARE_SERVER__SHUTDOWN_GRACE?",
        "FANFARE_SRVER__LISTEN: srver.listen: unknown key, did you mean FANFARE_SERVER__LISTEN?",
    ]) {
        assert_eq!(problem, expected);
    }
    assert_eq!(problems.len(), env.len(), "{problems:#?}");
}

#[test]
fn the_development_app_takes_credentials_from_the_environment() {
    let env = [("PUSHER_APP_ID", "7"), ("PUSHER_APP_KEY", "k"), ("PUSHER_APP_SECRET", "s")];
    let app = &development(&env).apps[0];
    assert_eq!((&*app.id, app.keys[0].key.as_str(), app.keys[0].secret.reveal()), ("7", "k", "s"));
    assert!(app.features.client_events);
    let problems = load(Source::development(), &[("PUSHER_APP_KEY", "")]).expect_err("a problem");
    assert_eq!(problems, ["PUSHER_APP_KEY: apps[0].key: must not be empty"]);
    assert_eq!(load(Source::text("f", FULL), &env), Ok(development(&[])), "a file says its own");
}

#[test]
fn public_credentials_stay_on_this_machine() {
    let at = |address: &str| Source::development().listen(vec![address.to_owned()]);
    for address in ["0.0.0.0:0", "[::]:0", "10.0.0.1:0", "example.test:0"] {
        let problems = load(at(address), &[]).expect_err(address);
        assert!(problems[0].starts_with("apps[0].secret: the development secret is public"), "{problems:?}");
        assert!(load(at(address).insecure_dev_app(true), &[]).is_ok(), "{address}");
        assert!(load(at(address), &[("PUSHER_APP_SECRET", "s")]).is_ok(), "{address}");
        assert!(load(at(address), &[("FANFARE_APPS__0__ENABLED", "false")]).is_ok(), "{address}");
    }
    assert!(load(at("localhost:0"), &[]).is_ok());
}

#[test]
fn limits_that_defeat_each_other_are_warned_about() {
    let env = [("FANFARE_SERVER__MAX_MAILBOX_BYTES", "1KiB"), ("FANFARE_SERVER__MAX_QUEUE_BYTES", "1KiB")];
    let warnings = development(&env).warnings;
    assert_eq!(warnings.len(), 2, "{warnings:?}");
}

#[test]
fn problems_never_show_a_secret() {
    let text = r#"
        [admin]
        token = "s3cret token"
        [cluster]
        engine = "redis"
        url = "redis:/:s3cret@host"
        [[apps]]
        id = "1"
        key = "k"
        secret = " s3cret "
        [[apps.keys]]
        secret = ["s3cret"]
        [[apps.webhooks]]
        url = "ftp://s3cret@host"
    "#;
    let problems = Config::parse(text).expect_err("problems");
    assert!(problems.iter().count() >= 6, "{problems}");
    assert!(!problems.to_string().contains("s3cret"), "{problems}");
}
