//! Every metric of the daemons: its name, type, unit, labels and help text. `docs/metrics.md` lists them for users; a test compares the
//! two, and both with a scrape.
//!
//! Names follow Prometheus' rules, and for calls OpenTelemetry's conventions of RPC metrics. The number of series has a bound: no label
//! has a value that clients choose, such as a table or a principal.

pub use crate::metrics::metric_spec::{DaemonKind, MetricKind, MetricLabel, MetricSpec, MetricUnit};

use crate::metrics::metric_spec::one_of;

/// From 50 µs to 10 s.
const CALL_BOUNDS: [f64; 17] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];
/// From 50 µs, which only a cache without power loss reaches, to 5 s.
const SYNC_BOUNDS: [f64; 16] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0,
];
/// Powers of two.
const GROUP_BOUNDS: [f64; 12] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0];
/// From 1 KiB to 256 MiB.
const CHUNK_BOUNDS: [f64; 10] = [
    1024.0,
    4096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
    268_435_456.0,
];

const MEMORY_USES: MetricLabel = one_of("use", &["requests", "answers", "queries", "ingest", "watches"]);

/// Calls, with OpenTelemetry's names.
pub const CALL_DURATION: MetricSpec = MetricSpec::histogram(
    "rpc_server_call_duration_seconds",
    &CALL_BOUNDS,
    "Time from the headers of a call to the end of its answer, by method and gRPC code. A call whose client left has the code CANCELLED",
)
.in_seconds()
.labelled(&[
    one_of("rpc_system_name", &["grpc"]),
    one_of("rpc_method", &[]),
    one_of("rpc_response_status_code", &[]),
])
.optional();
/// The version.
pub const BUILD_INFO: MetricSpec =
    MetricSpec::gauge("driftdb_build_info", "Always 1. Which daemon this is, and its version")
        .labelled(&[one_of("daemon", &["writer", "reader"]), one_of("version", &[])]);
/// Readiness.
pub const READY: MetricSpec =
    MetricSpec::gauge("driftdb_ready", "1 if health reports SERVING for the daemon's service, else 0");
/// Waiting.
pub const STANDBY: MetricSpec = MetricSpec::gauge(
    "driftdb_standby",
    "1 while the daemon waits: for another writer's lock, for room on the disk, or for a database to be created",
);
/// Open connections.
pub const CONNECTIONS: MetricSpec = MetricSpec::gauge("driftdb_connections", "Open connections of clients");
/// The limit of open connections.
pub const CONNECTIONS_LIMIT: MetricSpec =
    MetricSpec::gauge("driftdb_connections_limit", "Connections that clients may have open together");
/// Open calls.
pub const CALLS: MetricSpec = MetricSpec::gauge("driftdb_calls", "Open calls, streams included");
/// Received bytes.
pub const RECEIVED_BYTES: MetricSpec = MetricSpec::counter(
    "driftdb_network_received_bytes_total",
    "Bytes from clients, after decryption, with the framing of HTTP/2",
)
.in_bytes();
/// Sent bytes.
pub const SENT_BYTES: MetricSpec = MetricSpec::counter(
    "driftdb_network_sent_bytes_total",
    "Bytes to clients, before encryption, with the framing of HTTP/2",
)
.in_bytes();
/// Refusals.
pub const REFUSED: MetricSpec = MetricSpec::counter(
    "driftdb_refused_total",
    "Connections and requests refused because of a limit. The values `memory_…` are the uses of --request-memory",
)
.labelled(&[one_of(
    "limit",
    &[
        "connections",
        "calls",
        "calls_of_address",
        "calls_per_second",
        "clients",
        "watches",
        "watches_per_client",
        "lookups",
        "queries",
        "queue",
        "memtable",
        "jobs",
        "memory_requests",
        "memory_answers",
        "memory_queries",
        "memory_ingest",
        "memory_watches",
    ],
)]);
/// Reserved memory.
pub const REQUEST_MEMORY: MetricSpec =
    MetricSpec::gauge("driftdb_request_memory_bytes", "Memory that requests and their answers hold, by use")
        .in_bytes()
        .labelled(&[MEMORY_USES]);
/// Its limits.
pub const REQUEST_MEMORY_LIMIT: MetricSpec =
    MetricSpec::gauge("driftdb_request_memory_limit_bytes", "The part of --request-memory that each use has")
        .in_bytes()
        .labelled(&[MEMORY_USES]);
