"""A backup is whole or absent, comes back as it was, and nothing of a restore can be doubled."""

import fcntl
import json
import os
from contextlib import closing

import psycopg
import pytest
from prometheus_client import CollectorRegistry

from brokerd.config.settings import (
    ApiSettings,
    DatabaseSettings,
    MetaApiSettings,
    Secret,
    Settings,
)
from brokerd.errors import BackupFailed, ConfigInvalid
from brokerd.ledger.restore import restore, verify_backup
from brokerd.pool.postgres_nodes import PostgresNodes
from brokerd.store.backup import back_up, newest
from brokerd.store.engine import open_database
from brokerd.store.manifest import manifest_path
from brokerd.store.migrate import check
from brokerd.telemetry import Metrics

_FILL = """
INSERT INTO brokerd.accounts (link_id, user_id, platform, login, server, currency, token,
  metaapi_account_id, region, desired, priority)
SELECT u, u, 'mt5', u, 'Demo', 'USD', 'main', 'm', 'london', 'live', 'normal'
FROM unnest(ARRAY['ann', 'bob']) AS u;
INSERT INTO brokerd.deals (account_id, deal_id, user_id, type, time, broker_time, profit,
  commission, swap, book, raw, content_hash, source, write_id)
SELECT account_id, n::text, user_id, 'DEAL_TYPE_BUY', now() - n * interval '1 minute', '', n, 0, 0,
  'balance', '{}', n, 'pull', 1
FROM brokerd.accounts, generate_series(1, 50) n;
INSERT INTO brokerd.windows (account_id, start, "end", deals, content_hash, balance, credit)
SELECT account_id, now() - interval '1 day', now(), count(*), bit_xor(content_hash), sum(profit), 0
FROM brokerd.deals GROUP BY account_id;
INSERT INTO brokerd.events (account_id, account_seq, link_id, user_id, type, payload)
SELECT account_id, 1, link_id, user_id, 'deal.added', '{}' FROM brokerd.accounts;
INSERT INTO brokerd.nodes (name, max_links, heartbeat_at) VALUES ('n', 9, now() - interval '1 h');
INSERT INTO brokerd.leases (account_id, owner, epoch, is_wanted, deadline)
SELECT account_id, 1, 4, true, now() FROM brokerd.accounts;
INSERT INTO brokerd.links (account_id, phase, reason, message, observed_generation, since, proof)
SELECT account_id, 'live', 'Live', '', 1, now(), 'proven' FROM brokerd.accounts;
"""
_LEDGER = "SELECT link_id, d.* FROM brokerd.deals d JOIN brokerd.accounts USING (account_id)"


def ask(url, statement):
    """Run one statement beside brokerd; return its rows."""
    with closing(psycopg.connect(url, autocommit=True)) as connection:
        cursor = connection.execute(statement)
        return sorted(cursor.fetchall(), key=str) if cursor.description else []


async def registered(url, name):
    """Start a node as far as the register knows; return its incarnation."""
    metrics = Metrics(CollectorRegistry())
    async with open_database(DatabaseSettings(url=Secret(url)), metrics=metrics) as database:
        return await PostgresNodes(database, heartbeats=database).register(name, max_links=1)


def settings_of(url):
    """Build the configuration of a node on that database."""
    return Settings(
        node_name="n",
        metaapi=MetaApiSettings(tokens={}),
        database=DatabaseSettings(url=Secret(url)),
        api=ApiSettings(key=Secret("k" * 32)),
    )


@pytest.fixture
def url(database_url, shared_engines, monkeypatch):
    """Give a filled ledger, and the server's own programs on PATH."""
    ask(database_url, _FILL)
    monkeypatch.setenv("PATH", f"{shared_engines.postgres._bin}:{os.environ['PATH']}")
    return database_url


async def backed_up(url, folder, *, keep=None):
    """Take a backup."""
    return await back_up(Secret(url), folder=folder, keep=keep)


