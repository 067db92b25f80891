"""The blocking API: the classes of `driftdb.aio`, driven to their end at each call."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ._commit import Operations
from ._results import AsyncQuery, AsyncResults, AsyncRows
from ._transport import BlockingTransport, run
from ._watch import AsyncWatch, Event
from .aio import AsyncDatabase, AsyncTable
from .types import Change, Commit, Executed, Header, Ingested, Receipt, Row, RowDiff, TableInfo, Token

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._address import Options
    from .types import CommitOptions

T = TypeVar("T")


class Results(Generic[T]):
    """The results of a read, all of one point in time. They arrive as they are taken, and none is kept.

    Iterating, `header` and `all` raise a `DriftError` if the read fails.
    """

    def __init__(self, results: AsyncResults[T]) -> None:
        self._results = results

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        item: T = _next(self._results.__anext__)
        return item

    @property
    def header(self) -> Header:
        """The point in time of the results."""
        return run(self._results.header())

    @property
    def notes(self) -> tuple[str, ...]:
        """What in the request is probably a mistake, for people. Known after the last result."""
        return self._results.notes

    @property
    def truncated(self) -> bool:
        """Whether compaction has removed the oldest part of a history that was asked for."""
        return self._results.truncated

    def all(self) -> list[T]:
        """The remaining results, in memory."""
        return run(self._results.all())

    def to_pandas(self) -> Any:
        """The remaining results as a `pandas.DataFrame`. `ImportError` if pandas is not installed."""
        return run(self._results.to_pandas())

    def to_arrow(self) -> Any:
        """The remaining results as a `pyarrow.Table`. `ImportError` if pyarrow is not installed."""
        return run(self._results.to_arrow())

    def close(self) -> None:
        """Ends the read."""
        self._results.close()


class Rows(Results[Row]):
    """The rows of a select, in order. If a connection breaks, they continue after the last one at the next reader."""

    def __init__(self, rows: AsyncRows) -> None:
        super().__init__(rows)
        self._rows = rows

    def count(self) -> int:
        """How many rows match; the remaining rows are read to the end."""
        return run(self._rows.count())


class Query(Results[Any]):
    """The results of a statement, by its kind: `Row`, `Commit`, `RowDiff`, `TableInfo`, a count, a line of text, or a dict of columns."""

    def __init__(self, query: AsyncQuery) -> None:
        super().__init__(query)
        self._query = query

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns of groups and aggregates, in order. Known with the first result."""
        return self._query.columns


class Watch:
    """Changes as they happen: in order, each once. If a connection breaks or a reader stops, the watch resumes at the next reader,
    after what was delivered, for as long as it takes.

    It opens when the first of them is asked for, or with `open()`: without a start of its own it delivers what is committed after that.
    Iterate over it for changes, over `commits()` for whole commits, or over `events()` for everything; over one of them only.
    A loop ends with an error if the watch cannot go on: `BelowFloor` if the commits that come next were compacted, `EpochChanged` if
    the database was restored, and others that resuming does not help.
    """

    def __init__(self, watch: AsyncWatch) -> None:
        self._watch = watch

    def __iter__(self) -> Iterator[Change]:
        return self

    def __next__(self) -> Change:
        change: Change = _next(self._watch.__anext__)
        return change

    @property
    def token(self) -> bytes | None:
        """The resume token after the last commit whose changes were all delivered, and taken: of a loop over changes, when the next
        one is asked for. Store it together with what you made of them, and pass it as `token` to continue there, at any reader."""
        return self._watch.token

    def commits(self) -> Iterator[Commit]:
        """Whole commits, with the changes that pass the filter. Initial rows are not among them."""
        return (event.commit for event in self.events() if event.commit is not None)

    def events(self) -> Iterator[Event]:
        """Everything that the watch reports."""
        events = self._watch.events()
        while True:
            try:
                yield _next(events.__anext__)
            except StopIteration:
                return

    def open(self) -> Header:
        """Opens the watch now, and returns where it starts: it delivers every commit after `read_seq`. Without this call a watch opens
        when the first change is asked for, and "now" is then. It waits for a reader for as long as it takes. `ClientClosed` if the watch
        has ended."""
        return run(self._watch.open())

    def close(self) -> None:
        """Ends the watch; also from another thread, whose loop then ends."""
        self._watch.close()


class Committer(Operations):
    """A commit as the body of a `with`. It is sent at the end, unless the body fails."""

    def __init__(self, database: AsyncDatabase, **options: Unpack[CommitOptions]) -> None:
        super().__init__(**options)
        self._database = database

    def __enter__(self) -> Committer:
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        if failed is None:
            run(self._send(self._database._session))