/// The block cache's requests.
pub const CACHE_REQUESTS: MetricSpec =
    MetricSpec::counter("driftdb_cache_requests_total", "Blocks of snapshots that were asked of the cache")
        .labelled(&[one_of("result", &["hit", "miss"])]);
/// The block cache's size.
pub const CACHE_BYTES: MetricSpec =
    MetricSpec::gauge("driftdb_cache_bytes", "Snapshot blocks in the cache").in_bytes();
/// The block cache's limit.
pub const CACHE_LIMIT: MetricSpec =
    MetricSpec::gauge("driftdb_cache_limit_bytes", "The size of the cache: --cache").in_bytes();
/// Denied calls.
pub const AUTH_DENIED: MetricSpec = MetricSpec::counter(
    "driftdb_auth_denied_total",
    "Calls whose caller could not prove who it is, or may not do what it asked for",
)
.labelled(&[one_of("kind", &["authentication", "permission"])]);
/// Lost audit lines.
pub const AUDIT_LOST: MetricSpec = MetricSpec::counter(
    "driftdb_audit_lost_lines_total",
    "Lines of the audit log that were lost because it could not be written",
);
/// The certificate's end.
pub const CERTIFICATE_EXPIRY: MetricSpec = MetricSpec::gauge(
    "driftdb_certificate_expiry_timestamp_seconds",
    "When the daemon's certificate ends, in seconds since 1970. Only with TLS",
)
.in_seconds()
.optional();
/// Files done without.
pub const DAMAGED_FILES: MetricSpec = MetricSpec::gauge(
    "driftdb_damaged_files",
    "Damaged snapshot and index files that the daemon does without",
);
/// What is retried.
pub const PROBLEMS: MetricSpec =
    MetricSpec::gauge("driftdb_problems", "What the daemon fails to do and retries, as Status lists it");
/// The last durable commit.
pub const PUBLISHED_SEQ: MetricSpec = MetricSpec::gauge(
    "driftdb_published_seq",
    "The newest commit on disk. In a reader: the newest commit in HEAD, as last read",
);
/// Rows in memory.
pub const MEMTABLE_BYTES: MetricSpec = MetricSpec::gauge(
    "driftdb_memtable_bytes",
    "Memory of what no snapshot contains. In a writer: of the rows that changed; in a reader: of the events",
)
.in_bytes();
/// Tables.
pub const TABLES: MetricSpec = MetricSpec::gauge("driftdb_tables", "Tables that are not dropped");
/// Requests to a bucket.
pub const BUCKET_REQUESTS: MetricSpec = MetricSpec::counter(
    "driftdb_bucket_requests_total",
    "Requests to the bucket, each attempt counted. `missing`: the object does not exist, which is how a bucket says that there is no newer chunk; `exists`: a chunk has its number already",
)
.labelled(&[
    one_of("request", &["create", "put", "get", "head", "list", "delete"]),
    one_of("result", &["ok", "missing", "exists", "failed"]),
])
.optional();
/// Attempts that were repeated.
pub const BUCKET_RETRIES: MetricSpec = MetricSpec::counter(
    "driftdb_bucket_retries_total",
    "Requests that were repeated because the bucket did not answer, or not then",
)
.optional();
/// Bytes to a bucket.
pub const BUCKET_SENT_BYTES: MetricSpec = MetricSpec::counter(
    "driftdb_bucket_sent_bytes_total",
    "Content of the objects that the bucket has taken, of parts of large objects, too",
)
.in_bytes()
.optional();
/// Bytes from a bucket.
pub const BUCKET_RECEIVED_BYTES: MetricSpec =
    MetricSpec::counter("driftdb_bucket_received_bytes_total", "Content of objects that the bucket has sent")
        .in_bytes()
        .optional();
/// Resident memory.
pub const PROCESS_MEMORY: MetricSpec =
    MetricSpec::gauge("process_resident_memory_bytes", "Resident memory of the process")
        .in_bytes()
        .optional();
/// Processor time.
pub const PROCESS_CPU: MetricSpec =
    MetricSpec::counter("process_cpu_seconds_total", "Processor time of the process, user and system")
        .in_seconds()
        .optional();
/// Start time.
pub const PROCESS_START: MetricSpec =
    MetricSpec::gauge("process_start_time_seconds", "When the process started, in seconds since 1970")
        .in_seconds();
