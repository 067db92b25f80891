"""What the error of a call means: an exception by its reason, or by what the library says of a broken connection."""

from __future__ import annotations

import re
from typing import Any

import grpc

from ._messages import status as details
from ._messages import v1
from .errors import (
    BY_REASON,
    ConnectionLost,
    DriftError,
    OutcomeUnknown,
    QueryPlace,
    StatementTimeout,
    TlsFailed,
    Unreachable,
    Violation,
)

_DOMAIN = "driftdb.v1"
# The library opens connections by itself, and says in this text that it could not: then nothing was sent. If a version says it
# otherwise, a failed connection counts as a lost answer, which is retried with the same request id.
_NOT_CONNECTED = re.compile(r"^failed to connect to all addresses|DNS resolution failed|Name resolution failure", re.IGNORECASE)
_TLS = re.compile(r"ssl|tls|certificate|handshake", re.IGNORECASE)
# Without a reason, these come from the library, or from a proxy: the connection broke. (A daemon's own INTERNAL has a reason.)
_LOST = tuple(getattr(grpc.StatusCode, name) for name in ("UNAVAILABLE", "UNKNOWN", "CANCELLED", "INTERNAL"))


def error_of(error: Any, what: str, address: str, writes: bool) -> DriftError:
    """The exception for a `grpc.RpcError` of a call to a daemon. `writes`: if its answer is lost, something may have been done."""
    code, message = error.code(), error.details() or ""
    found = _with_reason(error, code.name, message)
    if found is not None:
        return found
    metadata = {"address": address}
    if code is grpc.StatusCode.UNAVAILABLE and _NOT_CONNECTED.search(message):
        cause = message.rsplit("last error: ", 1)[-1]
        failed = TlsFailed if _TLS.search(cause) else Unreachable
        hint = "" if failed is TlsFailed else f" (is driftdb-{what} running?)"
        return failed(f"cannot connect to the {what} at {address}: {cause}{hint}", metadata=metadata)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return late(what, address, writes)
    if code not in _LOST:
        return DriftError(message, code=code.name, metadata=metadata)
    broke = f"the connection to the {what} at {address} broke"
    if writes:
        text = f"{broke} before the answer, so the outcome of the write is unknown: {message}"
        return OutcomeUnknown(text, metadata=metadata)
    return ConnectionLost(f"{broke}: {message}", metadata=metadata)


def late(what: str, address: str, writes: bool) -> DriftError:
    """The exception if an answer did not come in the time that the call has."""
    text, metadata = f"the {what} at {address} did not answer within the timeout", {"address": address}
    if writes:
        return OutcomeUnknown(f"{text}, so the outcome of the write is unknown", metadata=metadata)
    return StatementTimeout(f"{text}; allow more time", metadata=metadata)


def _with_reason(error: Any, code: str, message: str) -> DriftError | None:
    """The exception that the daemon's error details describe, if it sent some."""
    encoded = next((value for key, value in error.trailing_metadata() or () if key == "grpc-status-details-bin"), None)
    if encoded is None:
        return None
    reason, metadata, retry_after, violations, query = "", {}, None, [], None
    for detail in details.Status.FromString(encoded).details:
        name, value = detail.type_url.rsplit("/", 1)[-1], detail.value
        if name == "google.rpc.ErrorInfo":
            info = details.ErrorInfo.FromString(value)
            reason = info.reason if info.domain == _DOMAIN else reason
            metadata = {entry.key: entry.value for entry in info.metadata}
        elif name == "google.rpc.RetryInfo":
            delay = details.RetryInfo.FromString(value).retry_delay
            retry_after = delay.seconds + delay.nanos / 1e9
        elif name == "google.rpc.PreconditionFailure":
            failure = details.PreconditionFailure.FromString(value)
            violations = [Violation(each.type, each.subject, each.description) for each in failure.violations]
        elif name == f"{_DOMAIN}.QueryError":
            place = v1.QueryError.FromString(value)
            query = QueryPlace(place.start, place.end, place.line, place.column, place.hint)
    if not reason:
        return None
    return BY_REASON.get(reason, DriftError)(
        message,
        reason=reason,
        code=code,
        metadata=metadata,
        retry_after=retry_after,
        violations=tuple(violations),
        query=query,
    )
