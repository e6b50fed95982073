"""The backup's commands: words, exit codes, and no secret among the arguments."""

import os
import subprocess
from pathlib import Path

import forked
import psycopg
import pytest

COMMANDS = {"backup": "--to", "restore": "--from", "verify-backup": "--from"}
FALSE_RECEIPT = """
INSERT INTO brokerd.windows (account_id, start, "end", deals, content_hash, balance, credit)
VALUES (7, '2026-01-01Z', '2026-02-01Z', 3, 1, 12.5, 0)
"""


@pytest.fixture
def brokerd(database_url, shared_engines):
    """Return how to run a command on a fresh database, with PostgreSQL's programs on PATH."""

    def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("BROKERD_")}
        settings = {
            "PATH": f"{shared_engines.postgres._bin}:{os.environ['PATH']}",
            "BROKERD_NODE_NAME": "node-1",
            "BROKERD_METAAPI__TOKENS__MAIN": "planted-token",
            "BROKERD_DATABASE__URL": database_url,
            "BROKERD_API__KEY": "planted-key-0123456789",
        }
        return forked.brokerd(*arguments, environ=clean | settings | environ)

    return run


def test_a_false_receipt_is_told_and_ends_with_1(brokerd, database_url: str, tmp_path: Path):
    """All three commands in turn: the newest of the folder is checked, and what is wrong named."""
    with psycopg.connect(database_url) as connection:
        connection.execute(FALSE_RECEIPT)
    made = brokerd("backup", "--to", str(tmp_path))
    assert (made.returncode, made.stderr) == (0, "")
    assert "1 receipts" in made.stdout
    (dump,) = tmp_path.glob("*.dump")
    for words in (
        ("verify-backup", "--from", str(tmp_path)),
        ("restore", "--from", str(dump), "--replace"),
    ):
        result = brokerd(*words)
        assert result.returncode == 1
        assert result.stderr == (
            "#7: the receipt of 2026-01-01T00:00:00+00:00 to 2026-02-01T00:00:00+00:00"
            " says 3 deals of 12.50000000; counted 0 of 0\n"
        )


def test_failures_are_one_line(brokerd, tmp_path: Path):
    """No traceback when the programs, the folder, the backup or the database are not there."""
    folder = str(tmp_path)
    for words, environ, expected in (
        (("backup", "--to", folder), {"PATH": "/nowhere"}, "pg_dump is not on PATH"),
        (("backup", "--to", f"{folder}/no"), {}, "cannot be written (No such file"),
        (("verify-backup", "--from", folder), {}, "holds no backup"),
        (("restore", "--from", f"{folder}/no.dump"), {}, "cannot be read (No such file"),
    ):
        result = brokerd(*words, **environ)
        assert result.returncode == 1
        assert result.stderr.startswith("backup_failed: ")
        assert expected in result.stderr
        assert result.stderr.count("\n") == 1
    gone = "postgresql://brokerd:planted@/brokerd?host=/nowhere"
    result = brokerd("backup", "--to", folder, BROKERD_DATABASE__URL=gone)
    assert result.returncode == 1
    assert result.stderr.startswith("store_unavailable: ")
    assert "planted" not in result.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_unusable_configuration_is_78(command: str, brokerd, tmp_path: Path):
    """As every command: 78, and the reason."""
    (tmp_path / "b.toml").write_text("[pool]\nmax_linx = 3\n")
    path = str(tmp_path / "b.toml")
    result = brokerd(command, "--config", path, COMMANDS[command], str(tmp_path))
    assert result.returncode == 78
    assert "pool.max_linx" in result.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_no_option_takes_a_secret(command: str, brokerd):
    """URLs and passwords come from the configuration's secrets."""
    shown = brokerd(command, "--help").stdout.lower()
    assert COMMANDS[command] in shown
    assert not {"--token", "--key", "--password", "--url"} & set(shown.split())