/// Descriptors.
pub const PROCESS_MAX_FDS: MetricSpec =
    MetricSpec::gauge("process_max_fds", "Files that the process may have open");

/// Syncs of the log.
pub const FSYNC_SECONDS: MetricSpec = MetricSpec::histogram(
    "driftdb_fsync_seconds",
    &SYNC_BOUNDS,
    "Time of the fdatasync of a group's segments. A group of several tables syncs them at the same time, and counts once",
)
.in_seconds()
.of_writer();
/// Groups.
pub const GROUP_COMMITS: MetricSpec =
    MetricSpec::histogram("driftdb_group_commits", &GROUP_BOUNDS, "Commits that were synced together")
        .of_writer();
/// The last commit's time.
pub const PUBLISHED_TIMESTAMP: MetricSpec = MetricSpec::gauge(
    "driftdb_published_timestamp_seconds",
    "The time of the newest commit on disk, in seconds since 1970",
)
.in_seconds()
.of_writer();
/// What waits for the disk, in bytes.
pub const QUEUE_BYTES: MetricSpec =
    MetricSpec::gauge("driftdb_queue_bytes", "Log that waits to be written").in_bytes().of_writer();
/// What waits for the disk, in requests.
pub const QUEUE_REQUESTS: MetricSpec =
    MetricSpec::gauge("driftdb_queue_requests", "Writes that wait for the disk").of_writer();
/// The log after the newest snapshots.
pub const TAIL_BYTES: MetricSpec =
    MetricSpec::gauge("driftdb_log_tail_bytes", "Log that no snapshot contains, over all tables")
        .in_bytes()
        .of_writer();
/// Its limit.
pub const TAIL_LIMIT: MetricSpec = MetricSpec::gauge(
    "driftdb_log_tail_limit_bytes",
    "Log without a snapshot, or changed rows in memory, at which writes are refused: twice --memory",
)
.in_bytes()
.of_writer();
/// Files of the log.
pub const SEGMENTS: MetricSpec =
    MetricSpec::gauge("driftdb_segments", "Segments of the log, over all tables").of_writer();
/// Files of snapshots.
pub const SNAPSHOT_FILES: MetricSpec =
    MetricSpec::gauge("driftdb_snapshot_files", "Snapshot files, over all tables, without indexes")
        .of_writer();
/// The size of all files.
pub const DATA_BYTES: MetricSpec = MetricSpec::gauge(
    "driftdb_data_bytes",
    "Files of all tables that are not dropped: log, snapshots and indexes",
)
.in_bytes()
.of_writer();
/// The age of snapshots.
pub const SNAPSHOT_AGE: MetricSpec = MetricSpec::gauge(
    "driftdb_snapshot_age_seconds",
    "The longest time that a table that is due for a snapshot (--snapshot-events, --snapshot-bytes) has had no new one; counted from the writer's start if it has taken none since. 0 if no table is due",
)
.in_seconds()
.of_writer();
/// Failed snapshots.
pub const SNAPSHOT_FAILURES: MetricSpec =
    MetricSpec::counter("driftdb_snapshot_failures_total", "Snapshots and merges that failed").of_writer();
/// Failed maintenance.
pub const MAINTENANCE_FAILURES: MetricSpec = MetricSpec::counter(
    "driftdb_maintenance_failures_total",
    "Background work on a table that failed, each try counted",
)
.of_writer()
.labelled(&[one_of("work", &["snapshot", "index", "retention", "rebuild"])]);
/// The greatest floor.
pub const FLOOR_SEQ: MetricSpec = MetricSpec::gauge(
    "driftdb_floor_seq",
    "The newest floor of any table: before this commit, some history is discarded. 0 if none is",
)
.of_writer();
/// Free bytes.
pub const DISK_FREE: MetricSpec = MetricSpec::gauge(
    "driftdb_disk_free_bytes",
    "Free bytes of the data directory's disk, as the writer last saw it",
)
.in_bytes()
.of_writer();
/// A full disk.
pub const DISK_FULL: MetricSpec =
    MetricSpec::gauge("driftdb_disk_full", "1 while writes that need room are refused, else 0").of_writer();
