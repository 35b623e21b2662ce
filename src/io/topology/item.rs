//! What is declared, live, or both, as a list of properties that can be compared.

use serde::Serialize;

/// Kind of object that an item is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A Kafka topic.
    Topic,
    /// A database and its migrations.
    Database,
    /// A login role.
    Role,
    /// Privileges of one grantee on one object.
    Grant,
}

/// One property of an object that is declared, live, or both.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Item {
    /// Kind of the object.
    pub kind: Kind,
    /// Name of the object.
    pub name: String,
    /// Property of the object, such as `partitions`.
    pub aspect: String,
    /// Declared value; `None` where nothing is declared.
    pub declared: Option<String>,
    /// Live value; `None` where nothing was found.
    pub live: Option<String>,
}

impl Item {
    /// Whether the declared and the live value are equal.
    #[must_use]
    pub fn agrees(&self) -> bool {
        self.declared == self.live
    }
}

impl std::fmt::Display for Item {
    /// Describes the difference.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let show = |side: &Option<String>| side.clone().unwrap_or_else(|| "nothing".to_owned());
        let Self {
            name,
            aspect,
            declared,
            live,
            ..
        } = self;
        write!(
            f,
            "{name}, {aspect}: found {}, declared {}",
            show(live),
            show(declared)
        )
    }
}

/// What `apply` did and what it found afterwards.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// One sentence per change; empty where everything agreed already.
    pub changes: Vec<String>,
    /// Everything declared or found, after the changes.
    pub items: Vec<Item>,
}

impl Report {
    /// Items that still disagree: each needs a decision of the operator.
    pub fn differences(&self) -> impl Iterator<Item = &Item> {
        self.items.iter().filter(|item| !item.agrees())
    }
}
