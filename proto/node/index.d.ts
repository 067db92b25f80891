/**
 * DriftDB for Node: an append-only document database with time travel.
 *
 *     import { connect } from "driftdb";
 *     const db = connect("driftdb://127.0.0.1:7401,127.0.0.1:7402");
 *     const orders = await db.createTable("orders", { ifNotExists: true });
 *     const placed = await orders.put({ id: "o1", status: "pending", amount: 100 });
 *     await orders.patch("o1", { status: "paid" });
 *     await orders.get("o1"); // paid: a client reads its own writes
 *     await orders.get("o1", { asOf: placed }); // pending
 *     for await (const change of orders.watch({ afterSeq: 0n })) console.log(change.seq, change.kind, change.key);
 *
 * Every call rejects with a DriftError if it fails, or with the reason of its `signal` if that is aborted.
 * Sequence numbers and counts are bigint. Documents are plain objects; their integers beyond 2^53 are bigint, in both directions,
 * and all others are numbers. Times are Dates, and time spans milliseconds.
 */

/** A value of a document. */
export type Value = null | boolean | number | bigint | string | Value[] | { [field: string]: Value };
/** What a table holds: a JSON object. */
export type Document = { [field: string]: Value };
/** A key: text, a whole number for INT keys, and an array or an object for composite keys. */
export type Key = string | number | bigint | Value[] | { [field: string]: Value };
/** A point in time: a seq, a Date, that long ago, or the state after the commit of a receipt, a row, a commit. */
export type AsOf = bigint | number | Date | { ago: number } | { seq: bigint };
/** Values of `$1`, `$2`, …, or of `$name`. */
export type Params = readonly unknown[] | { [name: string]: unknown };

/** Ends a call. */
export interface CallOptions {
  signal?: AbortSignal;
  /** How long the call waits, in seconds, as in ConnectOptions; Infinity for no limit. */
  timeout?: number;
}
/** Options of a commit: why it is made and by whom, stored with it, and an id with which it is not done twice. */
export interface CommitOptions extends CallOptions {
  reason?: string;
  actor?: string;
  requestId?: string;
}
/** Options of a change of one row. PRECONDITION_FAILED if the row's last change is not the commit `ifSeq`. */
export interface ChangeOptions extends CommitOptions {
  ifSeq?: bigint | number;
}
/** Options of a read. */
export interface ReadOptions extends CallOptions {
  asOf?: AsOf;
}

/** How to connect. The same options can follow the address: `?ca=FILE&server_name=NAME`. */
export interface ConnectOptions {
  /** The certificates of the CAs to trust; required with TLS. */
  ca?: string;
  /** The client's own certificate and its key, for daemons that ask for one. */
  cert?: string;
  key?: string;
  /** The name in the daemons' certificates, if it is not the host. */
  serverName?: string;
  /** The access token, or the file that has it. It is sent over TLS or to this machine. */
  token?: string;
  tokenFile?: string;
  /** What "yesterday" means in conditions; by default in UTC. */
  timeZone?: string;
  /** Reads take what the reader has, and need not include this client's writes. */
  stale?: boolean;
  /** How long a write is retried, in seconds; by default 30. */
  retryTimeout?: number;
  /**
   * How long a call waits for its first answer, retries included, and then for each further one, in seconds; by default without limit.
   * A write whose time is over is OUTCOME_UNKNOWN, a read STATEMENT_TIMEOUT. A watch has no limit: it waits for changes.
   */
  timeout?: number;
}

/**
 * A client of a database. It connects when a call needs it.
 *
 * The address is `driftdb://WRITER,READER[,READER…]`, each HOST or HOST:PORT; the default ports are 7401 and 7402. A single host
 * without a port means both there. `driftdbs://` uses TLS. `?standby=HOST:PORT` names another writer, any number of times.
 * Throws ARGUMENT_INVALID if the address or an option is wrong.
 */
export function connect(url: string, options?: ConnectOptions): Database;