/// The reserve.
pub const RESERVE_BYTES: MetricSpec = MetricSpec::gauge(
    "driftdb_reserve_bytes",
    "The size of the file RESERVE, which the writer gives up on a full disk",
)
.in_bytes()
.of_writer();
/// The clock going back.
pub const CLOCK_BACKWARD: MetricSpec = MetricSpec::counter(
    "driftdb_clock_backward_total",
    "How often the clock was found behind the last commit's time",
)
.of_writer();
/// The clock jumping ahead.
pub const CLOCK_JUMPED: MetricSpec = MetricSpec::gauge(
    "driftdb_clock_jumped",
    "1 while commits are refused because the clock has jumped ahead, else 0",
)
.of_writer();
/// Jobs.
pub const JOBS: MetricSpec =
    MetricSpec::gauge("driftdb_jobs", "Snapshots, compactions and verifications that were asked for")
        .of_writer()
        .labelled(&[one_of("state", &["running", "waiting"])]);
/// Ended jobs.
pub const JOBS_ENDED: MetricSpec = MetricSpec::counter("driftdb_jobs_ended_total", "Jobs that have ended")
    .of_writer()
    .labelled(&[one_of("outcome", &["ok", "failed"])]);
/// The term.
pub const TERM: MetricSpec =
    MetricSpec::gauge("driftdb_term", "The term of this writer: how many writers have opened the database")
        .of_writer();

/// The size of chunks.
pub const BUCKET_CHUNK_BYTES: MetricSpec = MetricSpec::histogram(
    "driftdb_bucket_chunk_bytes",
    &CHUNK_BOUNDS,
    "Sizes of the chunks that were shipped to the bucket. A backup that was asked for counts, too",
)
.in_bytes()
.of_writer()
.optional();
/// What is in the bucket.
pub const BUCKET_SHIPPED_SEQ: MetricSpec =
    MetricSpec::gauge("driftdb_bucket_shipped_seq", "The newest commit in the bucket. Only with --bucket")
        .of_writer()
        .optional();
/// The last chunk in the bucket.
pub const BUCKET_CHUNK: MetricSpec = MetricSpec::gauge(
    "driftdb_bucket_chunk",
    "The number of the last chunk in the bucket. Only with --bucket",
)
.of_writer()
.optional();
/// Commits that are not in the bucket.
pub const BUCKET_LAG_COMMITS: MetricSpec = MetricSpec::gauge(
    "driftdb_bucket_lag_commits",
    "Commits on disk that the bucket does not have. Only with --bucket",
)
.of_writer()
.optional();
/// How long commits have not been in the bucket.
pub const BUCKET_LAG_SECONDS: MetricSpec = MetricSpec::gauge(
    "driftdb_bucket_lag_seconds",
    "Time since the bucket had every commit; 0 while it has. That much would be lost with the machine. Only with --bucket",
)
.in_seconds()
.of_writer()
.optional();

/// The last applied commit.
pub const APPLIED_SEQ: MetricSpec =
    MetricSpec::gauge("driftdb_applied_seq", "The newest commit that the reader has applied").of_reader();
/// Commits behind.
pub const LAG_COMMITS: MetricSpec =
    MetricSpec::gauge("driftdb_lag_commits", "Commits in HEAD that the reader has not applied").of_reader();
/// Time behind.
pub const LAG_SECONDS: MetricSpec = MetricSpec::gauge(
    "driftdb_lag_seconds",
    "Time since the reader had applied everything in HEAD; 0 while it is up to date",
)
.in_seconds()
.of_reader();
/// Events in memory.
pub const MEMTABLE_EVENTS: MetricSpec =
    MetricSpec::gauge("driftdb_memtable_events", "Events that no snapshot contains, in memory").of_reader();
/// Watches.
pub const WATCHERS: MetricSpec = MetricSpec::gauge("driftdb_watchers", "Open watches").of_reader();
/// Watches behind.
pub const WATCH_BEHIND: MetricSpec = MetricSpec::gauge(
    "driftdb_watch_behind_commits",
    "Commits that the slowest watch has not sent; commits that do not concern it count while it is busy",
)
.of_reader();
/// Queries.
pub const QUERIES: MetricSpec = MetricSpec::gauge(
    "driftdb_queries",
    "Queries that are open, and the parts of queries and watches that run or wait for a turn",
)
.of_reader()
.labelled(&[one_of("state", &["open", "running", "waiting"])]);
/// Lost histories.
pub const HISTORIES_LOST: MetricSpec = MetricSpec::counter(
    "driftdb_histories_lost_total",
    "How often another history replaced the one that the reader served",
)
.of_reader();