class Database:
    """A database: its writer and its readers. Every call can raise a `DriftError`; docs/errors.md has the reasons.

    It can be used by several threads. A process that forks must connect after the fork.
    """

    def __init__(self, url: str, **options: Unpack[Options]) -> None:
        self._database = AsyncDatabase(url, BlockingTransport(), **options)

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes all connections, and ends what uses them."""
        run(self._database.close())

    def set_token(self, token: str | None) -> None:
        """Replaces the access token, for calls from now on. Connections stay."""
        self._database.set_token(token)

    def include(self, token: Token) -> None:
        """Makes reads include a commit that was made elsewhere."""
        self._database.include(token)

    def forget(self) -> None:
        """Forgets what was written and read: after `EpochChanged`, reads take the database as it is now."""
        self._database.forget()

    def table(self, name: str) -> Table:
        """A table, which need not exist yet."""
        return Table(self._database.table(name))

    def create_table(
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
    ) -> Table:
        """Creates a table. `primary_key` is a field, or a list of fields for a composite key, each a name or a pair of name and type;
        types are STRING and INT. An index is a dotted path, or a list of paths. `TableExists`, `NameInvalid`, `ArgumentInvalid`."""
        work = self._database.create_table(
            name,
            primary_key=primary_key,
            key_type=key_type,
            indexes=indexes,
            auto_key=auto_key,
            retain=retain,
            if_not_exists=if_not_exists,
            **options,
        )
        return Table(run(work))

    def drop_table(self, name: str, **options: Unpack[CommitOptions]) -> Token:
        """Drops a table; its history stays readable. `TableNotFound`."""
        return run(self._database.drop_table(name, **options))

    def tables(self, *, as_of: Any = None, timeout: float | None = None) -> list[TableInfo]:
        """The tables that exist, or existed at a point in time."""
        return run(self._database.tables(as_of=as_of, timeout=timeout))

    def commit(self, **options: Unpack[CommitOptions]) -> Committer:
        """One atomic commit as the body of a `with`. With a `request_id` of your own, a commit that is sent
        again is not done twice: its `receipt.replayed` says so."""
        return Committer(self._database, **options)

    def find_commit(self, request_id: str, *, timeout: float | None = None) -> Token | None:
        """The commit that a request with this id made, if the writer knows it: for who has lost the answer."""
        return run(self._database.find_commit(request_id, timeout=timeout))

    def query(
        self, statement: str, *params: Any, as_of: Any = None, timeout: float | None = None, **named: Any
    ) -> Query:
        """The results of a DriftQL statement that reads. Parameters are `$1`, `$2`, … by position, or `$name` by name."""
        return Query(self._database.query(statement, *params, as_of=as_of, timeout=timeout, **named))

    def execute(
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
        work = self._database.execute(
            statement, *params, reason=reason, actor=actor, request_id=request_id, timeout=timeout, **named
        )
        return run(work)

    def watch(self, *tables: str, **options: Any) -> Watch:
        """Changes of these tables as they happen, or of all tables. `Table.watch` describes the options; conditions have their
        parameters in `params`, a list or a dict."""
        return Watch(self._database.watch(*tables, **options))

    def status(self, *, timeout: float | None = None) -> Header:
        """What the next reader has: its newest commit, and the identity of the database."""
        return run(self._database.status(timeout=timeout))


class Table:
    """A table of a database. Keys are text, whole numbers for INT keys, and lists or dicts for composite keys.

    A point in time (`as_of`, `start`, `end`, `to`) is a seq, a `datetime` with a time zone, a `timedelta` (that long ago), or
    anything with a `seq`, such as a receipt. Parameters of conditions are `$1`, `$2`, … by position, or `$name` by name.

    Writes take the options of `CommitOptions`. Every call takes a `timeout` in seconds, which `driftdb.connect` describes.
    """

    def __init__(self, table: AsyncTable) -> None:
        self._table = table

    @property
    def name(self) -> str:
        """The name of the table."""
        return self._table.name

    def insert(self, document: Mapping[str, Any], **options: Unpack[CommitOptions]) -> Receipt:
        """Creates a row. `RowExists` if a live row has the key. `receipt.keys` has the key, if the writer made it."""
        return run(self._table.insert(document, **options))

    def put(self, document: Mapping[str, Any], **options: Unpack[CommitOptions]) -> Receipt:
        """Creates a row, or replaces it as a whole."""
        return run(self._table.put(document, **options))

    def patch(self, key: Any, patch: Mapping[str, Any], *, if_seq: int | None = None, **options: Unpack[CommitOptions]) -> Receipt:
        """Changes fields of a row; `None` removes one. `RowNotFound`; `PreconditionFailed` if the row's last change is not `if_seq`."""
        return run(self._table.patch(key, patch, if_seq=if_seq, **options))

    def delete(self, key: Any, *, if_seq: int | None = None, **options: Unpack[CommitOptions]) -> Receipt:
        """Deletes a row; its history stays. `RowNotFound`; `PreconditionFailed` if the row's last change is not `if_seq`."""
        return run(self._table.delete(key, if_seq=if_seq, **options))

    def revert(self, key: Any, to: Any, *, if_seq: int | None = None, **options: Unpack[CommitOptions]) -> Receipt:
        """Writes a row again as it was at a point in time. `BelowFloor` if that history was compacted."""
        return run(self._table.revert(key, to, if_seq=if_seq, **options))

    def get(self, key: Any, *, as_of: Any = None, timeout: float | None = None) -> Row | None:
        """The row with this key, now or at a point in time; `None` if there is none."""
        return run(self._table.get(key, as_of=as_of, timeout=timeout))

    def get_many(
        self, keys: Iterable[Any], *, as_of: Any = None, timeout: float | None = None
    ) -> list[Row]:
        """The rows that exist, in the order of the keys, all of the same point in time."""
        return run(self._table.get_many(keys, as_of=as_of, timeout=timeout))

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
    ) -> Rows:
        """The rows that match a condition, in the order of their keys or of `order_by`. `QuerySyntax`, `QueryInvalid`."""
        rows = self._table.select(
            where,
            *params,
            as_of=as_of,
            limit=limit,
            offset=offset,
            order_by=order_by,
            fields=fields,
            deleted=deleted,
            timeout=timeout,
            **named,
        )
        return Rows(rows)

    def count(
        self, where: str = "", *params: Any, as_of: Any = None, timeout: float | None = None, **named: Any
    ) -> int:
        """How many rows match a condition."""
        return run(self._table.count(where, *params, as_of=as_of, timeout=timeout, **named))

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
    ) -> Results[Commit]:
        """The commits that changed a row, or any row, after `start` and up to `end`. `BelowFloor` if `start` was compacted."""
        commits = self._table.history(
            key,
            start=start,
            end=end,
            where=where,
            params=params,
            actor=actor,
            before=before,
            after=after,
            newest_first=newest_first,
            limit=limit,
            timeout=timeout,
        )
        return Results(commits)

    def diff(
        self,
        start: Any,
        end: Any = None,
        *,
        keys: Iterable[Any] = (),
        added_if_missing: bool = False,
        timeout: float | None = None,
    ) -> Results[RowDiff]:
        """The rows that differ between two points in time, in the order of their keys. `TableNotFound` if the table did not exist at
        one of them; with `added_if_missing` every row was then added after `start`."""
        rows = self._table.diff(start, end, keys=keys, added_if_missing=added_if_missing, timeout=timeout)
        return Results(rows)

    def describe(self, *, as_of: Any = None, timeout: float | None = None) -> TableInfo:
        """The table's schema and figures. `TableNotFound`."""
        return run(self._table.describe(as_of=as_of, timeout=timeout))

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
    ) -> Watch:
        """Changes of the table as they happen, after a commit, after a time, after a resume token, or else from when the watch is
        opened: by `open()`, or when the first change is asked for. docs/watch.md describes the contract.

        `initial_rows` first delivers the rows as of the start, as changes of the kind `initial`. `where`, `keys` and `key_prefix`
        filter; a change passes `where` if the row before or after it matches. `before` and `after` ask for those rows. The watch
        ends after `until_seq`. It is silent for at most `heartbeat` seconds.
        """
        watch = self._table.watch(
            where,
            *params,
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
            **named,
        )
        return Watch(watch)

    def ingest(
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
        work = self._table.ingest(
            rows, action=action, producer=producer, batch=batch, atomic=atomic, timeout=timeout
        )
        return run(work)


def _next(step: Callable[[], Any]) -> Any:
    """The next item of an asynchronous iterator, as a blocking one gives it."""

    async def take() -> tuple[bool, Any]:
        try:
            return True, await step()
        except StopAsyncIteration:
            return False, None

    work: Coroutine[Any, Any, tuple[bool, Any]] = take()
    found, item = run(work)
    if not found:
        raise StopIteration
    return item
