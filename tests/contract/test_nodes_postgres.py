"""What only a real Postgres can lose of the register of nodes: the last of it."""

import psycopg
from prometheus_client import CollectorRegistry

from brokerd.config.settings import DatabaseSettings, Secret
from brokerd.pool.postgres_nodes import PostgresNodes
from brokerd.store.engine import open_database
from brokerd.telemetry import Metrics


async def test_an_incarnation_that_the_database_forgot_is_not_given_out_again(
    database_url: str,
) -> None:
    """A failover lost the registration and set the sequence back; keys stay single."""
    metrics = Metrics(CollectorRegistry())
    settings = DatabaseSettings(url=Secret(database_url))
    async with open_database(settings, metrics=metrics) as database:
        nodes = PostgresNodes(database, heartbeats=database)
        given = set()
        for name in ("a", "b", "c"):
            given.add(await nodes.register(name, max_links=1))
            with psycopg.connect(database_url, autocommit=True) as connection:
                connection.execute("TRUNCATE brokerd.nodes RESTART IDENTITY")
        assert len(given) == 3
