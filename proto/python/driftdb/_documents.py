"""Documents, keys, parameters and points in time, as the API takes and gives them.

Documents travel as JSON. Integers of up to 64 bits are exact in both directions, and floats are 64-bit floats. Python's `Decimal`
has no counterpart in DriftDB, and is refused: store it as text, or as an integer in the smallest unit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

from ._messages import v1
from .errors import ArgumentInvalid, DocumentInvalid, KeyInvalid

#: What a table holds: a JSON object.
Document = dict[str, Any]


def to_json(value: Any) -> str:
    """JSON text of a value. `DocumentInvalid` if JSON, or DriftDB, has no such value."""
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"), default=_refuse)
    except (TypeError, ValueError) as error:
        raise DocumentInvalid(f"cannot send a value as JSON: {error}") from error


def _refuse(value: Any) -> Any:
    kind = type(value).__name__
    advice = "store it as text, or as an integer in the smallest unit" if kind == "Decimal" else "convert it first, for example to text"
    raise TypeError(f"{kind} has no counterpart in DriftDB; {advice}")


def document_to_wire(value: Mapping[str, Any]) -> Any:
    """The message of a document."""
    if not isinstance(value, Mapping):
        raise DocumentInvalid(f"a document is a dict; got {type(value).__name__}")
    text = to_json(dict(value))
    try:
        return v1.Document(json=text)
    except UnicodeEncodeError as error:
        raise DocumentInvalid(f"a text of the document has a half of a character: {error.reason}") from None


def document_of(message: Any) -> Document:
    """The document in a message."""
    found: Document = json.loads(message.json)
    return found


def optional_document(message: Any, field: str) -> Document | None:
    """The document in a field of a message; `None` if it is not set."""
    return document_of(getattr(message, field)) if message.HasField(field) else None


def key_to_wire(key: Any) -> str:
    """The text of a key: of an INT key its digits, of a composite key a JSON array or object."""
    if isinstance(key, str):
        return key
    if isinstance(key, int) and not isinstance(key, bool):
        return str(key)
    if isinstance(key, (Sequence, Mapping)) and not isinstance(key, (bytes, bytearray)):
        return to_json(key if isinstance(key, Mapping) else list(key))
    raise KeyInvalid(f"a key is text, a whole number, or of a composite key a list or a dict; got {type(key).__name__}")


def some_key(key: Any) -> str:
    """The same, where an empty text would mean every row. No row has an empty key."""
    text = key_to_wire(key)
    if not text:
        raise KeyInvalid("the key is empty; give none for all rows")
    return text


def as_of_to_wire(point: Any) -> Any:
    """The message of a point in time; `None` for now.

    A whole number is a seq, a `datetime` with a time zone is that time, a `timedelta` is that long ago, and anything with a `seq`,
    such as a receipt or a row, is the state after that commit.
    """
    if point is None:
        return None
    seq = getattr(point, "seq", point)
    if isinstance(seq, int) and not isinstance(seq, bool):
        if not 0 <= seq < 1 << 64:
            raise ArgumentInvalid(f"a seq is from 0 to 2^64 - 1; got {seq}")
        return v1.AsOf(seq=seq)
    if isinstance(point, datetime):
        return v1.AsOf(time=time_to_wire(point))
    if isinstance(point, timedelta):
        return v1.AsOf(ago=duration_to_wire(point))
    raise ArgumentInvalid(f"a point in time is a seq, a datetime, a timedelta or a receipt; got {type(point).__name__}")


def time_to_wire(time: datetime) -> dict[str, int]:
    """The fields of a Timestamp."""
    if time.tzinfo is None:
        raise ArgumentInvalid(f"{time} has no time zone: use datetime.now(timezone.utc), or .astimezone()")
    span = time - _EPOCH
    return {"seconds": span.days * 86400 + span.seconds, "nanos": span.microseconds * 1000}


def duration_to_wire(span: timedelta | float) -> dict[str, int]:
    """The fields of a Duration; a number is in seconds."""
    span = span if isinstance(span, timedelta) else timedelta(seconds=span)
    if span < timedelta():
        raise ArgumentInvalid(f"a time span must not be negative; got {span}")
    return {"seconds": span.days * 86400 + span.seconds, "nanos": span.microseconds * 1000}


def time_of(message: Any, field: str = "time") -> datetime | None:
    """The time in a field of a message, in UTC; `None` if it is not set."""
    if not message.HasField(field):
        return None
    stamp = getattr(message, field)
    return _EPOCH + timedelta(seconds=stamp.seconds, microseconds=stamp.nanos // 1000)


_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
