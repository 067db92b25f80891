// What the error of a call means: an error by its reason, or by what the library says of a broken connection.

import grpc from "@grpc/grpc-js";
import { ConnectionLost, DriftError, errors } from "./errors.js";
import { decodeQueryError, status as details } from "./messages.js";

const DOMAIN = "driftdb.v1";
// The library opens connections by itself, and says in this text that it could not: then nothing was sent. If a version says it
// otherwise, a failed connection counts as a lost answer, which is retried with the same request id.
const NOT_CONNECTED = /No connection established|Name resolution failed/;
const TLS = /certificate|ssl|tls|alert|unable to (get|verify)/i;
// Without a reason, these come from the library, or from a proxy: the connection broke. (A daemon's own INTERNAL has a reason.)
const LOST = [grpc.status.UNAVAILABLE, grpc.status.UNKNOWN, grpc.status.CANCELLED, grpc.status.INTERNAL];
const decode = (name, bytes) => details.lookupType(name).decode(bytes);

/** The error for a failed call to a daemon. `writes`: if its answer is lost, something may have been done. */
export function errorOf(error, { what, address }, writes) {
  if (typeof error.code !== "number") return error;
  const code = grpc.status[error.code];
  const found = withReason(error, code);
  if (found) return found;
  const metadata = { address };
  const message = error.details ?? error.message;
  if (error.code === grpc.status.UNAVAILABLE && NOT_CONNECTED.test(message)) {
    const cause = message.replace(/^.*Last error: /, "").replace(/\. Resolution note: $/, "");
    if (TLS.test(cause)) return new errors.TLS_FAILED(`cannot connect to the ${what} at ${address}: ${cause}`, { metadata });
    return new errors.UNREACHABLE(`cannot connect to the ${what} at ${address}: ${cause} (is driftdb-${what} running?)`, { metadata });
  }
  if (error.code === grpc.status.DEADLINE_EXCEEDED) return late({ what, address }, writes);
  if (!LOST.includes(error.code)) return new DriftError(message, { code, metadata });
  const broke = `the connection to the ${what} at ${address} broke`;
  if (!writes) return new ConnectionLost(`${broke}: ${message}`, { metadata });
  const text = `${broke} before the answer, so the outcome of the write is unknown: ${message}`;
  return new errors.OUTCOME_UNKNOWN(text, { metadata });
}

/** The error if an answer did not come in the time that the call has. */
export function late({ what, address }, writes) {
  const text = `the ${what} at ${address} did not answer within the timeout`;
  const metadata = { address };
  if (writes) return new errors.OUTCOME_UNKNOWN(`${text}, so the outcome of the write is unknown`, { metadata });
  return new errors.STATEMENT_TIMEOUT(`${text}; allow more time`, { metadata });
}

function withReason(error, code) {
  const [encoded] = error.metadata?.get("grpc-status-details-bin") ?? [];
  if (!encoded) return undefined;
  const found = { code, violations: [] };
  for (const { typeUrl, value } of decode("Status", encoded).details) {
    const name = typeUrl.slice(typeUrl.lastIndexOf("/") + 1);
    if (name === "google.rpc.ErrorInfo") {
      const { reason, domain, metadata } = decode("ErrorInfo", value);
      if (domain === DOMAIN) Object.assign(found, { reason, metadata: { ...metadata } });
    } else if (name === "google.rpc.RetryInfo") {
      const { seconds, nanos } = decode("RetryInfo", value).retryDelay;
      found.retryAfter = Number(seconds) * 1000 + nanos / 1e6;
    } else if (name === "google.rpc.PreconditionFailure") {
      found.violations = decode("PreconditionFailure", value).violations.map(({ type, subject, description }) => ({ type, subject, description }));
    } else if (name === `${DOMAIN}.QueryError`) {
      const { start, end, line, column, hint } = decodeQueryError(value);
      found.query = { start, end, line, column, hint };
    }
  }
  if (!found.reason) return undefined;
  return new (errors[found.reason] ?? DriftError)(error.details, found);
}