/** Names a commit beyond doubt. */
export interface Token {
  seq: bigint;
  time?: Date;
  epoch: bigint;
  incarnation: bigint;
}
/** A commit that is on disk. `keys` are those that the writer made; `replayed`: the request id had been used before. */
export interface Receipt {
  seq: bigint;
  token: Token;
  replayed: boolean;
  keys: string[];
}
/** The point in time of an answer: the state after exactly the commit `readSeq`. */
export interface Header {
  readSeq: bigint;
  readTime?: Date;
  appliedSeq: bigint;
  floorSeq: bigint;
  databaseId: string;
  epoch: bigint;
  incarnation: bigint;
  notes: string[];
}
/** A live row, and the commit that last changed it. */
export interface Row {
  key: string;
  seq: bigint;
  time?: Date;
  document: Document;
}
/** What a change did. `initial`: no change, but a row as it was when a watch with initial rows began. */
export type Kind = "insert" | "patch" | "delete" | "schema" | "initial";
/** One change of one row or schema, and the commit that made it. `payload` is what was written. */
export interface Change {
  table: string;
  key: string;
  kind: Kind;
  payload?: Document;
  before?: Document;
  after?: Document;
  seq: bigint;
  time?: Date;
  actor: string;
  reason: string;
  principal: string;
  replaced: boolean;
  reverted: boolean;
}
/** All changes of one sequence number that the request selects. */
export interface Commit {
  seq: bigint;
  time?: Date;
  actor: string;
  reason: string;
  principal: string;
  changes: Change[];
}
/**
 * A row that differs between two points in time. `patch` is a JSON Patch; undefined if the row was added or removed, or if the patch would
 * be too large: then `patchOmitted` is true.
 */
export interface RowDiff {
  key: string;
  before?: Document;
  after?: Document;
  patch?: Document[];
  patchOmitted: boolean;
}
/** A table's schema and figures. */
export interface TableInfo {
  name: string;
  primaryKey: string;
  keyType: "STRING" | "INT" | "COMPOSITE";
  indexes: string[][];
  rows: bigint;
  createdSeq: bigint;
  lastSeq: bigint;
  floorSeq: bigint;
  autoKey: boolean;
  problem: string;
}
/** What a statement at the writer did. */
export interface Executed {
  token?: Token;
  keys: string[];
  messages: string[];
  /** The rows that a statement with WHERE changed. */
  rows?: bigint;
}
/** An operation that an ingest refused: its position in the whole stream from 0, and why. */
export interface Refused {
  position: number;
  code: number;
  reason: string;
  message: string;
}
/** What an ingest did. All operations are on disk, except those in `refused`. */
export interface Ingested {
  operations: number;
  token?: Token;
  refused: Refused[];
  keys: string[];
  /** How many of the first operations were not sent, because the producer had sent as many before. */
  skipped: number;
}

/** A database: its writer and its readers. */
export class Database {
  private constructor();
  /** Closes all connections, and ends what uses them. */
  close(): void;
  /** Replaces the access token, for calls from now on. Connections stay. */
  setToken(token: string | undefined): void;
  /** Makes reads include a commit that was made elsewhere. */
  include(token: Token): void;
  /** Forgets what was written and read: after EPOCH_CHANGED, reads take the database as it is now. */
  forget(): void;
  /** A table, which need not exist yet. */
  table(name: string): Table;
  /** Creates a table. TABLE_EXISTS, NAME_INVALID, ARGUMENT_INVALID. */
  createTable(
    name: string,
    options?: {
      /** A field, or the fields of a composite key: names, or pairs of name and type. */
      primaryKey?: string | (string | [field: string, type: "STRING" | "INT"])[];
      keyType?: "STRING" | "INT";
      /** Dotted paths, and arrays of paths for composite indexes. */
      indexes?: (string | string[])[];
      autoKey?: boolean;
      /** How long history is kept, in milliseconds. */
      retain?: number;
      ifNotExists?: boolean;
    } & CommitOptions,
  ): Promise<Table>;
  /** Drops a table; its history stays readable. TABLE_NOT_FOUND. */
  dropTable(name: string, options?: CommitOptions): Promise<Token>;
  /** The tables that exist, or existed at a point in time. */
  tables(options?: ReadOptions): Promise<TableInfo[]>;
  /** One atomic commit of what `build` collects. PRECONDITION_FAILED if a condition does not hold; then nothing is written. */
  commit(build: (commit: Operations) => void | Promise<void>, options?: CommitOptions): Promise<Receipt>;
  /** The commit that a request with this id made, if the writer knows it: for who has lost the answer. */
  findCommit(requestId: string, options?: CallOptions): Promise<Token | undefined>;
  /** The results of a DriftQL statement that reads. QUERY_SYNTAX, QUERY_INVALID. */
  query(statement: string, params?: Params, options?: ReadOptions): Query;
  /** Runs a DriftQL statement that writes or maintains. */
  execute(statement: string, params?: Params, options?: CommitOptions): Promise<Executed>;
  /** Changes of these tables as they happen, or of all tables. */
  watch(tables?: string | string[], options?: WatchOptions): Watch;
  /** What the next reader has: its newest commit, and the identity of the database. */
  status(options?: CallOptions): Promise<Header>;
}

