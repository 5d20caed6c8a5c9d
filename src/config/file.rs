//! From TOML text to the tree, with every value's line and column.

use std::collections::BTreeMap;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::env::Env;
use super::expand::expand;
use super::problem::{Place, Problem, Problems};
use super::tree::{Node, Value, join};

/// Reads `text`; with no `name` it is built in. Texts may name variables of `env` as `${NAME}`;
/// what is wrong with them goes to `problems`.
///
/// # Errors
/// When the text is not TOML: every syntax error that can be told from the others.
pub(super) fn read(
    name: Option<&str>,
    text: &str,
    env: &Env,
    problems: &mut Vec<Problem>,
) -> Result<Node, Problems> {
    let mut file = File { name: name.map(Arc::from), starts: line_starts(text), text, env, problems };
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        let value = file.table("", table.into_inner());
        return Ok(Node { place: file.place(None), value });
    }
    let problem = |error: &toml::de::Error| Problem {
        place: file.place(error.span().map(|span| span.start)),
        key: String::new(),
        what: format!("not TOML: {}", error.message().replace('\n', ", ")),
    };
    Err(Problems::new(errors.iter().map(problem).collect()))
}

struct File<'a> {
    name: Option<Arc<str>>,
    text: &'a str,
    starts: Vec<usize>,
    env: &'a Env,
    problems: &'a mut Vec<Problem>,
}

impl File<'_> {
    fn table(&mut self, path: &str, table: DeTable<'_>) -> Value {
        let mut entries = BTreeMap::new();
        for (key, value) in table {
            let place = self.place(Some(key.span().start));
            let path = join(path, key.get_ref());
            let value = self.value(&path, &place, value.into_inner());
            entries.insert(key.into_inner().into_owned(), Node { place, value });
        }
        Value::Table(entries)
    }

    fn value(&mut self, path: &str, place: &Place, value: DeValue<'_>) -> Value {
        match value {
            DeValue::String(text) => self.text(path, place, &text),
            DeValue::Integer(number) => integer(&number),
            DeValue::Boolean(value) => Value::Boolean(value),
            DeValue::Float(_) => Value::Other("a decimal number"),
            DeValue::Datetime(_) => Value::Other("a date or time"),
            DeValue::Array(items) => Value::List(self.list(path, items)),
            DeValue::Table(table) => self.table(path, table),
        }
    }

    fn list<'i>(&mut self, path: &str, items: impl IntoIterator<Item = Spanned<DeValue<'i>>>) -> Vec<Node> {
        let mut nodes = Vec::new();
        for (i, item) in items.into_iter().enumerate() {
            let place = self.place(Some(item.span().start));
            let value = self.value(&format!("{path}[{i}]"), &place, item.into_inner());
            nodes.push(Node { place, value });
        }
        nodes
    }

    /// The text with its variables put in.
    fn text(&mut self, path: &str, place: &Place, text: &str) -> Value {
        match expand(text, self.env) {
            Ok(text) => Value::Text(text),
            Err(what) => {
                self.problems.push(Problem { place: place.clone(), key: path.to_owned(), what });
                Value::Broken
            }
        }
    }

    fn place(&self, offset: Option<usize>) -> Place {
        let Some(name) = &self.name else { return Place::BuiltIn };
        let at = offset.map(|offset| {
            let line = self.starts.partition_point(|&start| start <= offset);
            let start = self.starts.get(line.wrapping_sub(1)).copied().unwrap_or(0);
            let column = self.text.get(start..offset).map_or(0, |before| before.chars().count());
            (line, column + 1)
        });
        Place::File { name: name.clone(), at }
    }
}

/// The offset at which every line begins.
fn line_starts(text: &str) -> Vec<usize> {
    std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect()
}

fn integer(number: &DeInteger<'_>) -> Value {
    match i64::from_str_radix(number.as_str(), number.radix()) {
        Ok(number) => Value::Integer(number),
        Err(_) => Value::Other("a number that is too large"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place_of(text: &str, path: &str) -> String {
        let root = read(Some("f"), text, &Env::default(), &mut Vec::new()).expect("TOML");
        root.nearest(path).place.to_string()
    }

    #[test]
    fn every_value_knows_its_line_and_column() {
        let text = "a = 1\n[b]\n  ä-no = 1\n".replace("ä-no", "\"ä\"")
            + "[[c]]\nx = 1\n[c.d]\ny = [1,\n 2]\n[[c]]\n";
        assert_eq!(place_of(&text, ""), "f");
        assert_eq!(place_of(&text, "a"), "f:1:1");
        assert_eq!(place_of(&text, "b"), "f:2:2");
        assert_eq!(place_of(&text, "b.ä"), "f:3:3");
        assert_eq!(place_of(&text, "c[0].x"), "f:5:1");
        assert_eq!(place_of(&text, "c[0].d"), "f:6:4");
        assert_eq!(place_of(&text, "c[0].d.y"), "f:7:1");
        assert_eq!(place_of(&text, "c[0].d.y[1]"), "f:8:2");
        assert_eq!(place_of(&text, "c[1]"), "f:9:1");
        assert_eq!(place_of("x = \"ä\"; y = 1".replace("; ", "\n").as_str(), "y"), "f:2:1");
    }

    #[test]
    fn syntax_errors_are_placed_and_all_reported() {
        let text = "a = 1\na = 2\nb = \nc = 3\n[d\n";
        let problems = read(Some("f"), text, &Env::default(), &mut Vec::new()).err().expect("errors");
        let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert!(lines.len() >= 3, "{lines:#?}");
        assert!(lines[0].starts_with("f:2:1: not TOML: duplicate key"), "{lines:#?}");
    }
}
