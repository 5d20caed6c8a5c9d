//! Reading typed settings out of the tree. Whatever is asked for becomes a known key, so the
//! sections that ask are the only list of keys there is; what is left over at the end is unknown.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::problem::{Place, Problem};
use super::tree::{Node, Value, join};
use super::units;

/// A tree being read, and what was found wrong with it so far.
pub(super) struct Reading {
    root: Node,
    problems: RefCell<Vec<Problem>>,
    /// Paths of the settings that were asked for.
    leaves: RefCell<BTreeSet<String>>,
    /// Paths of the sections, and lists of sections, that were asked for.
    sections: RefCell<BTreeSet<String>>,
}

/// Why a value cannot be had.
pub(super) enum Refused {
    /// It is of another kind.
    Kind,
    /// It is of the right kind, but this is wrong with it.
    Because(String),
}

impl Reading {
    pub(super) fn new(root: Node, problems: Vec<Problem>) -> Self {
        let (leaves, sections) = Default::default();
        Self { root, problems: RefCell::new(problems), leaves, sections }
    }

    pub(super) fn top(&self) -> Section<'_> {
        let entries = match &self.root.value {
            Value::Table(entries) => Some(entries),
            _ => None,
        };
        Section { reading: self, path: String::new(), entries, broken: entries.is_none() }
    }

    /// Reports a problem with the setting at `path`, placed where it, or what it is part of, was given.
    pub(super) fn problem(&self, path: &str, what: impl Into<String>) {
        self.problem_at(self.place(path).clone(), path, what);
    }

    pub(super) fn problem_at(&self, place: Place, path: &str, what: impl Into<String>) {
        self.problems.borrow_mut().push(Problem { place, key: path.to_owned(), what: what.into() });
    }

    /// Reports that `node` is not what was `expected`, unless something was reported already.
    fn wrong_kind(&self, node: &Node, path: &str, expected: &str) {
        if !matches!(node.value, Value::Broken) {
            let what = format!("expected {expected}, found {}", node.value.found());
            self.problem_at(node.place.clone(), path, what);
        }
    }

    /// Where the setting at `path`, or what it is part of, was given.
    pub(super) fn place(&self, path: &str) -> &Place {
        &self.root.nearest(path).place
    }

    /// Whether the setting at `path` was given at all.
    pub(super) fn is_given(&self, path: &str) -> bool {
        self.root.has(path)
    }

    /// Whether nothing is wrong so far with the setting at `path` and its parts.
    pub(super) fn is_clean(&self, path: &str) -> bool {
        !self.problems.borrow().iter().any(|problem| problem.key.starts_with(path))
    }

    pub(super) fn root(&self) -> &Node {
        &self.root
    }

    /// The paths of all known settings.
    pub(super) fn leaves(&self) -> BTreeSet<String> {
        self.leaves.borrow().clone()
    }

    /// The paths of all known sections and lists of sections.
    pub(super) fn sections(&self) -> BTreeSet<String> {
        self.sections.borrow().clone()
    }

    pub(super) fn finish(self) -> Vec<Problem> {
        self.problems.into_inner()
    }
}

/// One section of the tree, there or not. What is not there reads as its default.
pub(super) struct Section<'a> {
    reading: &'a Reading,
    path: String,
    entries: Option<&'a BTreeMap<String, Node>>,
    /// Something else stands in its place, which has been reported.
    broken: bool,
}

impl<'a> Section<'a> {
    /// The dotted path of one of its keys.
    pub(super) fn path(&self, key: &str) -> String {
        join(&self.path, key)
    }

    pub(super) fn problem(&self, key: &str, what: impl Into<String>) {
        self.reading.problem(&self.path(key), what);
    }

