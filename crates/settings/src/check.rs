//! Problems of settings, collected while each section checks itself.

use std::fmt;
use std::ops::RangeInclusive;

use serde::Serialize;

/// The environment of a development stack, the only one in which plaintext connections are accepted.
pub const LOCAL: &str = "local";

/// One problem of the configuration. It names a setting, never its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The dotted path of the setting, such as `gate.batch.records_max`; empty when it is no single one.
    pub path: String,
    /// What is wrong and what to do.
    pub message: String,
    /// Where the value came from, unless it is a default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

impl Problem {
    /// A problem of one setting.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            message: message.into(),
            source: None,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        match &self.source {
            Some(source) => write!(f, " (from {source})"),
            None => Ok(()),
        }
    }
}

/// A configuration that cannot be used, with all of its problems.
#[derive(Debug)]
pub struct Invalid(pub Vec<Problem>);

impl std::error::Error for Invalid {}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [problem] => write!(f, "the configuration has a problem: {problem}"),
            problems => {
                write!(f, "the configuration has {} problems:", problems.len())?;
                problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}

/// Collects problems while each section checks itself.
pub struct Check {
    local: bool,
    /// The path of the section that is being checked, with a dot after each part.
    prefix: String,
    problems: Vec<Problem>,
}

impl Check {
    /// Starts at the root of the configuration of `environment`.
    #[must_use]
    pub fn new(environment: &str) -> Self {
        Self {
            local: environment == LOCAL,
            prefix: String::new(),
            problems: Vec::new(),
        }
    }

    /// Whether plaintext connections are accepted.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.local
    }

    /// Checks the section `name`: inside, members are named relative to it.
    pub fn section(&mut self, name: &str, check: impl FnOnce(&mut Self)) {
        let length = self.prefix.len();
        self.prefix.push_str(name);
        self.prefix.push('.');
        check(self);
        self.prefix.truncate(length);
    }

    /// Notes a problem of the setting `member` of the present section.
    pub fn problem(&mut self, member: &str, message: impl Into<String>) {
        let path = format!("{}{member}", self.prefix);
        self.problems.push(Problem::new(path, message));
    }

    /// Requires the setting `member` to lie in `range`.
    pub fn range(&mut self, member: &str, value: u64, range: RangeInclusive<u64>) {
        if !range.contains(&value) {
            let message = format!("must be between {} and {}", range.start(), range.end());
            self.problem(member, message);
        }
    }

    /// All problems, in the order in which they were found.
    #[must_use]
    pub fn into_problems(self) -> Vec<Problem> {
        self.problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_named_by_its_sections() {
        let mut check = Check::new(LOCAL);
        check.section("gate", |check| {
            check.section("batch", |check| check.range("bytes_max", 0, 1..=2));
            check.problem("group", "must not be empty");
        });
        check.problem("environment", "must not be empty");
        let paths: Vec<String> = check
            .into_problems()
            .into_iter()
            .map(|problem| problem.path)
            .collect();
        assert_eq!(paths, ["gate.batch.bytes_max", "gate.group", "environment"]);
    }
}
