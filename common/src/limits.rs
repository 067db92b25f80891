//! Every limit of DriftDB, as a constant. `docs/limits.md` lists them for users; a test compares the two.

/// The size of a document, in the larger of its two encodings (JSON and MessagePack), in bytes.
pub const DOCUMENT_BYTES: usize = 1 << 20;
/// The length of a row's key, in bytes of UTF-8. The minimum is one byte.
pub const KEY_BYTES: usize = 1024;
/// The number of columns of a composite primary key.
pub const KEY_COLUMNS: usize = 8;
/// The length of a composite key as JSON text, in bytes: each byte of its texts can take six.
pub const KEY_TEXT_BYTES: usize = 8 << 10;
/// The length of a table's name, in bytes.
pub const TABLE_NAME_BYTES: usize = 63;
/// The number of tables in a database, dropped tables included.
pub const TABLES: usize = 4096;
/// The number of secondary indexes of one table.
pub const INDEXES_PER_TABLE: usize = 64;
/// The number of columns of a composite index.
pub const INDEX_COLUMNS: usize = 8;
/// The shortest RETAIN period, in seconds.
pub const RETAIN_LEAST_SECS: u64 = 1;
/// The length of an indexed text, in bytes. Longer texts are truncated in the index; a query reads the row to compare the rest.
pub const INDEX_TEXT_BYTES: usize = 256;
/// The nesting of objects and arrays in documents, and of conditions in statements.
pub const NESTING: usize = 64;
/// The number of operations in one commit.
pub const OPERATIONS_PER_COMMIT: usize = 10_000;
/// The number of preconditions in one commit.
pub const PRECONDITIONS_PER_COMMIT: usize = 10_000;
/// The number of conditions over many rows in one commit.
pub const BOUNDARIES_PER_COMMIT: usize = 16;
/// The length of one such condition, in bytes.
pub const BOUNDARY_BYTES: usize = 4096;
/// The memory that a writer uses for the newest changes of rows, over all tables, in bytes: conditions over many rows are checked
/// against them.
pub const RECENT_CHANGES_BYTES: usize = 32 << 20;
/// The number of events in the snapshots, or else of rows that an index names, that a condition over many rows is compared with if the
/// changes since its commit are not in memory any more.
pub const BOUNDARY_LAYER_EVENTS: u64 = 10_000;
/// The number of comparisons of changes with one condition over many rows; a long row counts again for every 64 bytes. A condition that needs more has to be read again.
pub const BOUNDARY_STEPS: usize = 20_000_000;
/// The number of times that a statement which changes all rows of a condition finds them, while others change them.
pub const BULK_TRIES: usize = 10;
/// The size of the rows that the patches of one commit read and write, in bytes: of each row before and after each patch.
pub const PATCHED_BYTES_PER_COMMIT: usize = 256 << 20;
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
/// The memory for row images and JSON texts of these commits that several watches need, in bytes. What does not fit is read or
/// encoded again for each watch.
pub const RING_SHARED_BYTES: usize = 8 << 20;
/// The number of values by which a condition's watch is found. A watch with more is woken by every commit of its tables.
pub const WATCH_INDEX_VALUES: usize = 256;
/// The number of document paths by which the watches of a table are found. Watches of further paths are woken by every commit
/// of the table.
pub const WATCH_INDEX_PATHS: usize = 16;
/// The default interval between heartbeats of a quiet watch, in milliseconds.
pub const HEARTBEAT_MS: u64 = 10_000;
/// The shortest interval between heartbeats that a request can set, in milliseconds.
pub const HEARTBEAT_LEAST_MS: u64 = 100;
/// The number of statements, Selects, Histories and Diffs that a reader runs at the same time, slow clients included.
pub const QUERIES: usize = 1024;
/// The number of Gets, DescribeTables, ListTables and Status calls that a reader serves at the same time.
pub const LOOKUPS: usize = 8192;
/// The memory that one query uses for what it has found and not yet returned, in bytes: candidate keys of an index, changed
/// keys of a Diff; with more it reads all rows instead. Also what ORDER BY, DISTINCT, GROUP BY and aggregates hold; with more the
/// query fails with `QUERY_MEMORY_EXCEEDED`.
pub const QUERY_BYTES: usize = 32 << 20;
/// The number of moments of one `AS OF EVERY`.
pub const MOMENTS_PER_QUERY: usize = 10_000;
/// The default time that a daemon works on one request, in seconds: a reader on any request, a writer on reading old states of rows
/// for REVERT, on finding the rows of a statement that changes many, and on checking conditions over many rows.
pub const STATEMENT_TIMEOUT_SECS: u64 = 30;
/// The number of fields that one Select returns of each row.
pub const SELECT_FIELDS: usize = 1000;
/// The number of columns of one GROUP BY, and of one ORDER BY.
pub const ORDER_COLUMNS: usize = 64;
/// The number of comparisons in one condition.
pub const CONDITION_TERMS: usize = 10_000;
/// The number of values in one condition, those in IN lists included.
pub const CONDITION_VALUES: usize = 100_000;
/// The number of values in one document or parameter of a statement, those inside of arrays and objects included.
pub const LITERAL_VALUES: usize = 1 << 20;
/// The length of a LIKE pattern, in bytes.
pub const LIKE_PATTERN_BYTES: usize = 4096;
/// The number of keys in one Diff.
pub const DIFF_KEYS: usize = 10_000;
/// The number of keys in one Get.
pub const KEYS_PER_GET: usize = 1000;
/// The length of a DriftQL statement, in bytes.
pub const STATEMENT_BYTES: usize = 16 << 20;
/// The length of the reason that is stored with a commit, in bytes.
pub const REASON_BYTES: usize = 1024;
/// The length of the actor that is stored with a commit, in bytes.
pub const ACTOR_BYTES: usize = 256;
/// The length of a request id, in bytes. The minimum is one byte.
pub const REQUEST_ID_BYTES: usize = 128;
/// The number of false preconditions that one error lists.
pub const PRECONDITIONS_LISTED: usize = 20;
/// The number of admitted writes that are not durable yet. Further writes fail with `OVERLOADED`.
pub const QUEUE_REQUESTS: usize = 65_536;
/// The size of admitted frames that are not durable yet, in bytes. Further writes fail with `OVERLOADED`.
pub const QUEUE_BYTES: usize = 256 << 20;
/// The number of requests of a writer whose work runs at the same time outside of its network threads: reading the rows that a
/// change depends on, and decoding large requests. Further requests wait.
pub const WRITER_TASKS: usize = 16;
/// The number of requests of a writer that read old states of rows, find the rows of a statement that changes many, or parse long
/// statements, at the same time. Further requests wait.
pub const WRITER_LONG_TASKS: usize = 2;
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
/// The default size of the log that no snapshot covers, and of the rows that this log changed, over all tables, in bytes. These rows
/// are in memory. At this size the writer takes a snapshot of the table with the longest log or the most bytes of rows. At twice this
/// size writes fail with `OVERLOADED`.
pub const MEMTABLE_BYTES: u64 = 512 << 20;
/// The memory that a writer takes for what it knows of rows whose content is in snapshot files only, in bytes, over all tables: a
/// write of such a row reads no file. Of the rows beyond it, those that have not changed for the longest time are forgotten.
pub const ROW_STATES_BYTES: usize = 32 << 20;
/// The number of incarnations that a database's lineage keeps. Tokens of older ones are refused with `EPOCH_CHANGED`.
pub const LINEAGE_ENTRIES: usize = 4096;
/// The memory for rows that PATCHes made and that no memtable keeps, in bytes.
pub const MERGED_ROWS_BYTES: usize = 16 << 20;
/// The default for how far the system's clock may be ahead of the time that the writer expects, in seconds. Commits beyond it fail
/// with `CLOCK_JUMPED` until the time is confirmed.
pub const CLOCK_JUMP_SECS: u64 = 86_400;
/// The default memory that requests and their answers may take from a daemon, over all uses, in bytes.
pub const REQUEST_MEMORY_BYTES: u64 = 512 << 20;
/// The least value of --request-memory, in bytes.
pub const REQUEST_MEMORY_LEAST_BYTES: u64 = 64 << 20;
/// The memory that the requests of one connection may take, in bytes: enough for the largest request, received and decoded.
pub const REQUEST_MEMORY_OF_CONNECTION_BYTES: u64 = 132 << 20;
/// The number of connections of a daemon. Fewer if the system allows the process fewer open files.
pub const CONNECTIONS: usize = 20_000;
/// The part of them that one address may have, in percent.
pub const CONNECTIONS_OF_ADDRESS_PERCENT: usize = 75;
/// The number of calls of a daemon that are open at the same time, streams included.
pub const CALLS: usize = 32_768;
/// The number of these calls that one address may have.
pub const CALLS_OF_ADDRESS: usize = 24_576;
/// The number of calls that are open at the same time on one connection. Further calls wait in the client.
pub const CALLS_PER_CONNECTION: u32 = 1024;
/// The number of calls of a connection that the client began and reset before the daemon took them. With more the connection is
/// closed.
pub const PENDING_RESETS: usize = 20;
/// The number of clients whose calls and watches a daemon counts at the same time.
pub const CLIENTS: usize = 65_536;
/// The default number of watches of one client at a reader.
pub const WATCHES_PER_CLIENT: usize = 15_000;
/// The time that calls have after a connection has reached its greatest age, in seconds; the default of --connection-grace.
pub const CONNECTION_GRACE_SECS: u64 = 30;
/// The size of a health check, in bytes: the one request that is received before it is known who calls.
pub const HEALTH_REQUEST_BYTES: usize = 4 << 10;
/// The size of a request's headers, in bytes.
pub const HEADER_BYTES: u32 = 16 << 10;
/// The time in which a new connection must finish its TLS handshake, and send the HTTP/2 preface and its settings, in seconds.
pub const HANDSHAKE_SECS: u64 = 10;
/// The number of connections that have not finished their handshake at the same time. Further ones wait until one has, or for a second:
/// then the handshakes that have taken longer than that are closed.
pub const HANDSHAKES: usize = 1024;
/// The memory that is reserved for a connection with TLS, in bytes. Such connections may take half of the memory for requests.
pub const TLS_CONNECTION_BYTES: u64 = 16 << 10;
/// The size of a file that a daemon reads again when it changes, such as a certificate, in bytes.
pub const RELOADED_FILE_BYTES: u64 = 1 << 20;
/// The time after which a connection without open calls is closed, in seconds.
pub const IDLE_SECS: u64 = 600;
/// The time in which a request message must arrive after its first byte, in seconds.
pub const REQUEST_ARRIVAL_SECS: u64 = 120;
/// The length of the name of a principal, in bytes.
pub const PRINCIPAL_NAME_BYTES: usize = 128;
/// The number of grants with `*` of one principal.
pub const GRANT_PATTERNS: usize = 64;
/// The time after which a request ends that has begun and of which nothing more arrives, in seconds.
pub const REQUEST_IDLE_SECS: u64 = 30;
/// The memory for lines of the audit log that are not written yet, in bytes. Further lines are lost, and counted.
pub const AUDIT_QUEUE_BYTES: usize = 8 << 20;
/// The number of refusals that the audit log writes each second. Further ones are counted.
pub const AUDIT_REFUSALS_PER_SECOND: u64 = 100;
/// The default size of a file of the audit log, in bytes.
pub const AUDIT_FILE_BYTES: u64 = 64 << 20;
/// The default number of files of the audit log.
pub const AUDIT_FILES: u32 = 10;
/// The keys that `driftctl ingest --dry-run` remembers, to find rows with the same key.
pub const DRY_RUN_KEYS: usize = 1 << 22;
/// The size of the names of the columns of an exported CSV or Parquet file, in bytes; each name counts with 100 bytes more.
pub const EXPORT_HEADER_BYTES: usize = 1 << 20;
/// The size in memory of the rows at which a row group of an exported Parquet file ends, in bytes.
pub const EXPORT_ROW_GROUP_BYTES: usize = 32 << 20;
/// The size of the JSON patch of a row in a diff, in bytes. A longer patch is left out.
pub const PATCH_BYTES: usize = 1 << 20;
/// The number of series that a daemon counts for its metrics. Further ones are not counted.
pub const METRIC_SERIES: usize = 2048;
/// The number of spans that wait until the collector of traces takes them. Further ones are dropped.
pub const TRACE_SPANS: usize = 2048;
/// The number of connections to the port of the metrics. A further one takes the place of one that does nothing.
pub const METRICS_CONNECTIONS: usize = 16;
/// Those of one network.
pub const METRICS_CONNECTIONS_OF_NETWORK: usize = 8;
/// Scrapes that may be asked for together; the other connections are for probes.
pub const METRICS_SCRAPES: usize = 4;
/// The size of a request to that port, in bytes.
pub const METRICS_REQUEST_BYTES: usize = 8 << 10;
/// The time in which such a request must arrive, in seconds.
pub const METRICS_REQUEST_SECS: u64 = 10;
/// The age at which a connection to that port is told to end, in seconds.
pub const METRICS_CONNECTION_SECS: u64 = 300;
/// The size of a chunk of the log in a bucket, in bytes.
pub const BUCKET_CHUNK_BYTES: u64 = 256 << 20;
/// The size of the changes that the next chunk for a bucket holds, in bytes. If there are more, whole segments are uploaded in their
/// place.
pub const BUCKET_CHANGES_BYTES: u64 = 32 << 20;
/// The time after which a request to an object store has failed, in seconds.
pub const BUCKET_REQUEST_SECS: u64 = 30;
/// The same for a part of a file that a query waits for, in seconds.
pub const BUCKET_PART_SECS: u64 = 10;
/// The number of such parts that are read from a bucket at once.
pub const BUCKET_PART_REQUESTS: usize = 64;
/// The time for which reads, uploads and listings of a bucket are repeated while its store does not answer, in seconds.
pub const BUCKET_PATIENCE_SECS: u64 = 30;
/// The number of objects that a listing of a folder in a bucket returns.
pub const BUCKET_LISTED_OBJECTS: usize = 1_000_000;
/// The number of chunks after which a bucket gets a new base, from which mirrors begin.
pub const BUCKET_BASE_CHUNKS: u64 = 2000;
/// The size of the changes after which a bucket gets a new base, in bytes, if they are a quarter of the log, too.
pub const BUCKET_BASE_BYTES: u64 = 256 << 20;
/// The default time between two chunks for a bucket, in milliseconds, if commits do not wait for it.
pub const BUCKET_ASYNC_INTERVAL_MS: u64 = 1000;
/// The default time between two chunks for a bucket, in milliseconds, if commits wait for it.
pub const BUCKET_SYNC_INTERVAL_MS: u64 = 100;
/// The longest time for which a writer without commits does not ask its bucket whether another has taken over, in seconds.
pub const BUCKET_IDLE_CHECK_SECS: u64 = 60;
/// What a reader of a bucket fetches at once when a file is read in order, in bytes.
pub const BUCKET_READ_AHEAD_BYTES: u64 = 2 << 20;
/// The shortest time between two chunks for a bucket, in milliseconds.
pub const BUCKET_INTERVAL_LEAST_MS: u64 = 10;