/** Collects operations on rows, which happen together or not at all, and conditions that must hold before. */
export class Operations {
  /** Creates a row. ROW_EXISTS if a live row has the key. */
  insert(table: string, document: object): void;
  /** Creates a row, or replaces it as a whole. */
  put(table: string, document: object): void;
  /** Changes fields of a row; null removes one. ROW_NOT_FOUND. */
  patch(table: string, key: Key, patch: object): void;
  /** Deletes a row; its history stays. ROW_NOT_FOUND. */
  delete(table: string, key: Key): void;
  /** Writes a row again as it was at a point in time. BELOW_FLOOR. */
  revert(table: string, key: Key, to: AsOf): void;
  /** Requires that the last change of a row is this commit. */
  ifSeq(table: string, key: Key, seq: bigint | number): void;
  /** Requires that a live row has the key, or that none has. */
  ifExists(table: string, key: Key, exists?: boolean): void;
  /** Requires that a row has not changed after a commit. */
  ifUnchanged(table: string, key: Key, since: bigint | number): void;
  /** Requires that no row that matches a condition, before or after its change, has changed after a commit. BOUNDARY_TOO_OLD. */
  ifNoChange(table: string, where: string, since: bigint | number, params?: Params): void;
}

/** A table of a database. */
export class Table {
  private constructor();
  readonly name: string;
  /** Creates a row. ROW_EXISTS if a live row has the key. `keys` has the key, if the writer made it. */
  insert(document: object, options?: CommitOptions): Promise<Receipt>;
  /** Creates a row, or replaces it as a whole. */
  put(document: object, options?: CommitOptions): Promise<Receipt>;
  /** Changes fields of a row; null removes one. ROW_NOT_FOUND, PRECONDITION_FAILED. */
  patch(key: Key, patch: object, options?: ChangeOptions): Promise<Receipt>;
  /** Deletes a row; its history stays. ROW_NOT_FOUND, PRECONDITION_FAILED. */
  delete(key: Key, options?: ChangeOptions): Promise<Receipt>;
  /** Writes a row again as it was at a point in time. BELOW_FLOOR. */
  revert(key: Key, to: AsOf, options?: ChangeOptions): Promise<Receipt>;
  /** The row with this key, now or at a point in time. */
  get(key: Key, options?: ReadOptions): Promise<Row | undefined>;
  /** The rows that exist, in the order of the keys, all of the same point in time. */
  getMany(keys: Iterable<Key>, options?: ReadOptions): Promise<Row[]>;
  /** The rows that match a condition, in the order of their keys or of `orderBy`. QUERY_SYNTAX, QUERY_INVALID. */
  select(where?: string, params?: Params, options?: SelectOptions): Rows;
  /** How many rows match a condition. */
  count(where?: string, params?: Params, options?: ReadOptions): Promise<bigint>;
  /** The commits that changed a row, or any row, after `start` and up to `end`. BELOW_FLOOR. */
  history(key?: Key, options?: HistoryOptions): Results<Commit>;
  /** The rows that differ between two points in time, in the order of their keys. TABLE_NOT_FOUND. */
  diff(start: AsOf, end?: AsOf, options?: { keys?: Key[]; addedIfMissing?: boolean } & CallOptions): Results<RowDiff>;
  /** The table's schema and figures. TABLE_NOT_FOUND. */
  describe(options?: ReadOptions): Promise<TableInfo>;
  /** Changes of the table as they happen. docs/watch.md describes the contract. */
  watch(options?: WatchOptions): Watch;
  /**
   * Loads many rows, each a commit, or each batch if `atomic`. With a `producer`, a name for this load and no other, a load
   * resumes by itself, and one that is repeated with the same rows and the same `batch` passes over what is on disk: rows of another load
   * under the same name would be passed over, too. Without it, a connection that breaks after it was made is OUTCOME_UNKNOWN.
   */
  ingest(
    rows: Iterable<object> | AsyncIterable<object>,
    options?: { action?: "insert" | "put"; producer?: string; batch?: number; atomic?: boolean } & CallOptions,
  ): Promise<Ingested>;
}