async def test_a_backup_is_one_private_file_and_what_is_in_it(url, tmp_path):
    """Two files, mode 0600, no partial one; the manifest counts what the snapshot held."""
    made = await backed_up(url, tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([made.path, manifest_path(made.path)])
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    written = json.loads(manifest_path(made.path).read_text())
    assert written["counts"] == {
        "accounts": 2,
        "deals": 100,
        "deal_revisions": 0,
        "windows": 2,
        "events": 2,
    }
    assert newest(tmp_path) == made.path


async def test_what_was_lost_comes_back_and_nothing_is_held(url, tmp_path):
    """Over a changed ledger: deals as backed up, leases free, nodes closed, proofs open again."""
    before, generation = ask(url, _LEDGER), ask(url, "SELECT brokerd.feed_generation()")
    made = await backed_up(url, tmp_path)
    ask(url, "DELETE FROM brokerd.deals WHERE deal_id < '3'; CREATE TABLE brokerd.later ()")
    zombie = await registered(url, "z")
    ask(url, "UPDATE brokerd.nodes SET closed_at = now()")
    restored = await restore(settings_of(url), dump=made.path, is_replacing=True)
    assert restored.false_receipts == []
    assert ask(url, _LEDGER) == before
    assert ask(url, "SELECT to_regclass('brokerd.later'), to_regnamespace('brokerd_replaced')") == [
        (None, None)
    ]
    assert ask(url, "SELECT count(*) FROM brokerd.leases WHERE owner IS NOT NULL") == [(0,)]
    assert ask(url, "SELECT count(*) FROM brokerd.nodes WHERE closed_at IS NULL") == [(0,)]
    assert ask(url, "SELECT DISTINCT proof FROM brokerd.links") == [("unknown",)]
    assert ask(url, "SELECT brokerd.feed_generation()") > generation
    assert await registered(url, "n") > zombie, "a zombie's incarnation was given out again"


async def test_a_ledger_is_not_restored_over_by_mistake(url, tmp_path):
    """Without --replace a filled database is refused, and with it while a node is alive."""
    made, before = await backed_up(url, tmp_path), ask(url, _LEDGER)
    with pytest.raises(BackupFailed, match="--replace"):
        await restore(settings_of(url), dump=made.path, is_replacing=False)
    ask(url, "UPDATE brokerd.nodes SET heartbeat_at = now()")
    with pytest.raises(BackupFailed, match="stop n"):
        await restore(settings_of(url), dump=made.path, is_replacing=True)
    assert ask(url, _LEDGER) == before


async def test_a_restore_that_fails_leaves_the_ledger_there_was(url, tmp_path):
    """A dump that is not what its manifest says: the old schema is back, events can be written."""
    made, before = await backed_up(url, tmp_path), ask(url, _LEDGER)
    beside = manifest_path(made.path)
    beside.write_text(beside.read_text().replace('"deals": 100', '"deals": 101'))
    with pytest.raises(BackupFailed, match="deals=101"):
        await restore(settings_of(url), dump=made.path, is_replacing=True)
    assert ask(url, _LEDGER) == before
    made.path.write_bytes(made.path.read_bytes()[:-100])
    with pytest.raises(BackupFailed, match="not the file that was written"):
        await restore(settings_of(url), dump=made.path, is_replacing=True)
    ask(url, "INSERT INTO brokerd.events (account_id, account_seq, link_id, user_id, type, payload)"
        " VALUES (1, 9, 'ann', 'ann', 'deal.added', '{}')")  # fmt: skip


async def test_a_restore_that_was_killed_is_noticed(url, tmp_path):
    """While what it replaced lies aside, no node starts and no other restore begins."""
    made = await backed_up(url, tmp_path)
    ask(url, "CREATE SCHEMA brokerd_replaced")
    with pytest.raises(ConfigInvalid, match="interrupted"):
        await check(Secret(url))
    with pytest.raises(BackupFailed, match="brokerd_replaced"):
        await restore(settings_of(url), dump=made.path, is_replacing=True)


async def test_a_receipt_that_does_not_hold_is_named(url, tmp_path):
    """Restore and check recount every receipt; the check leaves no database behind."""
    ask(url, "UPDATE brokerd.deals SET profit = 7 WHERE deal_id = '9' AND user_id = 'bob'")
    made = await backed_up(url, tmp_path)
    found = (
        await verify_backup(settings_of(url), dump=made.path),
        await restore(settings_of(url), dump=made.path, is_replacing=True),
    )
    for each in found:
        (receipt,) = each.false_receipts
        assert receipt.link_id == "bob"
        assert (float(receipt.sum), float(receipt.sum_counted)) == (1275, 1273)
    assert ask(url, "SELECT datname FROM pg_database WHERE datname ~ 'brokerd_check'") == []


async def test_a_reader_role_does_not_stand_in_the_way(url, tmp_path):
    """Policies name roles that another server need not have: they are left out, RLS stays on."""
    ask(url, "CREATE ROLE gone_reader; ALTER TABLE brokerd.deals ENABLE ROW LEVEL SECURITY;"
        " CREATE POLICY p ON brokerd.deals TO gone_reader USING (true)")  # fmt: skip
    made = await backed_up(url, tmp_path)
    ask(url, "DROP POLICY p ON brokerd.deals; DROP ROLE gone_reader")
    await restore(settings_of(url), dump=made.path, is_replacing=True)
    is_on = "SELECT relrowsecurity FROM pg_class WHERE oid = 'brokerd.deals'::regclass"
    assert ask(url, is_on) == [(True,)]


async def test_only_so_many_are_kept_and_leftovers_go(url, tmp_path):
    """The newest two stay with their manifests; what a killed backup left is taken away."""
    (tmp_path / "brokerd-20260101T000000.000000Z.dump.partial").touch()
    (tmp_path / "other.dump").touch()
    made = [await backed_up(url, tmp_path, keep=2) for _ in range(3)]
    assert made[2].dropped == [made[0].path]
    kept = [path for each in made[1:] for path in (each.path, manifest_path(each.path))]
    assert sorted(tmp_path.iterdir()) == sorted([*kept, tmp_path / "other.dump"])


async def test_two_backups_do_not_write_into_one_folder(url, tmp_path):
    """The second is refused while the first one holds the folder, and sweeps nothing of it."""
    (left := tmp_path / "brokerd-20260101T000000.000000Z.dump.partial").touch()
    held = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(BackupFailed, match="another backup"):
            await backed_up(url, tmp_path)
    finally:
        os.close(held)
    assert list(tmp_path.iterdir()) == [left]


def fake_pg_dump(folder, monkeypatch, *, version, body="exit 3"):
    """Put a pg_dump of ours first on PATH."""
    program = folder / "pg_dump"
    said = f"pg_dump (PostgreSQL) {version}"
    program.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "{said}" && exit\n{body}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.mark.parametrize(("version", "match"), [("9.6.1", "PostgreSQL 9"), ("99.1", "pg_dump f")])
async def test_no_backup_is_left_by_a_pg_dump_that_cannot(
    url, tmp_path, monkeypatch, version, match
):
    """One that is older than the server is refused with what to do; one that fails is told."""
    fake_pg_dump(tmp_path, monkeypatch, version=version)
    (folder := tmp_path / "to").mkdir()
    with pytest.raises(BackupFailed, match=match):
        await backed_up(url, folder)
    assert list(folder.iterdir()) == []


async def test_the_password_is_no_argument_and_in_no_message(url, tmp_path, monkeypatch):
    """Arguments are for every user of the machine to see; a message that repeats it is cleaned."""
    password = psycopg.conninfo.conninfo_to_dict(url)["password"]
    body = f'echo "$@" > {tmp_path}/argv; echo "said $PGPASSWORD" >&2; exit 1'
    fake_pg_dump(tmp_path, monkeypatch, version="99", body=body)
    (folder := tmp_path / "to").mkdir()
    with pytest.raises(BackupFailed, match="said …") as caught:
        await backed_up(url, folder)
    assert password not in repr(caught.value)
    assert password not in (tmp_path / "argv").read_text()
    assert "--dbname=" in (tmp_path / "argv").read_text()


async def test_a_role_that_may_not_is_told_what_it_lacks(url, tmp_path):
    """The check needs CREATEDB; without it the words say so, and nothing is left."""
    made = await backed_up(url, tmp_path)
    ask(url, "CREATE ROLE modest LOGIN PASSWORD 'modest'")
    theirs = psycopg.conninfo.make_conninfo(url, user="modest", password="modest")
    try:
        with pytest.raises(BackupFailed, match="CREATEDB"):
            await verify_backup(settings_of(theirs), dump=made.path)
    finally:
        ask(url, "DROP ROLE modest")
