"""How brokerd reaches Postgres: one bounded pool, bounded calls, and errors of our own tree.

Everything here is safe behind a PgBouncer that pools transactions. That decides how calls are
bounded: a `statement_timeout` in the start-up options or by SET is session state, which such a
proxy refuses or leaks to strangers. So each call has a deadline on our side, which cancels the
statement on the server as well (psycopg sends the cancel request), and each transaction
of several statements begins with transaction-local limits, so that a client that was stopped or
cut off in its middle cannot hold its locks.
"""

import asyncio
import math
import select
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import NamedTuple

import psycopg
import psycopg_pool
import sqlalchemy as sa
from psycopg.rows import TupleRow
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from brokerd.config.settings import DatabaseSettings, Secret
from brokerd.errors import ConfigInvalid, StoreUnavailable
from brokerd.telemetry import Metrics

_LOCAL_LIMITS = sa.text(
    "SELECT set_config('statement_timeout', :limit, true),"
    " set_config('idle_in_transaction_session_timeout', :limit, true)"
)

_KEEPALIVE = {
    # a peer that vanished without a word is noticed after half a minute, not after two hours
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
}


class _Unavailability(NamedTuple):
    """A family of SQLSTATEs that means: not our statement's fault, try again later."""

    prefix: str
    reason: str


_UNAVAILABLE = (
    _Unavailability("08", "connection_lost"),
    _Unavailability("25006", "read_only"),
    _Unavailability("25P03", "timeout"),
    _Unavailability("25P04", "timeout"),
    _Unavailability("40001", "serialization"),
    _Unavailability("40P01", "deadlock"),
    _Unavailability("40", "rollback"),
    _Unavailability("53100", "disk_full"),
    _Unavailability("53300", "too_many_connections"),
    _Unavailability("53", "resources"),
    _Unavailability("55P03", "lock_not_available"),
    _Unavailability("57014", "timeout"),
    _Unavailability("57", "connection_lost"),  # shutdown, crash, start-up, idle session
    _Unavailability("58", "io_error"),
)


def conninfo(url: Secret, *, key: str = "database.url") -> str:
    """Reveal a libpq URI that parses; a message about one that does not would quote it."""
    try:
        return psycopg.conninfo.make_conninfo(url.reveal())
    except psycopg.ProgrammingError:
        raise ConfigInvalid([f"{key}: libpq cannot read it"]) from None


def unavailability(error: BaseException | None) -> str | None:
    """Name why Postgres could not take the work; None when the fault is not Postgres's."""
    if isinstance(error, sa.exc.DBAPIError):
        return unavailability(error.orig)
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, psycopg_pool.PoolTimeout | psycopg_pool.TooManyRequests):
        return "pool_exhausted"
    state = error.sqlstate if isinstance(error, psycopg.Error) else None
    if state is None:
        return "connection_lost" if isinstance(error, psycopg.OperationalError) else None
    return next((u.reason for u in _UNAVAILABLE if state.startswith(u.prefix)), None)


class _Lent(psycopg.AsyncConnection[TupleRow]):
    """A connection of the pool, which must get back: a lost one takes its place with it, for ever.

    With `close_returns` psycopg returns a connection on close(), but not one that is closed
    already. And SQLAlchemy drops one whose mode it is changing when it is cancelled: psycopg pauses
    there when the loop was busy, though there is nothing to wait for. Here it does not.
    """

    lender: "_Pool | None" = None

    async def close(self) -> None:
        """Go back to the pool, which replaces what is broken."""
        if self.closed and self.lender is not None:
            lender, self.lender = self.lender, None
            await lender.putconn(self)
        else:
            await super().close()

    async def set_autocommit(self, value: bool) -> None:  # noqa: FBT001  # psycopg's signature
        """Change the mode without a pause."""
        async with self.lock:
            next(self._set_autocommit_gen(value), None)

    async def set_isolation_level(self, value: psycopg.IsolationLevel | None) -> None:
        """Change the level without a pause."""
        async with self.lock:
            next(self._set_isolation_level_gen(value), None)

    @property
    def has_input(self) -> bool:
        """Say whether something is to be read; on an idle connection, the server's farewell."""
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        return bool(poll.poll(0))


_Pool = psycopg_pool.AsyncConnectionPool[_Lent]


