"""Parameters of conditions and statements: by position as `$1`, or by name as `$status`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ._documents import to_json
from .errors import ArgumentInvalid

# Text, names in backticks and comments are passed over; what begins with $ is a parameter.
_PIECES = re.compile(
    r"""(?P<skip>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|`[^`]*`|--[^\r\n]*|/\*.*?\*/)|\$(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<position>\$[0-9]+)""",
    re.DOTALL,
)


def bind_either(text: str, params: Sequence[Any] | Mapping[str, Any]) -> tuple[str, list[str]]:
    """The same, for parameters in one argument: a sequence for `$1`, or a mapping for `$name`."""
    if isinstance(params, (str, bytes)):
        raise ArgumentInvalid(f"params must be a sequence or a mapping of values; got {params!r}")
    return bind(text, (), params) if isinstance(params, Mapping) else bind(text, params, {})


def bind(text: str, positional: Sequence[Any], named: Mapping[str, Any]) -> tuple[str, list[str]]:
    """A text whose parameters are numbers, and their values as JSON. `ArgumentInvalid` if names and values do not agree."""
    if not named:
        return text, [to_json(value) for value in positional]
    if positional:
        raise ArgumentInvalid("give parameters by position or by name, not both")
    numbers: dict[str, int] = {}

    def number(piece: re.Match[str]) -> str:
        name = piece["name"]
        if piece["position"] is not None:
            raise ArgumentInvalid(f"{piece[0]} has no value: give parameters by position or by name, not both")
        if name is None:
            return piece[0]
        if name not in named:
            raise ArgumentInvalid(f"the parameter ${name} has no value")
        return f"${numbers.setdefault(name, len(numbers) + 1)}"

    bound = _PIECES.sub(number, text)
    unused = [name for name in named if name not in numbers]
    if unused:
        raise ArgumentInvalid(f"no parameter ${unused[0]} is in {text!r}")
    return bound, [to_json(named[name]) for name in numbers]
