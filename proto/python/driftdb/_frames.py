"""Results as data frames of pandas and tables of Arrow, where those are installed."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterable
from typing import Any

from .types import Row


def to_pandas(items: Iterable[Any]) -> Any:
    """A `pandas.DataFrame` with a line for each item. `ImportError` if pandas is not installed."""
    return importlib.import_module("pandas").DataFrame([_record(item) for item in items])


def to_arrow(items: Iterable[Any]) -> Any:
    """A `pyarrow.Table` with a line for each item, null where an item lacks a field. `ImportError` if pyarrow is not installed;
    `pyarrow.ArrowInvalid` if the values of a field have no common type."""
    records = [_record(item) for item in items]
    # Documents have no schema: every field of any of them is a column, in the order in which they first appear.
    names = dict.fromkeys(name for record in records for name in record)
    return importlib.import_module("pyarrow").table({name: [record.get(name) for record in records] for name in names})


def _record(item: Any) -> dict[str, Any]:
    """The columns of an item: of a row its document, of anything else its fields."""
    if isinstance(item, Row):
        return item.document
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
    return item if isinstance(item, dict) else {"value": item}
