"""Where a database is: its address, and how to connect to it.

    driftdb://WRITER,READER[,READER…][?OPTION=VALUE&…]

The first host is the writer, the others are readers. A single host without a port means both on their default ports.
`driftdbs://` is the same with TLS.
"""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict
from urllib.parse import unquote

from ._pauses import checked_timeout
from .errors import ArgumentInvalid

_WRITER_PORT, _READER_PORT = 7401, 7402
_TEXTS = ("ca", "cert", "key", "server_name", "token_file", "time_zone")
_SECONDS = ("retry_timeout", "timeout")


class Options(TypedDict, total=False):
    """The options of `driftdb.connect`, which describes them."""

    ca: str
    cert: str
    key: str
    server_name: str
    token_file: str
    token: str
    time_zone: str
    stale: bool
    retry_timeout: float
    timeout: float


@dataclass(frozen=True)
class Address:
    """What `connect` was told. The documentation of `driftdb.connect` describes the options."""

    writers: tuple[str, ...]
    readers: tuple[str, ...]
    tls: bool = False
    ca: str = ""
    cert: str = ""
    key: str = ""
    server_name: str = ""
    token_file: str = ""
    token: str = field(default="", repr=False)
    time_zone: str = ""
    stale: bool = False
    retry_timeout: float = 30.0
    timeout: float = math.inf

    def bearer(self) -> str:
        """The token to send, checked; empty for none."""
        text = self.token
        if self.token_file:
            try:
                text = Path(self.token_file).read_text(encoding="utf-8")
            except OSError as error:
                raise ArgumentInvalid(f"cannot read the token file {self.token_file!r}: {error.strerror}") from error
        return checked_token(text) if self.token_file or text else ""


def checked_token(text: str) -> str:
    """A token without the white space around it. The error for a bad one does not contain it."""
    token = text.strip()
    if not token or not all("!" <= character <= "~" for character in token):
        raise ArgumentInvalid("not a token: it must be one line of letters, digits and punctuation, and not be empty")
    return token


def parse(url: str, options: Options) -> Address:
    """The address in a text, and options that take precedence over those in the text. `ArgumentInvalid` if it is wrong."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("driftdb", "driftdbs"):
        raise ArgumentInvalid(f"{url!r} is not an address: it must begin with driftdb:// or driftdbs://")
    hosts, _, query = rest.partition("?")
    given, standby = _options(query)
    names = [name.strip() for name in hosts.rstrip("/").split(",")]
    if not all(names):
        raise ArgumentInvalid(f"{url!r} is not an address: a host is missing; for example driftdb://writer:7401,reader:7402")
    writers = [_host(names[0], _WRITER_PORT), *(_host(name, _WRITER_PORT) for name in standby)]
    readers = [_host(name, _READER_PORT) for name in names[1:]]
    if len(names) == 1 and not _port(names[0]):
        readers = [_host(names[0], _READER_PORT)]
    address = Address(tuple(writers), tuple(readers), tls=scheme == "driftdbs")
    arguments = _typed(dict(options))
    if "token" in arguments:
        # It takes precedence over the file in the address, too.
        given.pop("token_file", None)
    return _checked(replace(address, **{**_typed(dict(given)), **arguments}))


def is_safe(address: str, tls: bool) -> bool:
    """Whether nobody else can read what is sent to an address: it is encrypted, or stays on this machine."""
    host = address.rsplit(":", 1)[0].strip("[]")
    if tls or host.lower() == "localhost":
        return True
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(ip, "ipv4_mapped", None)
    return (mapped or ip).is_loopback


def _options(query: str) -> tuple[dict[str, str], list[str]]:
    given: dict[str, str] = {}
    standby = []
    for pair in filter(None, query.split("&")):
        name, _, value = pair.partition("=")
        if name == "standby":
            standby.append(unquote(value))
        elif name == "token":
            raise ArgumentInvalid("a token is no part of an address, which others can see: use token_file, or the argument token")
        elif name in given:
            raise ArgumentInvalid(f"the address has the option {name!r} twice")
        else:
            given[name] = unquote(value)
    return given, standby


def _typed(options: dict[str, Any]) -> dict[str, Any]:
    """Options with the types of their fields."""
    typed: dict[str, Any] = {}
    for name, value in options.items():
        if value is None:
            # As if it were not given: `token=os.environ.get(…)`.
            continue
        if name in _TEXTS or name == "token":
            typed[name] = str(value)
        elif name == "stale" and value in (True, False, "true", "false"):
            typed[name] = value in (True, "true")
        elif name in _SECONDS:
            typed[name] = _seconds(name, value)
        else:
            known = ", ".join(("standby", *_TEXTS, "stale", *_SECONDS))
            raise ArgumentInvalid(f"an address has no option {name}={value!r}; its options are {known}")
    return typed


def _seconds(name: str, value: Any) -> float:
    try:
        seconds = float(value)
        # In an address it is written in digits.
        if not seconds >= 0 or isinstance(value, str) and not set(value) <= set("0123456789."):
            raise ValueError
    except ValueError as error:
        raise ArgumentInvalid(f"{name} must be a number of seconds; got {value!r}") from error
    return checked_timeout(seconds) if name == "timeout" else seconds


def _checked(address: Address) -> Address:
    if not address.tls and (address.ca or address.cert or address.key or address.server_name):
        raise ArgumentInvalid("the options ca, cert, key and server_name need TLS: use driftdbs://")
    if address.tls and not address.ca:
        raise ArgumentInvalid("driftdbs:// needs ca=FILE with the certificates of the CAs to trust, for example ca.pem of `driftctl cert new`")
    if bool(address.cert) != bool(address.key):
        raise ArgumentInvalid("a certificate needs its key: give both cert=FILE and key=FILE")
    if address.bearer():
        for host in (*address.writers, *address.readers):
            if not is_safe(host, address.tls):
                raise ArgumentInvalid(
                    f"the token was not sent to {host}: the connection is not encrypted, and leaves this machine; use driftdbs://"
                )
    return address


def _port(name: str) -> str:
    """The port of a host, which can be an IPv6 address in brackets; empty if it has none."""
    return name.rpartition(":")[2] if ":" in name.rpartition("]")[2] else ""


def _host(name: str, default: int) -> str:
    port = _port(name)
    if not port and not name.endswith(":"):
        return f"{name}:{default}"
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ArgumentInvalid(f"{name!r} has no valid port: it must be from 1 to 65535")
    return name
