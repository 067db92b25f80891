//! Every limit of DriftDB, named once. The README lists them.

/// A document, in the larger of its two encodings, in bytes.
pub const DOCUMENT_BYTES: usize = 1 << 20;
/// A row's key, in bytes of UTF-8; at least one.
pub const KEY_BYTES: usize = 1024;
/// A table's name, in bytes.
pub const TABLE_NAME_BYTES: usize = 63;
/// Tables in a database, dropped ones counted too.
pub const TABLES: usize = 4096;
/// Secondary indexes of one table.
pub const INDEXES_PER_TABLE: usize = 64;
/// The least that RETAIN takes, in seconds.
pub const RETAIN_LEAST_SECS: u64 = 1;
/// What an index holds of a text, in bytes: those of its beginning. Longer texts are found by it, then read.
pub const INDEX_TEXT_BYTES: usize = 256;
/// Objects and arrays inside one another, in documents and in conditions.
pub const NESTING: usize = 64;
/// Operations in one commit.
pub const OPERATIONS_PER_COMMIT: usize = 10_000;
/// A gRPC request, in bytes.
pub const REQUEST_BYTES: usize = 64 << 20;
/// About the size of a streamed gRPC response message, in bytes; a larger row goes alone.
pub const MESSAGE_BYTES: usize = 256 << 10;
/// A Get answer, in bytes, after which the keys left over are handed back.
pub const GET_BYTES: usize = 3 << 20;
/// Keys that a watch names.
pub const KEYS_PER_WATCH: usize = 1000;
/// Watches that a reader serves at the same time.
pub const WATCHES: usize = 20_000;
/// The newest commits that a reader keeps for watches that follow the head, in bytes; one that is behind reads files.
pub const RING_BYTES: usize = 16 << 20;
/// How often a quiet watch says how far it is, where the request does not say, in milliseconds.
pub const HEARTBEAT_MS: u64 = 10_000;
/// The shortest such time, in milliseconds.
pub const HEARTBEAT_LEAST_MS: u64 = 100;
/// Keys in one Get.
pub const KEYS_PER_GET: usize = 1000;
/// A DriftQL statement, in bytes.
pub const STATEMENT_BYTES: usize = 16 << 20;
/// The reason kept with a commit, in bytes.
pub const REASON_BYTES: usize = 1024;
/// A request id, in bytes; at least one.
pub const REQUEST_ID_BYTES: usize = 128;
/// Failed preconditions listed in one answer.
pub const PRECONDITIONS_LISTED: usize = 20;
/// Writes admitted but not yet on disk.
pub const QUEUE_REQUESTS: usize = 65_536;
/// Bytes of frames admitted but not yet on disk.
pub const QUEUE_BYTES: usize = 256 << 20;
/// Long jobs that run at the same time.
pub const JOBS: usize = 4;
/// Long jobs that wait for others.
pub const JOBS_WAITING: usize = 64;
/// Problems that one verification tells of; more are only counted.
pub const PROBLEMS_LISTED: u64 = 10_000;
/// Segments synced at the same time.
pub const PARALLEL_SYNCS: usize = 16;
/// A frame's bytes after its CRC. Above what any document, key and commit metadata need together.
pub const FRAME_BYTES: usize = 2 << 20;
/// A segment is sealed when it has reached this many bytes, where no option says otherwise.
pub const SEGMENT_BYTES: u64 = 64 << 20;
/// The longest that a read waits for a replica to catch up, in seconds.
pub const FRESHNESS_WAIT_MAX_SECS: u64 = 60;
/// How long a read waits for a replica to catch up, where the request does not say, in seconds.
pub const FRESHNESS_WAIT_SECS: u64 = 5;
/// `google.rpc.Status` details of an error, in bytes: HTTP/2 carries them in a header.
pub const STATUS_DETAILS_BYTES: usize = 8 << 10;
/// A block of a sorted block file, unpacked, in bytes. Above what any entry needs.
pub const BLOCK_BYTES_MAX: usize = 8 << 20;
/// A key in a sorted block file, in bytes: two of them fit in one block.
pub const BLOCK_KEY_BYTES: usize = 2 << 20;
/// Sorted block files that a cache holds open at the same time.
pub const OPEN_SST_FILES: usize = 256;
/// Blocks of snapshots kept in memory, in bytes, where no option says otherwise.
pub const CACHE_BYTES: u64 = 256 << 20;
/// Events after a table's newest snapshot at which the next is taken, where no option says otherwise.
pub const SNAPSHOT_EVENTS: u64 = 100_000;
/// Bytes of log after a table's newest snapshot at which the next is taken, where no option says otherwise.
pub const SNAPSHOT_BYTES: u64 = 128 << 20;
/// Bytes of all tables' rows and events that no snapshot holds yet, at which the table with most of them is snapshotted;
/// at twice that, writes are refused until it is.
pub const MEMTABLE_BYTES: u64 = 512 << 20;
