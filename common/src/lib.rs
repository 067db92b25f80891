//! The library that DriftDB's daemons and tools share, in layers.
//!
//! Each layer imports only the layers before it: [`format`](mod@format), [`storage`], [`table`], [`bucket`],
//! [`query`], [`service`].
//! [`error`], [`limits`], [`planted`], [`vital`], [`memory`], [`work`] and [`metrics`] are below all of them.
//!
//! # Glossary
//!
//! One word has one meaning in the code, the messages, the help and the documentation.
//!
//! ## What clients see
//!
//! - **table**: a set of rows with one primary key, and optionally secondary indexes. It has one name at a time; a name and a point in
//!   time mean one table.
//! - **row**: a key with its document; a deleted row has no document, and a **live** row is one that is not deleted.
//! - **document**: the JSON object of a row, stored as MessagePack.
//! - **patch**: a JSON merge patch (RFC 7396) that changes a document.
//! - **operation**: one requested change of a row, for example an insert, a put, a patch or a delete.
//! - **precondition**: a check of an operation that must hold, or the whole commit is refused.
//! - **boundary**: a precondition over many rows: no row that matches a condition has changed since a commit.
//! - **commit**: the unit of writing: its events become visible together, in all tables.
//! - **seq**: the sequence number of a commit: 1, 2, 3 and so on, without gaps, over all tables.
//! - **commit time**: the time of a commit in milliseconds since 1970; it never decreases with seq.
//! - **commit metadata**: the actor, the reason and the request id of a commit.
//! - **event**: one immutable change of one row (INSERT, PATCH, SOFT_DELETE) or of a schema (SCHEMA).
//! - **event id**: a seq and the index of the event in its commit; identifies an event in its table.
//! - **drift**: the events of a row or a table, in order.
//! - **point in time**: a seq or a time that a read names with AS OF; a time means the last commit at or before it.
//! - **moment**: one of the points in time that AS OF EVERY reads.
//! - **floor**: the oldest commit at which a table can be read; compaction raises it.
//! - **retention**: the rule that raises a table's floor automatically as its history ages.
//! - **request id**: a client's name for a write; a write that is sent again with the same id is not applied again.
//! - **producer**: a client that ingests numbered batches over a stream; each batch is applied once.
//! - **watch**: a subscription to the commits of a table, filtered by keys or a condition.
//! - **resume token**: an opaque value that lets a watch or a stream continue after a given commit.
//! - **epoch**: a random number that identifies one history of a database; a restore changes it.
//! - **incarnation**: a random number that identifies one open for writing; it and a seq name one commit for ever, as a
//!   **lineage point**.
//! - **lineage**: the incarnations of a history, each with the commit after which it began.
//!
//! ## Processes
//!
//! - **writer**: the one daemon that writes a database; it holds the lock.
//! - **reader**: a daemon that answers queries and watches from the same directory; it takes no lock and writes nothing.
//! - **replica**: a reader's state of the database in memory.
//! - **standby**: a writer that waits for the lock of another writer.
//! - **lock**: the exclusive lock on the file LOCK, which names its **holder**.
//! - **term**: the number of a writer's ownership of the database, one more than the previous writer's.
//! - **fence**: a writer's check that its files are where it opened them and, on network file systems, that HEAD still has its
//!   term, which detects that another writer has taken over.
//! - **clock guard**: the writer's check that the clock has not jumped ahead, before a commit gets its time.
//! - **admission**: the writer's checks of a commit, after which the commit has its seq and its frames.
//! - **group**: the commits that are written and synced together.
//! - **committer**: the writer's thread that makes groups durable.
//! - **follower**: the part of a reader that reads HEAD, and applies new commits to the replica.
//! - **live ring**: the newest commits in a reader's memory, from which watches read.
//!
//! ## Files
//!
//! - **data directory**: the directory of one database; [`storage::layout`] names every file in it.
//! - **log** or **WAL**: the segments of all tables; all other files can be rebuilt from it, except the manifest and
//!   the layers of a compacted table.
//! - **segment**: one file of a table's log; the newest is **active**, all others are **sealed**.
//! - **seal**: the length, the number of frames and the digest of a sealed segment.
//! - **frame**: an event in a segment, with its length and CRC.
//! - **frame address**: a table id, a segment number and a byte offset; part of a frame's CRC.
//! - **log position**: a point between two frames of a table's log.
//! - **preallocation**: zeros that the writer writes ahead of the frames of an active segment.
//! - **reserve**: the file RESERVE, whose blocks the writer gives up on a full disk.
//! - **torn tail**: bytes after the last whole commit, which recovery cuts off and keeps in a separate file.
//! - **HEAD**: the file that says how far each table's log is durable, and so what readers may show.
//! - **table entry**: the part of HEAD about one table.
//! - **manifest**: the file `meta.json`, which lists the files that make up a table.
//! - **SST** (sorted string table): an immutable file of sorted trees, in compressed blocks with CRCs.
//! - **layer**: an SST with a part of a table's history. A **delta layer** contains all events between two commits; an
//!   **image layer** contains all live rows after one commit.
//! - **snapshot**: a table's layers and their indexes, as users see them: the files that make a start fast.
//! - **index**: an SST that maps values of a document path to candidate keys of one layer.
//! - **candidate**: a key that an index or the memtable suggests; the row is then read and checked.
//! - **compaction base**: the state at the start of a compacted segment; it replaces the events before the floor.
//!
//! ## Buckets
//!
//! - **bucket**: a database in an object store, under a prefix.
//! - **chunk**: an object with what the log got between two published commits; its number decides its place.
//! - **base**: a chunk with the whole state, from which a mirror can begin.
//! - **fence** of a bucket: the empty chunk with which a writer takes over.
//! - **mirror**: a directory with the bytes that the chunks of a bucket add up to.
//! - **to ship**: to bring to the bucket what was published, or is about to be.
//! - **collection**: the deletion of chunks and files that are older than the bucket is kept.
//!
//! ## In memory
//!
//! - **memtable**: a table's events after its newest delta layer, by key and by seq.
//! - **version**: a row after one event.
//! - **layer map**: the open layers of a table, and which of them a read needs.
//! - **timeline**: one table over all commits: its schemas, its layer map and its memtable.
//! - **view**: one table after one commit.
//! - **span**: a stretch of commits over which a row did not change.
//! - **read limit**: the log position up to which a table may be read.
//! - **block cache**: the bounded memory for unpacked blocks of SSTs, and the open files.
//!
//! ## Background work
//!
//! - **replay**: the application of the log's commits when a daemon starts.
//! - **recovery**: what every open for writing does: survey the directory, decide, repair, publish.
//! - **merge policy**: the rule that decides which layers are merged or removed.
//! - **compaction**: the removal of a table's history before a commit, which becomes the floor.
//! - **verification**: the comparison of all files with their checksums and with the log.
//! - **doctor**: the examination and repair of a data directory without daemons.
//! - **job**: a long task of the writer, for example a snapshot, a compaction or a verification.
//! - **work**: what the daemon computes for one request; it can be stopped while it runs.
//! - **lane**: threads that take turns with the work of requests, so that cheap requests never wait for scans.
//!
//! ## Progress of a commit
//!
//! Five positions describe how far the commits of a database have come:
//!
//! 1. **appended**: its frames are written to segments.
//! 2. **synced**: its frames are on disk.
//! 3. **published**: HEAD includes it, and the writer may acknowledge it.
//! 4. **applied**: a reader has added it to its replica.
//! 5. **snapshot**: layers contain it.
//!
//! Always `published ≤ synced ≤ appended`. Each reader's *applied* and each table's *snapshot* are at most *published*.
//!
//! # Words in names
//!
//! The same words have the same meaning in the names of types and functions:
//!
//! - `…Cursor` moves over stored entries; `…Reader` decodes a stream once; `…Scan` and `…Walk` iterate over several
//!   sources.
//! - `…Entry` is a decoded item of a file; `…Handle` locates bytes in a file; `…Position` and `…Address` locate a frame.
//! - `…Properties` describes a file and is stored in it; `…Options` configures a component; `…Limits` bounds its work.
//! - `…Error` is an error; `…Kind` and `…Type` are closed sets; `…Id` identifies.
//! - `open` and `create` access files; `load` fills memory; `publish` makes state visible to others.
//! - `check` fails if something is wrong; `is_…`, `has_…` and `may_…` return a boolean; `…_error` builds an error.
//! - Sizes end in `_bytes`, times in `_ms`, commit numbers in `seq`; `base` is exclusive and `seq` inclusive in a
//!   range of commits.

pub mod bucket;
pub mod error;
pub mod format;
pub mod limits;
pub mod memory;
pub mod metrics;
pub mod planted;
pub mod query;
pub mod service;
pub mod storage;
pub mod table;
pub mod trace;
pub mod vital;
pub mod work;
