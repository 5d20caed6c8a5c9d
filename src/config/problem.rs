//! What is wrong with a configuration, and where it says so.

use std::fmt;
use std::sync::Arc;

/// Where a setting was given.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Nowhere: it is built in.
    BuiltIn,
    /// In a file; `at` is the line and column, both from 1, where they are known.
    File {
        /// The file as it was named.
        name: Arc<str>,
        /// Line and column.
        at: Option<(usize, usize)>,
    },
    /// In an environment variable of this name.
    Env(String),
    /// By a flag of the command line.
    Flag(&'static str),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => Ok(()),
            Self::File { name, at: None } => f.write_str(name),
            Self::File { name, at: Some((line, column)) } => write!(f, "{name}:{line}:{column}"),
            Self::Env(name) => f.write_str(name),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// One thing that is wrong. Never contains a secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where the setting was given.
    pub place: Place,
    /// The setting's dotted path, `apps[0].limits.max_event_bytes`; empty for the file as a whole.
    pub key: String,
    /// What is wrong with it.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.place != Place::BuiltIn {
            write!(f, "{}: ", self.place)?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.what)
    }
}

/// Everything that is wrong with a configuration, in the order of the file; shows one line for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Puts problems in order and drops repetitions.
    pub(super) fn new(mut problems: Vec<Problem>) -> Self {
        problems.sort();
        problems.dedup();
        Self(problems)
    }

    /// A single problem with a file as a whole.
    pub(super) fn with_file(name: &str, what: impl Into<String>) -> Self {
        let place = Place::File { name: name.into(), at: None };
        Self(vec![Problem { place, key: String::new(), what: what.into() }])
    }

    /// The problems, in the order of the file.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
