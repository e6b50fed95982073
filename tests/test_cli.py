"""The command line says what is wrong in words and exit codes, never in tracebacks."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import httpx
import psycopg
import pytest
from forked import brokerd

_ENVIRONMENT = {
    "BROKERD_NODE_NAME": "node-1",
    "BROKERD_METAAPI__TOKENS__MAIN": "planted-token",
    "BROKERD_DATABASE__URL": "postgresql://brokerd:planted@/brokerd?host=/nowhere",
    "BROKERD_API__KEY": "planted-key-0123456789",
}


def _brokerd(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("BROKERD_")}
    return brokerd(*arguments, environ=clean | environ)


def test_check_config_says_ok() -> None:
    """A usable configuration is one word and exit code 0."""
    result = _brokerd("check-config", **_ENVIRONMENT)
    assert (result.returncode, result.stdout, result.stderr) == (0, "ok\n", "")


@pytest.mark.parametrize("command", ["check-config", "migrate", "run", "audit"])
def test_unusable_configuration(command: str, tmp_path: Path) -> None:
    """Every command tells all problems, one a line, and exits with 78."""
    path = tmp_path / "brokerd.toml"
    path.write_text("[pool]\nmax_linx = 3\n[redis]\nurl = 'redis://:planted@r'\n")
    result = _brokerd(command, "--config", str(path))
    assert result.returncode == 78
    assert [line.partition(":")[0] for line in result.stderr.splitlines()] == [
        "node_name",
        "metaapi.tokens",
        "database.url",
        "api.key",
        "pool.max_linx",
        "redis.url",
    ]
    assert "planted" not in result.stderr + result.stdout
    assert result.stdout == ""


def test_absent_database_is_said_without_traceback() -> None:
    """A failure of our own tree is one line and exit code 1, without the password."""
    result = _brokerd("migrate", **_ENVIRONMENT)
    assert result.returncode == 1
    assert result.stderr.startswith("store_unavailable: ")
    assert "Traceback" not in result.stderr
    assert "planted" not in result.stderr


def test_migrate(database_url: str) -> None:
    """Migrate brings an empty database to the schema, and does so again without harm."""
    with psycopg.connect(database_url) as connection:
        connection.execute("DROP SCHEMA brokerd CASCADE")
    for _ in range(2):
        result = _brokerd("migrate", **_ENVIRONMENT | {"BROKERD_DATABASE__URL": database_url})
        assert (result.returncode, result.stderr) == (0, "")
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM brokerd.deals").fetchone() == (0,)


def test_migrate_names_a_reader(database_url: str) -> None:
    """A role that exists may then read; one that does not is a mistake in the command."""
    environment = _ENVIRONMENT | {"BROKERD_DATABASE__URL": database_url}
    result = _brokerd("migrate", "--reader-role", "no-such-role", **environment)
    assert result.returncode == 78
    assert "create it first" in result.stderr
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE ROLE cli_reader")
        try:
            result = _brokerd("migrate", "--reader-role", "cli_reader", **environment)
            assert (result.returncode, result.stderr) == (0, "")
            may_read = "SELECT has_table_privilege('cli_reader', 'brokerd.deals', 'SELECT')"
            assert connection.execute(may_read).fetchone() == (True,)
        finally:
            connection.execute("DROP OWNED BY cli_reader")
            connection.execute("DROP ROLE cli_reader")


def test_sandbox_serves_until_sigterm() -> None:
    """The sandbox says where it is, shows the accounts asked for, and ends on SIGTERM."""
    command = [sys.executable, "-m", "brokerd", "sandbox", "--accounts", "2", "--seed", "7"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline())
            account_id = ready["accounts"][1]
            answer = httpx.get(
                f"{ready['url']}/users/current/accounts/{account_id}",
                headers={"auth-token": ready["token"]},
            )
            assert answer.json()["_id"] == account_id
        finally:
            process.terminate()
            process.wait(timeout=20)
        assert len(ready["accounts"]) == 2
        assert process.returncode == 0


def test_check_config_imports_no_sdk() -> None:
    """Checking a configuration is quick: neither SDK nor database drivers are loaded."""
    code = (
        "import sys; from brokerd.config.load import load; import brokerd.cli;"
        "print([n for n in sys.modules if n in "
        "('metaapi_cloud_sdk', 'sqlalchemy', 'litestar', 'psycopg', 'aiohttp')])"
    )
    result = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
    assert result.stdout == b"[]\n"


def test_version_and_help() -> None:
    """The version is that of the installed package; without a command help is shown."""
    command = [sys.executable, "-m", "brokerd", "version"]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    assert result.stdout.strip() == version("brokerd")
    for words in ((), ("--help",)):
        assert "check-config" in _brokerd(*words).stdout


def test_no_option_takes_a_secret() -> None:
    """Tokens and keys are never on the command line, where every user of the machine sees them."""
    for command in ("run", "check-config", "migrate", "audit", "sandbox"):
        shown = _brokerd(command, "--help").stdout.lower()
        assert "--help" in shown
        assert not {"--token", "--key", "--password", "--url"} & set(shown.split())


def test_budgets_show_what_was_spent(database_url: str) -> None:
    """As a table for people, and as the API's own answer for machines."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO brokerd.spend (intent_id, account_id, user_id, charge, usd)"
            " VALUES (1, 1, 'u', 'add', 2.172), (2, 1, 'u', 'auth', 0.105)"
        )
    environ = _ENVIRONMENT | {"BROKERD_DATABASE__URL": database_url}
    table = _brokerd("budgets", **environ)
    assert table.returncode == 0, table.stderr
    assert "2 of 2000" in table.stdout
    assert "2.277 of 500" in table.stdout
    assert all(len(line) <= 80 for line in table.stdout.splitlines())
    answer = json.loads(_brokerd("budgets", "--json", **environ).stdout)
    assert answer["budgets"][0]["remainingUsd"] == "2.723"
