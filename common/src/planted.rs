//! Bugs that `make planted` switches on, one at a time, to prove that a named test catches each.
//!
//! They exist only with the feature `planted`, which no release enables: without it [`is_planted`] is the constant
//! `false`, and the compiler removes what it guards. The environment variable `DRIFTDB_PLANTED` names the bug, because the
//! tests start the daemons as processes.

/// A bug that a test must catch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlantedBug {
    /// The writer acknowledges a group before its segments are synced, and does not sync them.
    AnswerBeforeFsync,
    /// A failed sync is tried again, and the second answer is believed.
    FsyncRetried,
    /// A frame is taken without a look at its CRC.
    CrcIgnored,
    /// HEAD names a group before its segments are synced.
    HeadEarly,
    /// A watch resumes one event after the one that its token asks for.
    ResumeOffByOne,
    /// Work goes on after its caller has left.
    CancellationIgnored,
    /// Memory is handed out beyond its budget.
    BudgetIgnored,
    /// History below the floor is answered as if it were all there.
    FloorUnchecked,
    /// A HEAD of another lineage is followed.
    LineageUnchecked,
    /// Commits are stamped with any time that the wall clock shows.
    ClockTrusted,
    /// Conditions over many rows are not checked.
    BoundaryUnchecked,
    /// Every principal has every role on every table.
    GrantsUnchecked,
    /// Streams go on when the rules do not allow them any more, and when their token has expired.
    LeaseUnchecked,
    /// A resume or page token of one principal is taken from another.
    TokensShared,
    /// Request ids and producers of all principals are one.
    IdsUnscoped,
    /// Any principal may name any actor.
    ActorBelieved,
    /// A table that a principal may not read is named where tables are listed.
    HiddenTablesListed,
    /// A question over time looks only at the rows that an index finds now.
    LeftRowsMissed,
    /// A row that an index names is not compared with the condition.
    CandidatesBelieved,
    /// AS OF EVERY reads a moment before its commit, not after it.
    MomentsOffByOne,
    /// A DROP TABLE does not end the rows of the table.
    DroppedRowsKept,
    /// SHOW DRIFT compares only the row after an event with its condition.
    DriftAfterOnly,
    /// ORDER BY with LIMIT sorts only the first rows that it reads.
    SortCutShort,
    /// A row that is about to be taken out of a group is added once more.
    RowsCountedTwice,
    /// What must hold before a write is looked up without a look at who asks.
    PreconditionsUnauthorized,
    /// A watch delivers every table, those that are created later included.
    WatchUnfiltered,
    /// Statements that write nothing themselves, and the clauses of others, name any table: DRY RUN, EXPLAIN, IF NO CHANGE.
    IndirectStatementsUnauthorized,
    /// A call has no rule: whoever is known may make it.
    CallWithoutRule,
    /// The body of a call is received before it is known who calls.
    AnonymousHeard,
    /// What began before the rules changed is written by the rules of its beginning.
    WritesUnleased,
    /// A chunk is taken that does not follow the chunk before it.
    ChunkChainUnchecked,
    /// A fence is believed although collection may have passed it.
    FenceUnchecked,
    /// Collection deletes fences, too, so that an old writer can use their numbers.
    FencesCollected,
    /// A directory that was filled from a bucket counts as a database before its new epoch is begun.
    EpochLate,
}

