//! Every limit of DriftDB, as a constant. `docs/limits.md` lists them for users; a test compares the two.

/// The size of a document, in the larger of its two encodings (JSON and MessagePack), in bytes.
pub const DOCUMENT_BYTES: usize = 1 << 20;
/// The length of a row's key, in bytes of UTF-8. The minimum is one byte.
pub const KEY_BYTES: usize = 1024;
/// The length of a table's name, in bytes.
pub const TABLE_NAME_BYTES: usize = 63;
/// The number of tables in a database, dropped tables included.
pub const TABLES: usize = 4096;
/// The number of secondary indexes of one table.
pub const INDEXES_PER_TABLE: usize = 64;
/// The shortest RETAIN period, in seconds.
pub const RETAIN_LEAST_SECS: u64 = 1;
/// The length of an indexed text, in bytes. Longer texts are truncated in the index; a query reads the row to compare the rest.
pub const INDEX_TEXT_BYTES: usize = 256;
/// The nesting of objects and arrays in documents, and of conditions in statements.
pub const NESTING: usize = 64;
/// The number of operations in one commit.
pub const OPERATIONS_PER_COMMIT: usize = 10_000;
/// The size of a gRPC request, in bytes.
pub const REQUEST_BYTES: usize = 64 << 20;
/// The target size of a streamed gRPC response message, in bytes. A larger row gets a message of its own.
pub const MESSAGE_BYTES: usize = 256 << 10;
/// The size of a Get answer, in bytes. A larger answer stops here and lists the keys that it did not read.
pub const GET_BYTES: usize = 3 << 20;
/// The number of keys in the filter of one watch.
pub const KEYS_PER_WATCH: usize = 1000;
/// The number of watches that a reader serves at the same time.
pub const WATCHES: usize = 20_000;
/// The memory that a reader uses for the newest commits, in bytes. Watches that need older commits read them from files.
pub const RING_BYTES: usize = 16 << 20;
/// The default interval between heartbeats of a quiet watch, in milliseconds.
pub const HEARTBEAT_MS: u64 = 10_000;
/// The shortest interval between heartbeats that a request can set, in milliseconds.
pub const HEARTBEAT_LEAST_MS: u64 = 100;
/// The number of keys in one Get.
pub const KEYS_PER_GET: usize = 1000;
/// The length of a DriftQL statement, in bytes.
pub const STATEMENT_BYTES: usize = 16 << 20;
/// The length of the reason that is stored with a commit, in bytes.
pub const REASON_BYTES: usize = 1024;
/// The length of a request id, in bytes. The minimum is one byte.
pub const REQUEST_ID_BYTES: usize = 128;
/// The number of false preconditions that one error lists.
pub const PRECONDITIONS_LISTED: usize = 20;
/// The number of admitted writes that are not durable yet. Further writes fail with `OVERLOADED`.
pub const QUEUE_REQUESTS: usize = 65_536;
/// The size of admitted frames that are not durable yet, in bytes. Further writes fail with `OVERLOADED`.
pub const QUEUE_BYTES: usize = 256 << 20;
/// The number of maintenance jobs that run at the same time.
pub const JOBS: usize = 4;
/// The number of maintenance jobs that wait for their turn.
pub const JOBS_WAITING: usize = 64;
/// The number of problems that one verification reports. Further problems are only counted.
pub const PROBLEMS_LISTED: u64 = 10_000;
/// The number of segments that are synced at the same time.
pub const PARALLEL_SYNCS: usize = 16;
/// The length of a frame after its CRC, in bytes. More than the largest document, key and commit metadata need together.
pub const FRAME_BYTES: usize = 2 << 20;
/// The default size at which a segment is sealed, in bytes.
pub const SEGMENT_BYTES: u64 = 64 << 20;
/// The longest time that a read can wait for a replica to catch up, in seconds.
pub const FRESHNESS_WAIT_MAX_SECS: u64 = 60;
/// The default time that a read waits for a replica to catch up, in seconds.
pub const FRESHNESS_WAIT_SECS: u64 = 5;
/// The size of the `google.rpc.Status` details of an error, in bytes. HTTP/2 sends them in a header.
pub const STATUS_DETAILS_BYTES: usize = 8 << 10;
/// The decompressed size of an SST block, in bytes. More than any entry needs.
pub const BLOCK_BYTES_MAX: usize = 8 << 20;
/// The length of a key in an SST, in bytes. Two such keys fit in one block, so that every key can be indexed.
pub const BLOCK_KEY_BYTES: usize = 2 << 20;
/// The number of SSTs that a block cache keeps open at the same time.
pub const OPEN_SST_FILES: usize = 256;
/// The number of files of the log that a daemon keeps open at the same time: active segments in a writer, segments that are being
/// read in a reader. Less if the process may open fewer files.
pub const OPEN_LOG_FILES: usize = 4096;
/// The file descriptors of a daemon that are in no share: standard streams, LOCK, HEAD, directories, the runtime's own, and the
/// files that jobs write.
pub const RESERVED_DESCRIPTORS: u64 = 64;
/// The file descriptors that the log keeps only to give them up when the process has no other left.
pub const SPARE_DESCRIPTORS: usize = 8;
/// The size of the file RESERVE, which the writer gives up to open, to close or to compact on a full disk, in bytes.
pub const RESERVE_BYTES: u64 = 2 << 20;
/// The default size of the block cache, in bytes.
pub const CACHE_BYTES: u64 = 256 << 20;
/// The default number of events after a table's newest snapshot at which the writer takes the next snapshot.
pub const SNAPSHOT_EVENTS: u64 = 100_000;
/// The default bytes of log after a table's newest snapshot at which the writer takes the next snapshot.
pub const SNAPSHOT_BYTES: u64 = 128 << 20;
/// The default size of the log that no snapshot covers, over all tables, in bytes. The rows in this log are in memory. At this
/// size the writer takes a snapshot of the table with the longest log. At twice this size writes fail with `OVERLOADED`.
pub const MEMTABLE_BYTES: u64 = 512 << 20;