    fn node(&self, key: &str) -> Option<&'a Node> {
        self.entries.and_then(|entries| entries.get(key))
    }

    /// Reads a setting with `parse`; `None` when it is not given, or refused, which is reported.
    pub(super) fn read<T>(
        &self,
        key: &str,
        expected: &str,
        parse: impl FnOnce(&Value) -> Result<T, Refused>,
    ) -> Option<T> {
        let path = self.path(key);
        self.reading.leaves.borrow_mut().insert(path.clone());
        let node = self.node(key)?;
        self.accept(node, &path, expected, parse)
    }

    fn accept<T>(
        &self,
        node: &Node,
        path: &str,
        expected: &str,
        parse: impl FnOnce(&Value) -> Result<T, Refused>,
    ) -> Option<T> {
        match parse(&node.value) {
            Ok(value) => return Some(value),
            Err(Refused::Because(what)) => self.reading.problem_at(node.place.clone(), path, what),
            Err(Refused::Kind) => self.reading.wrong_kind(node, path, expected),
        }
        None
    }

    pub(super) fn text(&self, key: &str, default: &str) -> String {
        self.read(key, "text", text).unwrap_or_else(|| default.to_owned())
    }

    /// Text that must be given and not be empty. Empty where it is not, which is reported.
    pub(super) fn required(&self, key: &str) -> String {
        if self.node(key).is_none() && !self.broken {
            self.problem(key, "missing");
        }
        self.read(key, "text", |value| match text(value)? {
            empty if empty.is_empty() => Err(Refused::Because("must not be empty".to_owned())),
            text => Ok(text),
        })
        .unwrap_or_default()
    }

    pub(super) fn flag(&self, key: &str, default: bool) -> bool {
        self.read(key, "true or false", |value| match value {
            Value::Boolean(value) => Ok(*value),
            Value::Raw(text) => text.trim().parse().map_err(|_| because("expected true or false", text)),
            _ => Err(Refused::Kind),
        })
        .unwrap_or(default)
    }

    /// A whole number.
    pub(super) fn number<T>(&self, key: &str, default: T, range: RangeInclusive<T>) -> T
    where
        T: TryFrom<i64> + PartialOrd + Display,
    {
        self.read(key, "a whole number", |value| {
            let number = match value {
                Value::Integer(number) => *number,
                Value::Raw(text) => {
                    text.trim().parse().map_err(|_| because("expected a whole number", text))?
                }
                _ => return Err(Refused::Kind),
            };
            T::try_from(number).ok().filter(|inside| range.contains(inside)).ok_or_else(|| {
                Refused::Because(format!("must be from {} to {}, not {number}", range.start(), range.end()))
            })
        })
        .unwrap_or(default)
    }

    /// A number of bytes, plain or with a unit.
    pub(super) fn size(&self, key: &str, default: usize, range: RangeInclusive<u64>) -> usize {
        let expected = "a size such as \"64KiB\" or a number of bytes";
        self.read(key, expected, |value| {
            let bytes = match value {
                Value::Integer(bytes) => u64::try_from(*bytes).ok(),
                Value::Text(text) | Value::Raw(text) => units::size(text),
                _ => return Err(Refused::Kind),
            };
            let bytes = bytes.ok_or_else(|| because_value(&format!("expected {expected}"), value))?;
            let fits = usize::try_from(bytes).ok().filter(|_| range.contains(&bytes));
            fits.ok_or_else(|| {
                let [low, high, found] = [*range.start(), *range.end(), bytes].map(units::size_text);
                Refused::Because(format!("must be from {low} to {high}, not {found}"))
            })
        })
        .unwrap_or(default)
    }

    pub(super) fn duration(&self, key: &str, default: Duration, range: RangeInclusive<Duration>) -> Duration {
        let expected = "a duration such as \"15s\" or \"500ms\"";
        self.read(key, expected, |value| {
            let (Value::Text(text) | Value::Raw(text)) = value else { return Err(Refused::Kind) };
            let duration =
                units::duration(text).ok_or_else(|| because(&format!("expected {expected}"), text))?;
            if range.contains(&duration) {
                return Ok(duration);
            }
            let [low, high, found] = [*range.start(), *range.end(), duration].map(units::duration_text);
            Err(Refused::Because(format!("must be from {low} to {high}, not {found}")))
        })
        .unwrap_or(default)
    }

    /// A word of a fixed set.
    pub(super) fn choice<T: Copy>(&self, key: &str, default: T, choices: &[(T, &str)]) -> T {
        self.read(key, "text", |value| {
            let text = text(value)?;
            let chosen = choices.iter().find(|(_, name)| *name == text).map(|(choice, _)| *choice);
            chosen.ok_or_else(|| Refused::Because(not_one_of(&text, choices.iter().map(|(_, name)| *name))))
        })
        .unwrap_or(default)
    }

    /// A list, each element of which `parse` reads from its text; in the environment, texts parted
    /// by commas. `None` when it is not given; elements that are refused are reported and left out.
    pub(super) fn list<T>(&self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<Vec<T>> {
        let path = self.path(key);
        self.reading.leaves.borrow_mut().insert(path.clone());
        let node = self.node(key)?;
        let parts;
        let items = match &node.value {
            Value::List(items) => items,
            Value::Raw(texts) => {
                let texts = texts.split(',').map(str::trim).filter(|text| !text.is_empty());
                let part =
                    |text: &str| Node { place: node.place.clone(), value: Value::Raw(text.to_owned()) };
                parts = texts.map(part).collect();
                &parts
            }
            _ => {
                self.reading.wrong_kind(node, &path, "a list of texts");
                return None;
            }
        };
        let item = |(i, node): (usize, &Node)| {
            let read = |value: &Value| parse(&text(value)?).map_err(Refused::Because);
            self.accept(node, &format!("{path}[{i}]"), "text", read)
        };
        Some(items.iter().enumerate().filter_map(item).collect())
    }

    pub(super) fn section(&self, key: &str) -> Section<'a> {
        let path = self.path(key);
        self.reading.sections.borrow_mut().insert(path.clone());
        self.section_of(path, self.node(key))
    }

    /// A list of sections. Elements that are something else count too, so that indices stay right.
    pub(super) fn sections(&self, key: &str) -> Vec<Section<'a>> {
        let path = self.path(key);
        let Some(Node { value: Value::List(items), .. }) = self.node(key) else {
            // What stands in its place is no section, so nobody looks for unknown keys in it.
            self.reading.leaves.borrow_mut().insert(path.clone());
            if let Some(node) = self.node(key) {
                self.reading.wrong_kind(node, &path, &format!("a list of sections ([[{key}]])"));
            }
            return Vec::new();
        };
        self.reading.sections.borrow_mut().insert(path.clone());
        let section = |(i, node)| self.section_of(format!("{path}[{i}]"), Some(node));
        items.iter().enumerate().map(section).collect()
    }

    fn section_of(&self, path: String, node: Option<&'a Node>) -> Section<'a> {
        let reading = self.reading;
        let (entries, broken) = match node {
            None => (None, self.broken),
            Some(Node { value: Value::Table(entries), .. }) => (Some(entries), false),
            Some(node) => {
                reading.wrong_kind(node, &path, "a section");
                (None, true)
            }
        };
        Section { reading, path, entries, broken }
    }
}

fn text(value: &Value) -> Result<String, Refused> {
    match value {
        Value::Text(text) | Value::Raw(text) => Ok(text.clone()),
        _ => Err(Refused::Kind),
    }
}

fn because(what: &str, text: &str) -> Refused {
    Refused::Because(format!("{what}, found {text:?}"))
}

fn because_value(what: &str, value: &Value) -> Refused {
    match value {
        Value::Text(text) | Value::Raw(text) => because(what, text),
        Value::Integer(number) => Refused::Because(format!("{what}, found {number}")),
        _ => Refused::Kind,
    }
}

/// That `text` is none of `names`, with the nearest of them if it is near.
pub(super) fn not_one_of<'n>(text: &str, names: impl Iterator<Item = &'n str> + Clone) -> String {
    match super::unknown::nearest(text, names.clone()) {
        Some(name) => format!("unknown value {text:?}, did you mean {name:?}?"),
        None => {
            let all: Vec<String> = names.map(|name| format!("{name:?}")).collect();
            format!("unknown value {text:?}, expected one of {}", all.join(", "))
        }
    }
}
