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
    """A `pyarrow.Table` with a line for each item. `ImportError` if pyarrow is not installed."""
    return importlib.import_module("pyarrow").Table.from_pylist([_record(item) for item in items])


def _record(item: Any) -> dict[str, Any]:
    """The columns of an item: of a row its document, of anything else its fields."""
    if isinstance(item, Row):
        return item.document
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
    return item if isinstance(item, dict) else {"value": item}
