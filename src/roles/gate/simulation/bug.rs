//! Bugs that can be planted at the place of their mend. Most were in the gate once: the history has their mends.

use std::cell::Cell;

/// A bug of the worker loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A transaction commits without the offsets of its lanes.
    OffsetsNotAdded,
    /// A rewind leaves the open batch as it is: its records are produced twice.
    RewindKeepsBatch,
    /// A rewind leaves lanes that are held as they are: they account for records that are not produced.
    HeldLaneNotRewound,
    /// A fenced producer is used again.
    FencedTakenForAborted,
    /// A transaction whose outcome is unknown is taken for aborted.
    UnknownTakenForAborted,
    /// A producer is used again after a transaction whose outcome is unknown.
    UnknownKeepsProducer,
    /// A lane is opened before the markers of the last transaction have reached the ledger.
    HeadNotAwaited,
    /// The open batch keeps what was consumed from a lane that was lost.
    RevokedLaneStaysInBatch,
    /// Records that were fetched before a seek are taken after it.
    SeekKeepsBuffered,
    /// A lane whose log has lost its next offset is not opened again.
    GapIgnored,
    /// After a gap, the open batch keeps what could not be committed.
    GapKeepsBatch,
    /// A lane is opened where retention has deleted the log.
    RetentionUnnoticed,
    /// A lost range is written to the ledger only together with a record.
    NoticeAwaitsRecord,
    /// An error in place of a record is passed over.
    FetchErrorIgnored,
    /// A lane that cannot seek is closed while the open batch has its records.
    FailedSeekClosesLane,
    /// The result of an earlier opening is taken after the lane was revoked and reassigned.
    StaleOpeningTaken,
    /// A lane starts without the replay windows of its past.
    PastNotRebuilt,
}

impl Bug {
    /// Every bug.
    pub const ALL: [Self; 17] = [
        Self::OffsetsNotAdded,
        Self::RewindKeepsBatch,
        Self::HeldLaneNotRewound,
        Self::FencedTakenForAborted,
        Self::UnknownTakenForAborted,
        Self::UnknownKeepsProducer,
        Self::HeadNotAwaited,
        Self::RevokedLaneStaysInBatch,
        Self::SeekKeepsBuffered,
        Self::GapIgnored,
        Self::GapKeepsBatch,
        Self::RetentionUnnoticed,
        Self::NoticeAwaitsRecord,
        Self::FetchErrorIgnored,
        Self::FailedSeekClosesLane,
        Self::StaleOpeningTaken,
        Self::PastNotRebuilt,
    ];
}

thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Whether the bug is planted on this thread.
pub fn is_planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Plants a bug on this thread, or none.
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}
