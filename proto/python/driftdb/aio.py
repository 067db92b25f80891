"""DriftDB for asyncio: the same as the blocking API, with `await`, `async for` and `async with`.

    db = driftdb.connect_async("driftdb://127.0.0.1:7401,127.0.0.1:7402")
    orders = db.table("orders")
    await orders.put({"id": "o1", "status": "pending"})
    async for change in orders.watch(after_seq=0):
        print(change.seq, change.kind, change.key)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from ._address import parse
from ._commit import AsyncCommitter, Operations
from ._documents import as_of_to_wire, duration_to_wire, key_to_wire, some_key
from ._ingest import Ingest, batches_of
from ._messages import v1
from ._params import bind, bind_either
from ._results import AsyncQuery, AsyncResults, AsyncRows, CommitJoiner
from ._session import Session
from ._transport import AsyncioTransport, Transport
from ._watch import AsyncWatch, Event, watch_request
from .errors import ArgumentInvalid
from .types import Commit, Executed, Header, Ingested, Receipt, Row, RowDiff, TableInfo, Token

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._address import Options
    from .types import CommitOptions

__all__ = [
    "AsyncCommitter",
    "AsyncDatabase",
    "AsyncQuery",
    "AsyncResults",
    "AsyncRows",
    "AsyncTable",
    "AsyncWatch",
    "Event",
    "connect_async",
]

# The maximum number of keys in one Get.
_KEYS = 1000


def connect_async(url: str, **options: Unpack[Options]) -> AsyncDatabase:
    """A client for asyncio. `driftdb.connect` describes the address and the options. It connects when a call needs it.

    Raises `ArgumentInvalid` if the address or an option is wrong.
    """
    return AsyncDatabase(url, AsyncioTransport(), **options)


class AsyncDatabase:
    """A database: its writer and its readers. Every call can raise a `DriftError`; docs/errors.md has the reasons."""

    def __init__(self, url: str, transport: Transport, **options: Unpack[Options]) -> None:
        self._session = Session(parse(url, options), transport)

    async def __aenter__(self) -> AsyncDatabase:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes all connections, and ends what uses them."""
        await self._session.close()

    def set_token(self, token: str | None) -> None:
        """Replaces the access token, for calls from now on. Connections stay."""
        self._session.set_token(token)

    def include(self, token: Token) -> None:
        """Makes reads include a commit that was made elsewhere."""
        self._session.include(token)

    def forget(self) -> None:
        """Forgets what was written and read: after `EpochChanged`, reads take the database as it is now."""
        self._session.forget()

    def table(self, name: str) -> AsyncTable:
        """A table, which need not exist yet."""
        return AsyncTable(self, name)

    async def create_table(
        self,
        name: str,
        *,
        primary_key: str | Sequence[str | tuple[str, str]] = "id",
        key_type: str = "STRING",
        indexes: Iterable[str | Sequence[str]] = (),
        auto_key: bool = False,
        retain: timedelta | None = None,
        if_not_exists: bool = False,
        **options: Unpack[CommitOptions],
    ) -> AsyncTable:
        """Creates a table. `primary_key` is a field, or a list of fields for a composite key, each a name or a pair of name and type;
        types are STRING and INT. An index is a dotted path, or a list of paths. `TableExists`, `NameInvalid`, `ArgumentInvalid`."""
        request = v1.CreateTableRequest(
            table=name, if_not_exists=if_not_exists, auto_key=auto_key, options=self._session.options(**options)
        )
        if isinstance(primary_key, str):
            request.primary_key, request.key_type = primary_key, _key_type(key_type)
        else:
            for column in primary_key:
                field, kind = (column, "STRING") if isinstance(column, str) else column
                request.key_columns.add(field=field, type=_key_type(kind))
        for index in indexes:
            if isinstance(index, str):
                request.indexes.append(index)
            else:
                request.composite_indexes.add(paths=index)
        if retain is not None:
            request.retain.MergeFrom(v1.AsOf(ago=duration_to_wire(retain)).ago)
        answer = await self._write("CreateTable", request, options.get("timeout"))
        self._session.committed(answer.token)
        return self.table(name)

    async def drop_table(self, name: str, **options: Unpack[CommitOptions]) -> Token:
        """Drops a table; its history stays readable. `TableNotFound`."""
        request = v1.DropTableRequest(table=name, options=self._session.options(**options))
        answer = await self._write("DropTable", request, options.get("timeout"))
        return self._session.committed(answer.token)

    async def tables(self, *, as_of: Any = None, timeout: float | None = None) -> list[TableInfo]:
        """The tables that exist, or existed at a point in time."""
        found: list[TableInfo] = []
        limit = self._session.limit(timeout)
        request = v1.ListTablesRequest(freshness=self._session.freshness(), as_of=as_of_to_wire(as_of))
        while True:
            answer = await self._session.read(lambda reader: reader.unary("ReaderService/ListTables", request, limit), limit)
            found += map(TableInfo._of, answer.tables)
            header = self._session.read_at(answer.header)
            request.page_token = answer.next_page_token
            if not request.page_token:
                return found
            # The rest at the point in time of the first page.
            request.as_of.CopyFrom(v1.AsOf(seq=header.read_seq))
            fresh = self._session.freshness(header)
            if fresh is not None:
                request.freshness.CopyFrom(fresh)

    def commit(self, **options: Unpack[CommitOptions]) -> AsyncCommitter:
        """One atomic commit as the body of an `async with`. With a `request_id` of your own, a commit that is sent
        again is not done twice: its `receipt.replayed` says so."""
        return AsyncCommitter(self._session, **options)

    async def find_commit(self, request_id: str, *, timeout: float | None = None) -> Token | None:
        """The commit that a request with this id made, if the writer knows it: for who has lost the answer."""
        request, limit = v1.FindCommitRequest(request_id=request_id), self._session.limit(timeout)
        answer = await self._session.write(lambda writer: writer.unary("WriterService/FindCommit", request, limit), limit)
        return self._session.committed(answer.token) if answer.HasField("token") else None

    def query(
        self, statement: str, *params: Any, as_of: Any = None, timeout: float | None = None, **named: Any
    ) -> AsyncQuery:
        """The results of a DriftQL statement that reads. Parameters are `$1`, `$2`, … by position, or `$name` by name."""
        text, values = bind(statement, params, named)
        request = v1.ReaderServiceExecuteRequest(
            statement=text, params=values, as_of=as_of_to_wire(as_of), time_zone=self._session.address.time_zone
        )
        return AsyncQuery(self._session, request, timeout)

    async def execute(
        self,
        statement: str,
        *params: Any,
        reason: str = "",
        actor: str = "",
        request_id: str = "",
        timeout: float | None = None,
        **named: Any,
    ) -> Executed:
        """Runs a DriftQL statement that writes or maintains. Parameters as in `query`."""
        text, values = bind(statement, params, named)
        request = v1.WriterServiceExecuteRequest(
            statement=text,
            params=values,
            options=self._session.options(reason, actor, request_id),
            time_zone=self._session.address.time_zone,
        )
        is_maintenance, limit = False, self._session.limit(timeout)

        async def call(writer: Any) -> Executed:
            nonlocal is_maintenance
            token, keys, messages, rows = None, [], [], None
            answers = writer.stream("WriterService/Execute", request, limit, writes=True)
            while (answer := await answers.read()) is not None:
                kind = answer.WhichOneof("event")
                keys += [made.key for made in answer.made_keys]
                if kind == "token":
                    token = self._session.committed(answer.token)
                elif kind == "bulk":
                    rows = answer.bulk.rows
                elif kind in ("progress", "message"):
                    # Maintenance and IN BATCHES OF ignore request ids: a retry would run the job again.
                    is_maintenance = True
                    messages += [answer.message] if kind == "message" else []
            return Executed(token, tuple(keys), tuple(messages), rows)

        return await self._session.write(call, limit, lambda: not is_maintenance)

    def watch(self, *tables: str, **options: Any) -> AsyncWatch:
        """Changes of these tables as they happen, or of all tables. `AsyncTable.watch` describes the options; conditions have their
        parameters in `params`, a list or a dict."""
        where, values = bind_either(options.pop("where", ""), options.pop("params", ()))
        zone = self._session.address.time_zone
        return AsyncWatch(self._session, watch_request(tables, (where, values), time_zone=zone, **options))

    async def status(self, *, timeout: float | None = None) -> Header:
        """What the next reader has: its newest commit, and the identity of the database."""
        request, limit = v1.ReaderServiceStatusRequest(), self._session.limit(timeout)
        answer = await self._session.read(lambda reader: reader.unary("ReaderService/Status", request, limit), limit)
        return self._session.read_at(answer.header)

    async def _write(self, name: str, request: Any, timeout: float | None) -> Any:
        limit = self._session.limit(timeout)
        return await self._session.write(
            lambda writer: writer.unary(f"WriterService/{name}", request, limit, writes=True), limit
        )