impl PlantedBug {
    /// Every bug.
    pub const ALL: [PlantedBug; 34] = [
        PlantedBug::AnswerBeforeFsync,
        PlantedBug::FsyncRetried,
        PlantedBug::CrcIgnored,
        PlantedBug::HeadEarly,
        PlantedBug::ResumeOffByOne,
        PlantedBug::CancellationIgnored,
        PlantedBug::BudgetIgnored,
        PlantedBug::FloorUnchecked,
        PlantedBug::LineageUnchecked,
        PlantedBug::ClockTrusted,
        PlantedBug::BoundaryUnchecked,
        PlantedBug::GrantsUnchecked,
        PlantedBug::LeaseUnchecked,
        PlantedBug::TokensShared,
        PlantedBug::IdsUnscoped,
        PlantedBug::ActorBelieved,
        PlantedBug::HiddenTablesListed,
        PlantedBug::LeftRowsMissed,
        PlantedBug::CandidatesBelieved,
        PlantedBug::MomentsOffByOne,
        PlantedBug::DroppedRowsKept,
        PlantedBug::DriftAfterOnly,
        PlantedBug::SortCutShort,
        PlantedBug::RowsCountedTwice,
        PlantedBug::PreconditionsUnauthorized,
        PlantedBug::WatchUnfiltered,
        PlantedBug::IndirectStatementsUnauthorized,
        PlantedBug::CallWithoutRule,
        PlantedBug::AnonymousHeard,
        PlantedBug::WritesUnleased,
        PlantedBug::ChunkChainUnchecked,
        PlantedBug::FenceUnchecked,
        PlantedBug::FencesCollected,
        PlantedBug::EpochLate,
    ];

    /// The bug's name in `DRIFTDB_PLANTED`.
    pub const fn name(self) -> &'static str {
        match self {
            PlantedBug::AnswerBeforeFsync => "answer-before-fsync",
            PlantedBug::FsyncRetried => "fsync-retried",
            PlantedBug::CrcIgnored => "crc-ignored",
            PlantedBug::HeadEarly => "head-early",
            PlantedBug::ResumeOffByOne => "resume-off-by-one",
            PlantedBug::CancellationIgnored => "cancellation-ignored",
            PlantedBug::BudgetIgnored => "budget-ignored",
            PlantedBug::FloorUnchecked => "floor-unchecked",
            PlantedBug::LineageUnchecked => "lineage-unchecked",
            PlantedBug::ClockTrusted => "clock-trusted",
            PlantedBug::BoundaryUnchecked => "boundary-unchecked",
            PlantedBug::GrantsUnchecked => "grants-unchecked",
            PlantedBug::LeaseUnchecked => "lease-unchecked",
            PlantedBug::TokensShared => "tokens-shared",
            PlantedBug::IdsUnscoped => "ids-unscoped",
            PlantedBug::ActorBelieved => "actor-believed",
            PlantedBug::HiddenTablesListed => "hidden-tables-listed",
            PlantedBug::LeftRowsMissed => "left-rows-missed",
            PlantedBug::CandidatesBelieved => "candidates-believed",
            PlantedBug::MomentsOffByOne => "moments-off-by-one",
            PlantedBug::DroppedRowsKept => "dropped-rows-kept",
            PlantedBug::DriftAfterOnly => "drift-after-only",
            PlantedBug::SortCutShort => "sort-cut-short",
            PlantedBug::RowsCountedTwice => "rows-counted-twice",
            PlantedBug::PreconditionsUnauthorized => "preconditions-unauthorized",
            PlantedBug::WatchUnfiltered => "watch-unfiltered",
            PlantedBug::IndirectStatementsUnauthorized => "indirect-statements-unauthorized",
            PlantedBug::CallWithoutRule => "call-without-rule",
            PlantedBug::AnonymousHeard => "anonymous-heard",
            PlantedBug::WritesUnleased => "writes-unleased",
            PlantedBug::ChunkChainUnchecked => "chunk-chain-unchecked",
            PlantedBug::FenceUnchecked => "fence-unchecked",
            PlantedBug::FencesCollected => "fences-collected",
            PlantedBug::EpochLate => "epoch-late",
        }
    }
}

/// Whether this build contains the bugs.
pub const HAS_BUGS: bool = cfg!(feature = "planted");

/// Whether a bug is switched on.
#[cfg(feature = "planted")]
pub fn is_planted(bug: PlantedBug) -> bool {
    static PLANTED: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    let planted = PLANTED.get_or_init(|| std::env::var("DRIFTDB_PLANTED").ok());
    planted.as_deref() == Some(bug.name())
}

/// Whether a bug is switched on: never, without the feature `planted`.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub const fn is_planted(_: PlantedBug) -> bool {
    false
}