/// The chunk that a mirror has.
pub const MIRROR_CHUNK: MetricSpec = MetricSpec::gauge(
    "driftdb_mirror_chunk",
    "The number of the bucket's last chunk that the reader's directory has. Only with --bucket",
)
.of_reader()
.optional();
/// How old a mirror may be.
pub const MIRROR_AGE: MetricSpec = MetricSpec::gauge(
    "driftdb_mirror_age_seconds",
    "Time since the bucket last said that it has no newer chunk; the reader may lack what came since. +Inf before it has said so once. Only with --bucket",
)
.in_seconds()
.of_reader()
.optional();
/// Parts of objects that were read.
pub const PART_REQUESTS: MetricSpec = MetricSpec::counter(
    "driftdb_bucket_cache_requests_total",
    "Parts of files in the bucket that were asked of the cache on disk. `ahead`: parts that a scan fetched before it asked for them. Only with --bucket-cache",
)
.of_reader()
.labelled(&[one_of("result", &["hit", "miss", "ahead"])])
.optional();
/// The size of the cache of parts.
pub const PART_BYTES: MetricSpec = MetricSpec::gauge(
    "driftdb_bucket_cache_bytes",
    "Parts of files in the bucket that are on disk. Only with --bucket-cache",
)
.in_bytes()
.of_reader()
.optional();
/// The limit of the cache of parts.
pub const PART_LIMIT: MetricSpec =
    MetricSpec::gauge("driftdb_bucket_cache_limit_bytes", "The size of that cache: --bucket-cache")
        .in_bytes()
        .of_reader()
        .optional();

/// Every metric, in the order of a scrape.
pub const ALL: &[&MetricSpec] = &[
    &CALL_DURATION,
    &BUILD_INFO,
    &READY,
    &STANDBY,
    &CONNECTIONS,
    &CONNECTIONS_LIMIT,
    &CALLS,
    &RECEIVED_BYTES,
    &SENT_BYTES,
    &REFUSED,
    &REQUEST_MEMORY,
    &REQUEST_MEMORY_LIMIT,
    &CACHE_REQUESTS,
    &CACHE_BYTES,
    &CACHE_LIMIT,
    &AUTH_DENIED,
    &AUDIT_LOST,
    &CERTIFICATE_EXPIRY,
    &DAMAGED_FILES,
    &PROBLEMS,
    &PUBLISHED_SEQ,
    &MEMTABLE_BYTES,
    &TABLES,
    &BUCKET_REQUESTS,
    &BUCKET_RETRIES,
    &BUCKET_SENT_BYTES,
    &BUCKET_RECEIVED_BYTES,
    &PROCESS_MEMORY,
    &PROCESS_CPU,
    &PROCESS_START,
    &PROCESS_MAX_FDS,
    &FSYNC_SECONDS,
    &GROUP_COMMITS,
    &PUBLISHED_TIMESTAMP,
    &QUEUE_BYTES,
    &QUEUE_REQUESTS,
    &TAIL_BYTES,
    &TAIL_LIMIT,
    &SEGMENTS,
    &SNAPSHOT_FILES,
    &DATA_BYTES,
    &SNAPSHOT_AGE,
    &SNAPSHOT_FAILURES,
    &MAINTENANCE_FAILURES,
    &FLOOR_SEQ,
    &DISK_FREE,
    &DISK_FULL,
    &RESERVE_BYTES,
    &CLOCK_BACKWARD,
    &CLOCK_JUMPED,
    &JOBS,
    &JOBS_ENDED,
    &TERM,
    &BUCKET_CHUNK_BYTES,
    &BUCKET_SHIPPED_SEQ,
    &BUCKET_CHUNK,
    &BUCKET_LAG_COMMITS,
    &BUCKET_LAG_SECONDS,
    &APPLIED_SEQ,
    &LAG_COMMITS,
    &LAG_SECONDS,
    &MEMTABLE_EVENTS,
    &WATCHERS,
    &WATCH_BEHIND,
    &QUERIES,
    &HISTORIES_LOST,
    &MIRROR_CHUNK,
    &MIRROR_AGE,
    &PART_REQUESTS,
    &PART_BYTES,
    &PART_LIMIT,
];

/// The metric with a name.
pub fn find(name: &str) -> Option<&'static MetricSpec> {
    ALL.iter().copied().find(|metric| metric.name == name)
}
