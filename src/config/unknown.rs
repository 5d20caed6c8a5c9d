//! Keys that nobody asked for, and what may have been meant by them.

use std::collections::BTreeSet;

use super::env;
use super::problem::Place;
use super::reading::Reading;
use super::tree::{Node, Value, join};

/// Reports every key of the tree that was not asked for. Comes last, when all known keys were.
pub(super) fn report(reading: &Reading) {
    let known = Known { leaves: reading.leaves(), sections: reading.sections() };
    walk(reading, &known, reading.root(), "");
}

/// The paths that were asked for.
struct Known {
    leaves: BTreeSet<String>,
    sections: BTreeSet<String>,
}

fn walk(reading: &Reading, known: &Known, node: &Node, path: &str) {
    match &node.value {
        Value::Table(entries) => {
            for (key, below) in entries {
                let path_below = join(path, key);
                if known.sections.contains(&path_below) {
                    walk(reading, known, below, &path_below);
                } else if !known.leaves.contains(&path_below) {
                    unknown(reading, known, below, path, key);
                }
            }
        }
        Value::List(items) => {
            for (i, below) in items.iter().enumerate() {
                walk(reading, known, below, &format!("{path}[{i}]"));
            }
        }
        _ => {}
    }
}

fn unknown(reading: &Reading, known: &Known, node: &Node, parent: &str, key: &str) {
    let path = join(parent, key);
    if let Place::Env(_) = node.place {
        return variables(reading, known, node, &path);
    }
    let meant =
        sibling(known, parent, key).map(|name| format!("{name:?}")).or_else(|| elsewhere(known, parent, key));
    let guess = meant.map(|meant| format!(", did you mean {meant}?")).unwrap_or_default();
    reading.problem_at(node.place.clone(), &path, format!("unknown key{guess}"));
}

/// A section that only the environment has is reported by its variables.
fn variables(reading: &Reading, known: &Known, node: &Node, path: &str) {
    match (&node.value, &node.place) {
        (Value::Table(entries), _) => {
            for (key, below) in entries {
                variables(reading, known, below, &join(path, key));
            }
        }
        (Value::List(items), _) => {
            for (i, below) in items.iter().enumerate() {
                variables(reading, known, below, &format!("{path}[{i}]"));
            }
        }
        (_, Place::Env(name)) => {
            let names: Vec<String> = known.leaves.iter().map(|path| env::name_of(path)).collect();
            let meant = nearest(name, names.iter().map(String::as_str));
            let guess = meant.map(|meant| format!(", did you mean {meant}?")).unwrap_or_default();
            reading.problem_at(node.place.clone(), path, format!("unknown key{guess}"));
        }
        _ => {}
    }
}

/// The known key of the same section that `key` is nearest to.
fn sibling<'k>(known: &'k Known, parent: &str, key: &str) -> Option<&'k str> {
    let below = |path: &'k String| {
        let key = path.strip_prefix(parent)?;
        let key = if parent.is_empty() { key } else { key.strip_prefix('.')? };
        (!key.contains(['.', '['])).then_some(key)
    };
    nearest(key, known.leaves.iter().chain(&known.sections).filter_map(below))
}

/// A known setting of this name in another section, first of all in one below this.
fn elsewhere(known: &Known, parent: &str, key: &str) -> Option<String> {
    let end = format!(".{key}");
    let mut same = known.leaves.iter().filter(|path| path.ends_with(&end));
    let below = same.clone().find(|path| path.starts_with(parent));
    below.or_else(|| same.next()).map(|path| (*path).clone())
}

/// The name nearest to `given`, if it is near: at most a third of it, and three letters, differ.
pub(super) fn nearest<'n>(given: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let given = given.to_ascii_lowercase();
    let distance = |name: &str| strsim::damerau_levenshtein(&given, &name.to_ascii_lowercase());
    let near = |name: &str, distance: usize| distance <= 3.min(given.len().max(name.len()) / 3);
    let measured = names.map(|name| (distance(name), name));
    measured.filter(|(distance, name)| near(name, *distance)).min().map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_near_names_are_guessed() {
        let names = ["secret", "keys", "id", "max_event_bytes"];
        for (given, expected) in [
            ("sekret", Some("secret")),
            ("Secret", Some("secret")),
            ("ids", Some("id")),
            ("max-event-bytes", Some("max_event_bytes")),
            ("max_event_kilobytes", None),
            ("colour", None),
        ] {
            assert_eq!(nearest(given, names.into_iter()), expected, "{given}");
        }
    }
}
