//! The configurations in `config/deploy` and `config/migrate` load, and name what there is.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use fanfare::config::{Config, Env, Source};

#[test]
fn the_deployed_files_load() {
    let env = [("REDIS_PASSWORD", "p"), ("FANFARE_KEY", "k"), ("FANFARE_SECRET", "s")];
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/deploy/cluster/config/fanfare.toml");
    let config = Config::load(Source::read(&file).expect("a file"), &env.into_iter().collect());
    let config = config.expect("no problems");
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    assert_eq!(config.cluster.url, "redis://:p@redis:6379");
    // It believes the proxy that stands before it in the same network.
    let compose = file.ancestors().nth(2).expect("a folder").join("compose.yaml");
    let compose = std::fs::read_to_string(compose).expect("a file");
    for network in &config.server.trusted_proxies {
        assert!(compose.contains(&format!("subnet: {network}\n")), "{network}");
    }
}

/// The pages for those who come from another broker: names and texts.
fn migration_pages() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/migrate");
    let paths = folder.read_dir().expect("the folder").map(|entry| entry.expect("an entry").path());
    let page = |path: PathBuf| (path.display().to_string(), std::fs::read_to_string(path).expect("a text"));
    let pages: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "md")).map(page).collect();
    assert!(pages.len() >= 4, "only {} pages", pages.len());
    pages
}

/// What stands between the fences of a language.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("\n```{language}\n");
    page.split(&fence).skip(1).map(|rest| rest.split("\n```").next().unwrap_or(rest)).collect()
}

/// Every variable that a configuration names, set to something.
fn dummies(text: &str) -> Env {
    let names = text.split("${").skip(1).filter_map(|rest| Some(rest.split_once('}')?.0));
    names.map(|name| (name, format!("dummy-{name}"))).collect()
}

#[test]
fn the_examples_of_the_migration_pages_load() {
    for (name, page) in migration_pages() {
        let examples: Vec<_> = blocks(&page, "toml").into_iter().filter(|b| b.contains("[[apps]]")).collect();
        assert!(!examples.is_empty(), "{name} has no example");
        for example in examples {
            let config = Config::load(Source::text(&name, example), &dummies(example));
            let config = config.unwrap_or_else(|problems| panic!("{problems:#?}\n{example}"));
            assert!(config.warnings.is_empty(), "{name}: {:?}", config.warnings);
        }
    }
}

/// Every key that `config/fanfare.toml` explains, with its section; switched off ones too.
fn documented_keys() -> BTreeSet<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/fanfare.toml");
    let text = std::fs::read_to_string(file).expect("a file");
    let mut section = String::new();
    let mut keys = BTreeSet::new();
    for line in text.lines().map(|line| line.strip_prefix('#').unwrap_or(line)) {
        if let Some(name) = line.strip_prefix('[') {
            let name = name.trim_matches(['[', ']']);
            section = name.strip_prefix("defaults.").unwrap_or(name).to_owned();
        } else if let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with(' ')) {
            keys.insert(format!("{section}.{key}"));
        }
    }
    keys
}

/// The words in backticks that look like a key, but for those in the first column of tables, where
/// the other broker's stand.
fn named_keys(page: &str) -> Vec<&str> {
    const SECTIONS: [&str; 8] =
        ["server", "admin", "log", "cluster", "webhooks", "features", "limits", "apps"];
    let lines = page.lines().map(|line| match line.strip_prefix("| ") {
        Some(cells) => cells.split_once(" | ").map_or("", |(_, rest)| rest),
        None => line,
    });
    let words = lines.flat_map(|line| line.split('`').skip(1).step_by(2));
    words
        .filter(|word| word.split_once('.').is_some_and(|(section, _)| SECTIONS.contains(&section)))
        .collect()
}

#[test]
fn migration_pages_name_only_keys_that_exist() {
    let keys = documented_keys();
    assert!(keys.len() > 60, "only {} keys in fanfare.toml", keys.len());
    for (name, page) in migration_pages() {
        let named = named_keys(&page);
        assert!(named.len() > 20, "{name} names only {} keys", named.len());
        let unknown: Vec<_> = named.into_iter().filter(|key| !keys.contains(*key)).collect();
        assert!(unknown.is_empty(), "{name} names keys that do not exist: {unknown:?}");
    }
}

/// The probes and the grace of the manifests go with the drain of the config that is in them.
#[test]
fn the_config_for_kubernetes_loads_and_fits() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/deploy/kubernetes.yaml");
    let manifest = std::fs::read_to_string(file).expect("a file");
    let (_, rest) = manifest.split_once("  fanfare.toml: |\n").expect("a config");
    let lines = rest.lines().take_while(|line| line.is_empty() || line.starts_with("    "));
    let text: String = lines.map(|line| format!("{}\n", line.trim_start_matches("    "))).collect();
    let names = ["FANFARE_ADMIN_TOKEN", "REDIS_PASSWORD", "FANFARE_KEY", "FANFARE_SECRET"];
    let env = names.into_iter().map(|name| (name, "x")).collect();
    let config = Config::load(Source::text("fanfare.toml", text), &env).expect("no problems");
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    let number = |key: &str| -> u64 {
        let (_, rest) = manifest.split_once(key).expect(key);
        rest.lines().next().expect("a value").trim().parse().expect("a number")
    };
    let grace = config.server.shutdown_grace.as_secs();
    assert!(number("terminationGracePeriodSeconds:") > grace && number("minReadySeconds:") > grace);
    for name in names {
        assert!(manifest.contains(&format!("- name: {name}\n")), "{name} is not given to the container");
    }
}

/// Docker does as well.
#[test]
fn the_compose_files_leave_time_to_stop() {
    let config = Config::load(Source::development(), &Env::default()).expect("the defaults");
    for file in ["config/deploy/compose.yaml", "config/deploy/cluster/compose.yaml"] {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).expect(file);
        let grace = text.split("stop_grace_period: ").nth(1).and_then(|rest| rest.split('s').next());
        let grace: u64 = grace.expect(file).parse().expect("seconds");
        assert!(grace > config.server.shutdown_grace.as_secs(), "{file}");
    }
}

/// systemd kills it later than it is done by itself, and has signs of life more often than it wants them.
#[test]
fn the_unit_leaves_time_to_stop() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/deploy/fanfare.service");
    let unit = std::fs::read_to_string(file).expect("a file");
    let seconds = |key: &str| -> u64 {
        let value = unit.lines().find_map(|line| line.strip_prefix(key)).expect(key);
        value.trim_end_matches('s').parse().expect("seconds")
    };
    let config = Config::load(Source::development(), &Env::default()).expect("the defaults");
    assert!(seconds("TimeoutStopSec=") > config.server.shutdown_grace.as_secs());
    assert!(seconds("WatchdogSec=") > 2 * fanfare::watchdog::STALLED_AFTER.as_secs());
    for line in ["Type=notify", "ExecReload=/bin/kill -HUP $MAINPID"] {
        assert!(unit.lines().any(|known| known == line), "{line}");
    }
    let socket =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/deploy/fanfare.socket"));
    assert!(socket.expect("a file").contains("FileDescriptorName=public\n"));
}