export interface SelectOptions extends ReadOptions {
  limit?: number;
  offset?: number;
  /** What follows ORDER BY in DriftQL: `amount DESC, status`. */
  orderBy?: string;
  /** Dotted paths of the fields to return; none for whole documents. */
  fields?: string[];
  /** Soft-deleted rows instead of live ones. */
  deleted?: boolean;
}
export interface HistoryOptions extends CallOptions {
  start?: AsOf;
  end?: AsOf;
  where?: string;
  params?: Params;
  actor?: string;
  before?: boolean;
  after?: boolean;
  newestFirst?: boolean;
  limit?: number;
}
export interface WatchOptions extends Pick<CallOptions, "signal"> {
  /** A condition. A change passes if the row before or after it matches. */
  where?: string;
  params?: Params;
  keys?: Key[];
  keyPrefix?: string;
  /** Where to start: after a commit, after a time, or after a resume token. By default when the watch is opened. */
  afterSeq?: bigint | number;
  afterTime?: Date;
  token?: Uint8Array;
  /** First deliver the rows as of the start, as changes of the kind `initial`. */
  initialRows?: boolean;
  /** Whether changes have the row before and after them; by default true. */
  before?: boolean;
  after?: boolean;
  /** The last commit. */
  untilSeq?: bigint | number;
  /** How long the stream may be silent, in milliseconds; by default 10,000. */
  heartbeat?: number;
}

/** The results of a read, all of one point in time. They arrive as they are taken, and none is kept. */
export class Results<T> implements AsyncIterableIterator<T> {
  protected constructor();
  [Symbol.asyncIterator](): this;
  next(): Promise<IteratorResult<T, undefined>>;
  return(): Promise<IteratorResult<T, undefined>>;
  /** The point in time of the results. */
  header(): Promise<Header>;
  /** The remaining results, in memory. */
  all(): Promise<T[]>;
  /** What in the request is probably a mistake, for people. Known after the last result. */
  readonly notes: string[];
  /** Whether compaction has removed the oldest part of a history that was asked for. */
  readonly truncated: boolean;
  /** Ends the read. */
  close(): void;
}
/** The rows of a select. If a connection breaks, they continue after the last one at the next reader. */
export class Rows extends Results<Row> {
  /** How many rows match; the remaining rows are read to the end. */
  count(): Promise<bigint>;
}
/** The results of a statement, by its kind: Row, Commit, RowDiff, TableInfo, a count, a line of text, or an object of columns. */
export class Query extends Results<any> {
  /** The names of the columns of groups and aggregates, in order. Known with the first result. */
  readonly columns: string[];
}

/** Something that a watch reports. */
export type WatchEvent =
  | { kind: "opened" | "resumed" | "rowsDone" | "progress" | "caughtUp" | "fellBehind"; header: Header }
  | { kind: "rows"; changes: Change[] }
  | { kind: "commit"; commit: Commit; changes: Change[] }
  | { kind: "interrupted"; error: DriftError };

/**
 * Changes as they happen: in order, each once. If a connection breaks or a reader stops, the watch resumes at the next reader, after
 * what was delivered, for as long as it takes.
 *
 * It opens when the first of them is asked for, or with `open()`: without a start of its own it delivers what is committed after that.
 * Iterate over it for changes, over `commits()` for whole commits, or over `events()` for everything; over one of them only. Leaving
 * the loop ends the watch. A loop throws if the watch cannot go on: BELOW_FLOOR if the commits that come next were compacted,
 * EPOCH_CHANGED if the database was restored, and others that resuming does not help.
 */
