// The errors of this package: DriftError, and a class for each reason in docs/errors.md.

/** A call that failed. `reason` is a stable word, empty if there is none; `code` is the name of the gRPC code. */
export class DriftError extends Error {
  static reason = "";
  static code = "UNKNOWN";
  static retryable = false;

  constructor(message, { reason, code, metadata = {}, retryAfter, violations = [], query } = {}) {
    super(message);
    const { reason: ownReason, code: ownCode } = new.target;
    this.name = new.target.name;
    this.reason = reason ?? ownReason;
    this.code = code ?? ownCode;
    this.metadata = metadata;
    /** The pause in milliseconds that the daemon asked for. */
    this.retryAfter = retryAfter;
    this.violations = violations;
    this.query = query;
  }

  /** Whether the same request can succeed later, or at another daemon. */
  get retryable() {
    return this.constructor.retryable;
  }
}

/** The connection to a reader broke during a call, and no other reader answered. The call can be repeated. */
export class ConnectionLost extends DriftError {
  static code = "UNAVAILABLE";
  static retryable = true;
}

/** The client was closed by this program. Nothing is sent any more. */
export class ClientClosed extends DriftError {
  static code = "CANCELLED";
}

// Reason, gRPC code, and whether the same request can succeed later.
const REASONS = [
  ["ARGUMENT_INVALID", "INVALID_ARGUMENT", false],
  ["DOCUMENT_INVALID", "INVALID_ARGUMENT", false],
  ["KEY_INVALID", "INVALID_ARGUMENT", false],
  ["NAME_INVALID", "INVALID_ARGUMENT", false],
  ["TOO_LARGE", "INVALID_ARGUMENT", false],
  ["QUERY_SYNTAX", "INVALID_ARGUMENT", false],
  ["QUERY_INVALID", "INVALID_ARGUMENT", false],
  ["REQUEST_ID_REUSED", "INVALID_ARGUMENT", false],
  ["FILTER_MISMATCH", "INVALID_ARGUMENT", false],
  ["NOT_WRITER", "FAILED_PRECONDITION", false],
  ["NOT_SUPPORTED", "UNIMPLEMENTED", false],
  ["UNAUTHENTICATED", "UNAUTHENTICATED", false],
  ["TOKEN_EXPIRED", "UNAUTHENTICATED", false],
  ["PERMISSION_DENIED", "PERMISSION_DENIED", false],
  ["TABLE_NOT_FOUND", "NOT_FOUND", false],
  ["ROW_NOT_FOUND", "NOT_FOUND", false],
  ["TABLE_EXISTS", "ALREADY_EXISTS", false],
  ["ROW_EXISTS", "ALREADY_EXISTS", false],
  ["PRECONDITION_FAILED", "FAILED_PRECONDITION", false],
  ["BOUNDARY_TOO_OLD", "FAILED_PRECONDITION", false],
  ["JOB_RUNNING", "FAILED_PRECONDITION", true],
  ["DATABASE_LOCKED", "FAILED_PRECONDITION", true],
  ["BELOW_FLOOR", "OUT_OF_RANGE", false],
  ["BEYOND_HEAD", "OUT_OF_RANGE", true],
  ["EPOCH_CHANGED", "FAILED_PRECONDITION", false],
  ["REPLICA_BEHIND", "UNAVAILABLE", true],
  ["OVERLOADED", "RESOURCE_EXHAUSTED", true],
  ["QUERY_MEMORY_EXCEEDED", "RESOURCE_EXHAUSTED", false],
  ["STANDBY", "UNAVAILABLE", true],
  ["FENCED", "UNAVAILABLE", true],
  ["WRITER_STOPPED", "UNAVAILABLE", true],
  ["SHUTTING_DOWN", "UNAVAILABLE", true],
  ["STATEMENT_TIMEOUT", "DEADLINE_EXCEEDED", false],
  ["CANCELLED", "CANCELLED", true],
  ["CLOCK_JUMPED", "UNAVAILABLE", true],
  ["OUTCOME_UNKNOWN", "UNKNOWN", true],
  ["DISK_FULL", "UNAVAILABLE", true],
  ["FILE_GONE", "UNAVAILABLE", true],
  ["TLS_FAILED", "UNAVAILABLE", true],
  ["TLS_REQUIRED", "FAILED_PRECONDITION", false],
  ["UNREACHABLE", "UNAVAILABLE", true],
  ["CORRUPT", "DATA_LOSS", false],
  ["IO", "INTERNAL", false],
  ["INTERNAL", "INTERNAL", false],
];

function classOf(reason, code, retryable) {
  const words = reason.split("_").map((word) => word[0] + word.slice(1).toLowerCase());
  const name = { IO: "IoError", INTERNAL: "InternalError" }[reason] ?? words.join("");
  const { [name]: made } = { [name]: class extends DriftError {} };
  return Object.assign(made, { reason, code, retryable });
}

/** The class of each reason: `error instanceof errors.ROW_EXISTS`. */
export const errors = Object.freeze(Object.fromEntries(REASONS.map((row) => [row[0], classOf(...row)])));
