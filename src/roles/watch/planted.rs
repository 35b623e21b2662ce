//! Bugs that the simulation plants, to show that it finds them. Outside of tests `planted!` is the constant `false`.

/// Whether the running simulation has planted this bug.
#[cfg(test)]
macro_rules! planted {
    ($bug:ident) => {
        crate::roles::watch::planted::Bug::$bug.is_planted()
    };
}

/// Whether the running simulation has planted this bug: never outside of tests.
#[cfg(not(test))]
macro_rules! planted {
    ($bug:ident) => {
        false
    };
}

/// A bug. Those with a commit were once in this program.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// After an error within a chunk, the records behind it are taken (fixed in 19cea20).
    ReadOnAfterError,
    /// A gap that was found outside of a chunk is not looked into (fixed in 2666428).
    IgnoreGap,
    /// The log's offsets are asked for before the claim, while the former owner still stores (fixed in 1c09ccd).
    LogBeforeClaim,
    /// A log that ended too early is not noted, and looks complete once it has grown (fixed in 1c09ccd).
    ForgetLogEnd,
    /// A lane that was given back is claimed all the same (fixed in 4e9186c).
    ClaimWhenGivenBack,
    /// A lane that is fenced once is never claimed again (fixed in 4e9186c).
    FencedForGood,
    /// A claim that succeeds after its lane was given back is never released (fixed in 1c09ccd).
    KeepLateClaim,
    /// Records that are read again to rebuild a lane's state are stored again.
    StoreRebuilt,
    /// A paused lane takes what was fetched before the pause.
    TakeWhilePaused,
    /// The source is closed while its records are held (fixed in 61fc997).
    RecordsOutliveSource,
}

#[cfg(test)]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

#[cfg(test)]
impl Bug {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::ReadOnAfterError,
        Self::IgnoreGap,
        Self::LogBeforeClaim,
        Self::ForgetLogEnd,
        Self::ClaimWhenGivenBack,
        Self::FencedForGood,
        Self::KeepLateClaim,
        Self::StoreRebuilt,
        Self::TakeWhilePaused,
        Self::RecordsOutliveSource,
    ];

    /// Plants a bug on this thread, or none.
    pub fn plant(bug: Option<Self>) {
        PLANTED.set(bug);
    }

    /// Whether it is planted on this thread.
    pub fn is_planted(self) -> bool {
        PLANTED.get() == Some(self)
    }
}
