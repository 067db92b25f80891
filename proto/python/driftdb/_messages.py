"""The messages of the API, made at run time from the descriptor set that this package contains.

They are in a descriptor pool of their own. So they clash neither with generated code for the same files nor with the version of
protobuf that made it.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from types import SimpleNamespace
from typing import Any, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_PACKAGE = "driftdb.v1"
# The error details of gRPC that daemons send, as (name, number, type). A message of google.protobuf or of this list is named in full.
_STATUS = {
    "Any": [("type_url", 1, "string"), ("value", 2, "bytes")],
    "Status": [("code", 1, "int32"), ("message", 2, "string"), ("details", 3, "*driftdb.status.Any")],
    "Entry": [("key", 1, "string"), ("value", 2, "string")],
    # On the wire a map is a list of entries.
    "ErrorInfo": [("reason", 1, "string"), ("domain", 2, "string"), ("metadata", 3, "*driftdb.status.Entry")],
    "RetryInfo": [("retry_delay", 1, "google.protobuf.Duration")],
    "Violation": [("type", 1, "string"), ("subject", 2, "string"), ("description", 3, "string")],
    "PreconditionFailure": [("violations", 1, "*driftdb.status.Violation")],
}
_SCALARS = {"int32": 5, "string": 9, "bytes": 12}


class Method(NamedTuple):
    """A call of the API."""

    path: str
    serialize: Callable[[Any], bytes]
    parse: Callable[[bytes], Any]


def _status_file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="driftdb/status.proto", package="driftdb.status", syntax="proto3")
    file.dependency.append("google/protobuf/duration.proto")
    for name, fields in _STATUS.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            repeated, of = kind.startswith("*"), kind.lstrip("*")
            added = message.field.add(name=field, number=number)
            added.label = added.LABEL_REPEATED if repeated else added.LABEL_OPTIONAL
            if of in _SCALARS:
                added.type = _SCALARS[of]  # type: ignore[assignment]
            else:
                added.type, added.type_name = added.TYPE_MESSAGE, f".{of}"
    return file


def _load() -> tuple[Any, Any, dict[str, Method]]:
    pool = descriptor_pool.DescriptorPool()
    encoded = resources.files(__package__).joinpath("driftdb.v1.bin").read_bytes()
    files = [*descriptor_pb2.FileDescriptorSet.FromString(encoded).file, _status_file()]
    for file in files:
        pool.AddSerializedFile(file.SerializeToString())
    spaces: dict[str, dict[str, Any]] = {_PACKAGE: {}, "driftdb.status": {}}
    methods = {}
    for file in files:
        for message in file.message_type:
            if file.package in spaces:
                found = pool.FindMessageTypeByName(f"{file.package}.{message.name}")
                spaces[file.package][message.name] = message_factory.GetMessageClass(found)
        for service in file.service:
            for method in pool.FindServiceByName(f"{file.package}.{service.name}").methods:
                takes, gives = (message_factory.GetMessageClass(kind) for kind in (method.input_type, method.output_type))
                path = f"/{file.package}.{service.name}/{method.name}"
                methods[f"{service.name}/{method.name}"] = Method(path, takes.SerializeToString, gives.FromString)
    return SimpleNamespace(**spaces[_PACKAGE]), SimpleNamespace(**spaces["driftdb.status"]), methods


v1, status, METHODS = _load()
