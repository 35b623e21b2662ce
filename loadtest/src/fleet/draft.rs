//! A record before it is produced: what is wrong with it, and what the gate may make of it.

use crate::outcome::{Outcome, Outcomes};
use crate::record::Record;

/// What is wrong with a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Nothing.
    #[default]
    Good,
    /// Nothing; beside the signature it has a header whose name is not UTF-8.
    StrangeHeader,
    /// Signed with another secret under the device's key id.
    ForgedSecret,
    /// One byte changed after signing.
    Tampered,
    /// Signed under an unknown key id or by an unknown device.
    UnknownKey,
    /// Signed by one device, while the payload names another.
    Impostor,
    /// An exact copy of an earlier record.
    Replayed,
    /// An exact copy of an earlier record in another partition.
    Misplaced,
    /// Signed an hour ago.
    Old,
    /// Signed an hour ahead.
    Future,
    /// Signed for another topic.
    WrongAudience,
    /// Part of a burst.
    Flood,
    /// No headers.
    Unsigned,
    /// The signature header occurs twice.
    RepeatedHeader,
    /// A signature header that is not a signature.
    GarbageSignature,
    /// An empty value, validly signed.
    Empty,
    /// Bytes in no known format.
    NotJson,
    /// Cut off in the middle, validly signed.
    Truncated,
    /// A single-object header with an unknown fingerprint.
    UnknownSchema,
    /// A member that the schema does not have.
    UnknownField,
    /// A member of the wrong type.
    WrongType,
    /// The same member occurs twice.
    DuplicateMember,
    /// Required members missing.
    MissingField,
    /// Exceeds the size limit.
    Oversized,
}

/// One record to be produced, with its expected outcomes.
#[derive(Clone, Default)]
pub struct Draft {
    /// Key, value and headers.
    pub record: Record,
    /// Whether the record goes to another partition than its home on purpose.
    pub misplaced: bool,
    /// Outcomes that the gate may give it.
    pub expected: Outcomes,
    /// What is wrong with the record.
    pub kind: Kind,
}

impl Draft {
    /// Destination among so many partitions: the record's home, or the next one for a misplaced copy.
    #[must_use]
    pub fn partition(&self, partitions: i32) -> i32 {
        let home = crate::murmur2::home(self.record.key.as_deref().unwrap_or_default(), partitions);
        if self.misplaced {
            (home + 1) % partitions
        } else {
            home
        }
    }

    /// Outcomes expected in a topic with so many partitions: with a single partition nothing is misplaced.
    #[must_use]
    pub fn expected_among(&self, partitions: i32) -> Outcomes {
        if self.misplaced && partitions == 1 {
            Outcome::Duplicate.into()
        } else {
            self.expected
        }
    }
}