class _Cancellations:
    """The cancellations of this task, of which waiting for the pool may lose one.

    The pool waits with asyncio.wait_for, and on Python 3.11 that drops a cancellation, or the end
    of a timeout, that comes in the moment in which a connection is handed over: whoever cancelled
    would wait for ever.
    """

    def __init__(self) -> None:
        self._before = self._count()

    def raise_lost(self) -> None:
        """Raise `CancelledError` when one was asked for and not raised."""
        if self._count() > self._before:
            raise asyncio.CancelledError

    @staticmethod
    def _count() -> int:
        task = asyncio.current_task()
        return 0 if task is None else task.cancelling()


class Database:
    """One bounded pool of connections; made by `open_database`."""

    def __init__(self, engine: AsyncEngine, *, timeout_seconds: float, metrics: Metrics) -> None:
        self._transactional = engine
        self._autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._timeout_seconds = timeout_seconds
        self._metrics = metrics

    @asynccontextmanager
    async def statement(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection on which every statement is its own transaction.

        The block as a whole is bounded. Raises `StoreUnavailable`; whether the statement was
        committed is then unknown.
        """
        cancellations = _Cancellations()
        with self._translated():
            async with asyncio.timeout(self._timeout_seconds), self._autocommit.connect() as conn:
                cancellations.raise_lost()
                yield conn

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection inside one transaction, committed when the block ends well.

        The block as a whole is bounded, here and on the server. Raises `StoreUnavailable`; whether
        the transaction was committed is then unknown.
        """
        limit = f"{math.ceil(self._timeout_seconds * 1000)}ms"
        cancellations = _Cancellations()
        with self._translated():
            async with asyncio.timeout(self._timeout_seconds), self._transactional.begin() as conn:
                cancellations.raise_lost()
                await conn.execute(_LOCAL_LIMITS, {"limit": limit})
                yield conn

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn what the driver raises into our tree; what is our own mistake passes as it is."""
        try:
            yield
        except (TimeoutError, sa.exc.DBAPIError, psycopg.Error) as error:
            reason = unavailability(error)
            if reason is None:
                raise
            self._metrics.db_failures.labels(code=reason).inc()
            raise StoreUnavailable(f"Postgres did not take it: {reason}") from error


@asynccontextmanager
async def open_database(
    settings: DatabaseSettings, *, metrics: Metrics, max_connections: int | None = None
) -> AsyncIterator[Database]:
    """Open the pool and close it at the end; does not wait for Postgres to be there.

    `max_connections` overrides `pool_size`: with 1 it is the connection of its own that heartbeats
    need, so that they never wait behind other work.
    """
    size = settings.pool_size if max_connections is None else max_connections
    pool: _Pool = psycopg_pool.AsyncConnectionPool(
        conninfo(settings.url),
        connection_class=_Lent,
        kwargs={
            "prepare_threshold": None,
            "connect_timeout": max(2, math.ceil(settings.acquire_seconds)),  # libpq's least is 2
            "application_name": "brokerd",
            **_KEEPALIVE,
        },
        min_size=min(1, size),
        max_size=size,
        timeout=settings.acquire_seconds,
        max_idle=settings.idle_seconds,
        max_lifetime=settings.lifetime_seconds,
        # The pool's own retries slow down to minutes; giving up at once makes each caller dial.
        reconnect_timeout=settings.acquire_seconds,
        close_returns=True,
        open=False,
        name="brokerd",
    )
    engine = create_async_engine(
        "postgresql+psycopg://",
        async_creator=lambda: _lend(pool),
        poolclass=NullPool,
        use_native_hstore=False,
        hide_parameters=True,  # an error's text must not carry users' deals into the logs
    )
    async with pool:
        yield Database(engine, timeout_seconds=settings.statement_timeout_seconds, metrics=metrics)


async def _lend(pool: _Pool) -> _Lent:
    """Take a connection that the server has not closed meanwhile.

    The pool's own `check` costs a round trip, and waits a second after the first bad connection:
    a restart of Postgres leaves twenty of them.
    """
    deadline = asyncio.get_running_loop().time() + pool.timeout
    while True:
        connection = await pool.getconn(deadline - asyncio.get_running_loop().time())
        connection.lender = pool
        if not connection.has_input:
            return connection
        connection.pgconn.finish()
        await connection.close()
