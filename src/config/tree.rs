//! The settings as they were given: a tree of values that remember their place, onto which the
//! file, the environment and the flags are laid one over the other.

use std::collections::BTreeMap;

use super::problem::Place;

/// A value and where it was given.
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

/// A value as given, before anybody knows what it should have been.
pub(super) enum Value {
    /// Text of a file.
    Text(String),
    /// Text of an environment variable, which may stand for any kind of scalar or for a list.
    Raw(String),
    Integer(i64),
    Boolean(bool),
    /// A kind that no setting has, by its name.
    Other(&'static str),
    /// What could not be had, which has been reported.
    Broken,
    List(Vec<Node>),
    Table(BTreeMap<String, Node>),
}

impl Value {
    /// What to call it when something else was expected. Never the value itself: it may be secret.
    pub(super) fn found(&self) -> &'static str {
        match self {
            Self::Text(_) | Self::Raw(_) => "text",
            Self::Integer(_) => "a number",
            Self::Boolean(_) => "true or false",
            Self::Other(name) => name,
            Self::Broken => "nothing",
            Self::List(_) => "a list",
            Self::Table(_) => "a section",
        }
    }
}

impl Node {
    /// The node at a dotted path, or else the nearest one above it.
    pub(super) fn nearest(&self, path: &str) -> &Node {
        let mut node = self;
        for name in names(path) {
            match node.below(name) {
                Some(below) => node = below,
                None => break,
            }
        }
        node
    }

    /// Whether there is a node at a dotted path.
    pub(super) fn has(&self, path: &str) -> bool {
        names(path).try_fold(self, |node, name| node.below(name)).is_some()
    }

    fn below(&self, name: &str) -> Option<&Node> {
        match &self.value {
            Value::Table(entries) => entries.get(name),
            Value::List(items) => name.parse().ok().and_then(|index: usize| items.get(index)),
            _ => None,
        }
    }

    /// Puts a value at a path, over what may be there. Sections and list elements that are missing
    /// on the way are made; a list grows only by its next element.
    ///
    /// # Errors
    /// When the path leads through something that has no parts.
    pub(super) fn set(&mut self, path: &[&str], value: Value, place: &Place) -> Result<(), String> {
        let Some((name, rest)) = path.split_first() else {
            *self = Node { place: place.clone(), value };
            return Ok(());
        };
        let below = match &mut self.value {
            Value::Table(entries) => {
                entries.entry((*name).to_owned()).or_insert_with(|| Node::empty(rest, place))
            }
            Value::List(items) => {
                let Ok(index) = name.parse::<usize>() else {
                    return Err(format!("expected the number of a list element, found {name:?}"));
                };
                if index == items.len() {
                    items.push(Node::empty(rest, place));
                }
                let count = items.len();
                items.get_mut(index).ok_or(format!("the next element of the list is number {count}"))?
            }
            _ => return Err("unknown key: what it is part of is not a section".to_owned()),
        };
        below.set(rest, value, place)
    }

    /// What a path through `rest` needs to be made of.
    fn empty(rest: &[&str], place: &Place) -> Node {
        let is_index = rest.first().is_some_and(|name| name.parse::<usize>().is_ok());
        let value = if is_index { Value::List(Vec::new()) } else { Value::Table(BTreeMap::new()) };
        Node { place: place.clone(), value }
    }
}

/// The names and indices that a dotted path is made of.
fn names(path: &str) -> impl Iterator<Item = &str> {
    path.split(['.', '[', ']']).filter(|name| !name.is_empty())
}

/// The dotted path of a key in the section at `parent`.
pub(super) fn join(parent: &str, key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let key = if !key.is_empty() && key.chars().all(bare) { key.to_owned() } else { format!("{key:?}") };
    if parent.is_empty() { key } else { format!("{parent}.{key}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(root: &mut Node, path: &[&str], value: i64) -> Result<(), String> {
        root.set(path, Value::Integer(value), &Place::Env("X".to_owned()))
    }

    #[test]
    fn setting_makes_what_is_missing_and_lists_grow_by_one() {
        let mut root = Node::empty(&[], &Place::BuiltIn);
        assert_eq!(set(&mut root, &["a", "0", "b"], 1), Ok(()));
        assert_eq!(set(&mut root, &["a", "1", "b"], 2), Ok(()));
        assert!(matches!(root.nearest("a[1].b").value, Value::Integer(2)));
        assert!(matches!(root.nearest("a[1].c").value, Value::Table(_)), "the nearest above");
        assert!(set(&mut root, &["a", "3", "b"], 3).is_err_and(|what| what.contains("number 2")));
        assert!(set(&mut root, &["a", "x"], 3).is_err_and(|what| what.contains("\"x\"")));
        assert!(set(&mut root, &["a", "0", "b", "c"], 3).is_err_and(|what| what.contains("not a section")));
    }

    #[test]
    fn strange_names_are_quoted_in_paths() {
        assert_eq!(join("", "a"), "a");
        assert_eq!(join("a[0]", "b-c"), "a[0].b-c");
        assert_eq!(join("a", "b.c"), "a.\"b.c\"");
        assert_eq!(join("a", ""), "a.\"\"");
    }
}
