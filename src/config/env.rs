//! The environment: `FANFARE_SECTION__KEY` is laid over the file.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::problem::{Place, Problem};
use super::tree::{Node, Value};

const PREFIX: &str = "FANFARE_";
const SEPARATOR: &str = "__";

/// Environment variables. Collect it from `std::env::vars_os()` or, for tests, from pairs of text.
#[derive(Clone, Default)]
pub struct Env {
    /// `None` is a value that is not UTF-8.
    variables: BTreeMap<String, Option<String>>,
    /// They are looked at again, and cannot have changed.
    is_of_the_start: bool,
}

impl Env {
    /// The same for a process that has run for a while: whoever misses a variable is told that those of the
    /// start hold.
    #[must_use]
    pub fn of_the_start(mut self) -> Self {
        self.is_of_the_start = true;
        self
    }

    /// The value of a variable.
    ///
    /// # Errors
    /// When it is not set, or not UTF-8.
    pub(super) fn required(&self, name: &str) -> Result<&str, String> {
        let why = if self.is_of_the_start { ": those of the start hold until a restart" } else { "" };
        self.get(name)?.ok_or_else(|| format!("environment variable {name} is not set{why}"))
    }

    /// The value of a variable, if it is set.
    ///
    /// # Errors
    /// When it is not UTF-8.
    fn get(&self, name: &str) -> Result<Option<&str>, String> {
        match self.variables.get(name) {
            None => Ok(None),
            Some(Some(value)) => Ok(Some(value)),
            Some(None) => Err(format!("environment variable {name} is not UTF-8")),
        }
    }
}

impl<K: Into<OsString>, V: Into<OsString>> FromIterator<(K, V)> for Env {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Self {
        let text =
            |(name, value): (K, V)| Some((name.into().into_string().ok()?, value.into().into_string().ok()));
        Self { variables: variables.into_iter().filter_map(text).collect(), is_of_the_start: false }
    }
}

/// Lays every `FANFARE_…__…` variable over the tree. Names without `__` are not ours.
pub(super) fn overlay(root: &mut Node, env: &Env, problems: &mut Vec<Problem>) {
    let ours = env.variables.keys().filter(|name| name.starts_with(PREFIX) && name.contains(SEPARATOR));
    let mut ours: Vec<(String, &str)> =
        ours.map(|name| (name[PREFIX.len()..].to_ascii_lowercase(), name.as_str())).collect();
    // Lists grow element by element, so numbers go by their size.
    let by_number = |path: &str| {
        path.split(SEPARATOR).map(|part| (part.parse::<usize>().ok(), part.to_owned())).collect::<Vec<_>>()
    };
    ours.sort_by_cached_key(|(path, _)| by_number(path));
    for (path, name) in &ours {
        let path: Vec<&str> = path.split(SEPARATOR).collect();
        set(root, &path, name, env, problems);
    }
}

/// Puts the variable `name`, if it is set, at a path of the tree.
pub(super) fn set(root: &mut Node, path: &[&str], name: &str, env: &Env, problems: &mut Vec<Problem>) {
    let place = Place::Env(name.to_owned());
    let done = match env.get(name) {
        Ok(Some(value)) => root.set(path, Value::Raw(value.to_owned()), &place),
        Ok(None) => Ok(()),
        Err(what) => Err(what),
    };
    if let Err(what) = done {
        problems.push(Problem { place, key: dotted(path), what });
    }
}

/// The variable that sets the key at a dotted path.
pub(super) fn name_of(path: &str) -> String {
    let path = path.replace('[', SEPARATOR).replace(']', "").replace('.', SEPARATOR);
    format!("{PREFIX}{}", path.to_ascii_uppercase())
}

fn dotted(path: &[&str]) -> String {
    let mut out = String::new();
    for part in path {
        match part.parse::<usize>() {
            Ok(index) => out.push_str(&format!("[{index}]")),
            Err(_) => out = super::tree::join(&out, part),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths_go_both_ways() {
        assert_eq!(name_of("apps[0].limits.max_event_bytes"), "FANFARE_APPS__0__LIMITS__MAX_EVENT_BYTES");
        assert_eq!(dotted(&["apps", "0", "limits", "cache_ttl"]), "apps[0].limits.cache_ttl");
    }

    #[test]
    fn list_elements_are_laid_in_the_order_of_their_numbers() {
        let env: Env = (0..12).map(|i| (format!("FANFARE_L__{i}__X"), i.to_string())).collect();
        let mut problems = Vec::new();
        let mut root = Node { place: Place::BuiltIn, value: Value::Table(BTreeMap::new()) };
        overlay(&mut root, &env, &mut problems);
        assert_eq!(problems, []);
        assert!(matches!(&root.nearest("l[11].x").value, Value::Raw(text) if text == "11"));
    }

    #[cfg(unix)]
    #[test]
    fn values_that_are_not_text_are_told() {
        use std::os::unix::ffi::OsStringExt;
        let env: Env = [("FANFARE_A__B", OsString::from_vec(vec![0xff]))].into_iter().collect();
        let mut problems = Vec::new();
        let mut root = Node { place: Place::BuiltIn, value: Value::Table(BTreeMap::new()) };
        overlay(&mut root, &env, &mut problems);
        assert_eq!(
            problems[0].to_string(),
            "FANFARE_A__B: a.b: environment variable FANFARE_A__B is not UTF-8"
        );
    }
}
