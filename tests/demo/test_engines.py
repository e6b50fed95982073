"""The embedded engines start from nothing, end without a trace, and touch nothing else."""

import psycopg
import redis.asyncio as redis


def test_database_fixture_is_migrated_and_empty(database_url: str) -> None:
    """A test's database has brokerd's tables and no rows."""
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM brokerd.accounts").fetchone() == (0,)


async def test_redis_fixture_is_empty(redis_url: str) -> None:
    """A test's Valkey holds no keys."""
    async with redis.Redis.from_url(redis_url) as client:
        assert await client.dbsize() == 0