export class Watch implements AsyncIterableIterator<Change> {
  private constructor();
  [Symbol.asyncIterator](): this;
  next(): Promise<IteratorResult<Change, undefined>>;
  return(): Promise<IteratorResult<Change, undefined>>;
  /** Whole commits, with the changes that pass the filter. Initial rows are not among them. */
  commits(): AsyncGenerator<Commit, void, undefined>;
  /**
   * Opens the watch now, and returns where it starts: it delivers every commit after `readSeq`. Without this call a watch opens when the
   * first change is asked for, and "now" is then. It waits for a reader for as long as it takes. ClientClosed if the watch has ended.
   */
  open(): Promise<Header>;
  /** Everything that the watch reports. */
  events(): AsyncGenerator<WatchEvent, void, undefined>;
  /**
   * The resume token after the last commit whose changes were all delivered, and taken: of a loop over changes, when the next one is
   * asked for. Store it together with what you made of them, and pass it as `token` to continue there, at any reader.
   */
  readonly token: Uint8Array | undefined;
  /** Ends the watch. */
  close(): void;
}

/** The reasons in docs/errors.md. */
export type Reason =
  | "ARGUMENT_INVALID"
  | "DOCUMENT_INVALID"
  | "KEY_INVALID"
  | "NAME_INVALID"
  | "TOO_LARGE"
  | "QUERY_SYNTAX"
  | "QUERY_INVALID"
  | "REQUEST_ID_REUSED"
  | "FILTER_MISMATCH"
  | "NOT_WRITER"
  | "NOT_SUPPORTED"
  | "UNAUTHENTICATED"
  | "TOKEN_EXPIRED"
  | "PERMISSION_DENIED"
  | "TABLE_NOT_FOUND"
  | "ROW_NOT_FOUND"
  | "TABLE_EXISTS"
  | "ROW_EXISTS"
  | "PRECONDITION_FAILED"
  | "BOUNDARY_TOO_OLD"
  | "JOB_RUNNING"
  | "DATABASE_LOCKED"
  | "BELOW_FLOOR"
  | "BEYOND_HEAD"
  | "EPOCH_CHANGED"
  | "REPLICA_BEHIND"
  | "OVERLOADED"
  | "QUERY_MEMORY_EXCEEDED"
  | "STANDBY"
  | "FENCED"
  | "WRITER_STOPPED"
  | "SHUTTING_DOWN"
  | "STATEMENT_TIMEOUT"
  | "CANCELLED"
  | "CLOCK_JUMPED"
  | "OUTCOME_UNKNOWN"
  | "DISK_FULL"
  | "FILE_GONE"
  | "TLS_FAILED"
  | "TLS_REQUIRED"
  | "UNREACHABLE"
  | "CORRUPT"
  | "IO"
  | "INTERNAL";

/** A call that failed. `reason` is a stable word, empty if there is none; `code` is the name of the gRPC code. */
export class DriftError extends Error {
  constructor(message: string, details?: Partial<DriftError>);
  readonly reason: Reason | "" | (string & {});
  readonly code: string;
  /** Values from the message, as text. */
  readonly metadata: { [name: string]: string };
  /** The pause in milliseconds that the daemon asked for. */
  readonly retryAfter?: number;
  /** The conditions of a commit that do not hold. */
  readonly violations: { type: string; subject: string; description: string }[];
  /** Where in a DriftQL text the problem is. */
  readonly query?: { start: number; end: number; line: number; column: number; hint: string };
  /** Whether the same request can succeed later, or at another daemon. */
  readonly retryable: boolean;
}
/** The connection to a reader broke during a call, and no other reader answered. The call can be repeated. */
export class ConnectionLost extends DriftError {}
/** The client was closed by this program. Nothing is sent any more. */
export class ClientClosed extends DriftError {}
/** The class of each reason: `error instanceof errors.ROW_EXISTS`. */
export const errors: { readonly [reason in Reason]: typeof DriftError };

/** The value of a JSON text. Integers beyond Number.MAX_SAFE_INTEGER are bigint. */
export function parseJson(text: string): Value;
/** JSON text of a value; bigint is an integer. DOCUMENT_INVALID if JSON, or DriftDB, has no such value. */
export function toJson(value: unknown): string;
