//! What DriftDB's daemons and tools share. Layers, each importing only what stands before it:
//! `format`, `log`, `table`, `query`, `service`; `error` and `limits` are leaves.
//!
//! # Glossary
//!
//! - **commit**: what one sequence number names: events that became visible together, across tables.
//! - **event**: one immutable change of one row (INSERT, PATCH, SOFT_DELETE) or of a schema (SCHEMA).
//! - **frame**: an event as it stands in a segment, with its length and CRC.
//! - **group**: commits written and synced together.
//! - **segment**: one file of a table's log. The newest is active, the others are sealed.
//! - **manifest**: the list of the files that make up a table now.
//! - **HEAD**: how far each table's log is durable; what readers may show.
//! - **era**: a file of all that happened to a table in a stretch of commits; a **full** has all rows at one moment.
//!   Either is a **snapshot**, and a table's snapshots, opened, are its **chain**.
//! - **floor**: the oldest moment of a table that can be read; compaction raises it.
//! - **overlay**: what happened after the newest era, in memory, by key and by sequence number.
//! - **timeline**: the life of one table: its schemas, its chain and its overlay.
//! - **view**: a table's state after one commit.
//!
//! # Positions
//!
//! Five positions describe how far a commit has come, in this order always:
//! `snapshot ≤ applied ≤ published ≤ synced ≤ appended`. *appended*: written to segments; *synced*: on disk;
//! *published*: in HEAD, and acknowledged; *applied*: a reader shows it; *snapshot*: a snapshot holds it.

pub mod error;
pub mod format;
pub mod limits;
pub mod query;
pub mod service;
pub mod storage;
pub mod table;