class AsyncTable:
    """A table of a database. Keys are text, whole numbers for INT keys, and lists or dicts for composite keys.

    A point in time (`as_of`, `start`, `end`, `to`) is a seq, a `datetime` with a time zone, a `timedelta` (that long ago), or
    anything with a `seq`, such as a receipt. Parameters of conditions are `$1`, `$2`, … by position, or `$name` by name.

    Writes take the options of `CommitOptions`. Every call takes a `timeout` in seconds, which `driftdb.connect` describes.
    """

    def __init__(self, database: AsyncDatabase, name: str) -> None:
        self._database, self.name = database, name
        self._session = database._session

    async def insert(self, document: Mapping[str, Any], **options: Unpack[CommitOptions]) -> Receipt:
        """Creates a row. `RowExists` if a live row has the key. `receipt.keys` has the key, if the writer made it."""
        one = Operations(**options)
        one.insert(self.name, document)
        return await one._send(self._session)

    async def put(self, document: Mapping[str, Any], **options: Unpack[CommitOptions]) -> Receipt:
        """Creates a row, or replaces it as a whole."""
        one = Operations(**options)
        one.put(self.name, document)
        return await one._send(self._session)

    async def patch(self, key: Any, patch: Mapping[str, Any], *, if_seq: int | None = None, **options: Unpack[CommitOptions]) -> Receipt:
        """Changes fields of a row; `None` removes one. `RowNotFound`; `PreconditionFailed` if the row's last change is not `if_seq`."""
        one = Operations(**options)
        one.patch(self.name, key, patch)
        if if_seq is not None:
            one.if_seq(self.name, key, if_seq)
        return await one._send(self._session)

    async def delete(self, key: Any, *, if_seq: int | None = None, **options: Unpack[CommitOptions]) -> Receipt:
        """Deletes a row; its history stays. `RowNotFound`; `PreconditionFailed` if the row's last change is not `if_seq`."""
        one = Operations(**options)
        one.delete(self.name, key)
        if if_seq is not None:
            one.if_seq(self.name, key, if_seq)
        return await one._send(self._session)

    async def revert(self, key: Any, to: Any, *, if_seq: int | None = None, **options: Unpack[CommitOptions]) -> Receipt:
        """Writes a row again as it was at a point in time. `BelowFloor` if that history was compacted."""
        one = Operations(**options)
        one.revert(self.name, key, to)
        if if_seq is not None:
            one.if_seq(self.name, key, if_seq)
        return await one._send(self._session)

    async def get(self, key: Any, *, as_of: Any = None, timeout: float | None = None) -> Row | None:
        """The row with this key, now or at a point in time; `None` if there is none."""
        rows = await self.get_many([key], as_of=as_of, timeout=timeout)
        return rows[0] if rows else None

    async def get_many(
        self, keys: Iterable[Any], *, as_of: Any = None, timeout: float | None = None
    ) -> list[Row]:
        """The rows that exist, in the order of the keys, all of the same point in time."""
        remaining = [key_to_wire(key) for key in keys]
        request = v1.GetRequest(table=self.name, as_of=as_of_to_wire(as_of), freshness=self._session.freshness())
        rows: list[Row] = []
        limit = self._session.limit(timeout)
        while remaining:
            request.ClearField("keys")
            request.keys.extend(remaining[:_KEYS])
            answer = await self._session.read(lambda reader: reader.unary("ReaderService/Get", request, limit), limit)
            rows += map(Row._of, answer.rows)
            remaining = [*answer.remaining, *remaining[_KEYS:]]
            header = Header._of(answer.header)
            self._session.saw(header)
            # The rest at the point in time of the first answer.
            request.as_of.CopyFrom(v1.AsOf(seq=header.read_seq))
            fresh = self._session.freshness(header)
            if fresh is not None:
                request.freshness.CopyFrom(fresh)
        return rows

    def select(
        self,
        where: str = "",
        *params: Any,
        as_of: Any = None,
        limit: int = 0,
        offset: int = 0,
        order_by: str = "",
        fields: Iterable[str] = (),
        deleted: bool = False,
        timeout: float | None = None,
        **named: Any,
    ) -> AsyncRows:
        """The rows that match a condition, in the order of their keys or of `order_by`. `QuerySyntax`, `QueryInvalid`."""
        text, values = bind(where, params, named)
        request = self._select(text, values, as_of)
        request.limit, request.offset, request.order_by, request.deleted = limit, offset, order_by, deleted
        request.fields.extend([fields] if isinstance(fields, str) else fields)
        return AsyncRows(self._session, request, timeout)

    async def count(
        self, where: str = "", *params: Any, as_of: Any = None, timeout: float | None = None, **named: Any
    ) -> int:
        """How many rows match a condition."""
        text, values = bind(where, params, named)
        request = self._select(text, values, as_of)
        request.count_only = True
        return await AsyncRows(self._session, request, timeout).count()

    def _select(self, where: str, params: list[str], as_of: Any) -> Any:
        zone = self._session.address.time_zone
        return v1.SelectRequest(
            table=self.name, where=where, params=params, as_of=as_of_to_wire(as_of), time_zone=zone
        )

    def history(
        self,
        key: Any = None,
        *,
        start: Any = None,
        end: Any = None,
        where: str = "",
        params: Sequence[Any] | Mapping[str, Any] = (),
        actor: str = "",
        before: bool = False,
        after: bool = False,
        newest_first: bool = False,
        limit: int = 0,
        timeout: float | None = None,
    ) -> AsyncResults[Commit]:
        """The commits that changed a row, or any row, after `start` and up to `end`. `BelowFloor` if `start` was compacted."""
        text, values = bind_either(where, params)
        request = v1.HistoryRequest(
            table=self.name,
            key="" if key is None else some_key(key),
            start=as_of_to_wire(start),
            end=as_of_to_wire(end),
            where=text,
            params=values,
            actor=actor,
            with_before=before,
            with_after=after,
            newest_first=newest_first,
            limit=limit,
            time_zone=self._session.address.time_zone,
        )
        return AsyncResults(self._session, "ReaderService/History", request, CommitJoiner().commits, timeout)

    def diff(
        self,
        start: Any,
        end: Any = None,
        *,
        keys: Iterable[Any] = (),
        added_if_missing: bool = False,
        timeout: float | None = None,
    ) -> AsyncResults[RowDiff]:
        """The rows that differ between two points in time, in the order of their keys. `TableNotFound` if the table did not exist at
        one of them; with `added_if_missing` every row was then added after `start`."""
        request = v1.DiffRequest(
            table=self.name,
            start=as_of_to_wire(start),
            end=as_of_to_wire(end),
            keys=[some_key(key) for key in keys],
            added_if_missing=added_if_missing,
        )
        return AsyncResults(
            self._session, "ReaderService/Diff", request, lambda answer: map(RowDiff._of, answer.rows), timeout
        )

    async def describe(self, *, as_of: Any = None, timeout: float | None = None) -> TableInfo:
        """The table's schema and figures. `TableNotFound`."""
        request = v1.DescribeTableRequest(table=self.name, as_of=as_of_to_wire(as_of), freshness=self._session.freshness())
        limit = self._session.limit(timeout)
        answer = await self._session.read(lambda reader: reader.unary("ReaderService/DescribeTable", request, limit), limit)
        self._session.read_at(answer.header)
        return TableInfo._of(answer.table)

    def watch(
        self,
        where: str = "",
        *params: Any,
        keys: Sequence[Any] = (),
        key_prefix: str = "",
        after_seq: int | None = None,
        after_time: datetime | None = None,
        token: bytes | None = None,
        initial_rows: bool = False,
        before: bool = True,
        after: bool = True,
        until_seq: int = 0,
        heartbeat: timedelta | float = 10.0,
        **named: Any,
    ) -> AsyncWatch:
        """Changes of the table as they happen, after a commit, after a time, after a resume token, or else from when the watch is
        opened: by `open()`, or when the first change is asked for. docs/watch.md describes the contract.

        `initial_rows` first delivers the rows as of the start, as changes of the kind `initial`. `where`, `keys` and `key_prefix`
        filter; a change passes `where` if the row before or after it matches. `before` and `after` ask for those rows. The watch
        ends after `until_seq`. It is silent for at most `heartbeat` seconds.
        """
        zone = self._session.address.time_zone
        request = watch_request(
            [self.name],
            bind(where, params, named),
            keys=keys,
            key_prefix=key_prefix,
            after_seq=after_seq,
            after_time=after_time,
            token=token,
            initial_rows=initial_rows,
            before=before,
            after=after,
            until_seq=until_seq,
            heartbeat=heartbeat,
            time_zone=zone,
        )
        return AsyncWatch(self._session, request)

    async def ingest(
        self,
        rows: Iterable[Mapping[str, Any]],
        *,
        action: str = "insert",
        producer: str = "",
        batch: int = 500,
        atomic: bool = False,
        timeout: float | None = None,
    ) -> Ingested:
        """Loads many rows, each a commit, or each batch if `atomic`. Rows that are refused are in `refused`; the others are on disk.

        With a `producer`, a name for this load and no other, a load resumes by itself, and one that is repeated with the same rows and
        the same `batch` passes over what is on disk: rows of another load under the same name would be passed over, too. Without it, a
        connection that breaks after it was made is `OutcomeUnknown`.
        """
        return await Ingest(self._session, batches_of(self.name, rows, action, batch), producer, batch, atomic, timeout).run()


def _key_type(name: str) -> int:
    kinds = {"STRING": 1, "INT": 2}
    if name not in kinds:
        raise ArgumentInvalid(f"the type of a key is STRING or INT; got {name!r}")
    return kinds[name]
