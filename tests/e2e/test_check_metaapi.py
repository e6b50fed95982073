"""`brokerd check-metaapi` over real sockets: the sandbox is as we know it, and differences show."""

import asyncio
import os
import re

import pytest
from forked import brokerd

from brokerd.sandbox.faults import Fault, FaultKind
from brokerd.sandbox.limits import CreditLimits, Window
from brokerd.sandbox.server import SandboxSettings, running_sandbox

pytestmark = pytest.mark.e2e
TOKEN = "header.planted-secret-payload.signature"
CHECKS = [
    "token", "discovery", "regions", "quotas", "clock", "account", "account information",
    "history page", "server time", "credits", "balance proof", "stream",
]  # fmt: skip


async def check(sandbox, folder, *arguments, token=TOKEN):
    """Run the command against a sandbox; return its exit code and what it printed."""
    path = folder / "brokerd.toml"
    path.write_text(
        f"""
node_name = "node-1"
[metaapi]
provisioning_url = "{sandbox.url}"
client_url = "{sandbox.url}"
stream_url = "{sandbox.url}"
request_attempts = 1
tokens.main = {{env = "TEST_TOKEN"}}
[database]
url = {{env = "TEST_DATABASE_URL"}}
[api]
key = {{env = "TEST_KEY"}}
"""
    )
    environ = {
        **os.environ,
        "TEST_TOKEN": token,
        "TEST_DATABASE_URL": "postgresql://nobody@/nothing?host=/nowhere",
        "TEST_KEY": "k" * 32,
        "COLUMNS": "200",
    }
    words = ("check-metaapi", "--config", str(path), *arguments)
    done = await asyncio.to_thread(brokerd, *words, environ=environ)
    assert "planted-secret" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def verdicts(out):
    """Return each check's verdict, as the table shows it."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines()]
    return {row[0]: row[1] for row in rows if len(row) == 4 and row[0] in CHECKS}


def settings(**changes):
    """Serve one account with a past, and the credits of the dossier."""
    return SandboxSettings(accounts=1, deals_per_account_minute=0, token=TOKEN, **changes)


async def test_the_sandbox_is_as_we_know_it(tmp_path):
    """Every check, the stream's too, says `as known`, and the command ends with 0."""
    async with running_sandbox(settings()) as sandbox:
        sandbox.state.limits.credits = CreditLimits()
        code, out, err = await check(sandbox, tmp_path, "--stream")
    assert verdicts(out) == dict.fromkeys(CHECKS, "as known"), out + err
    assert code == 0
    assert "proven" in out


async def test_differences_are_told_and_end_with_1(tmp_path):
    """A clock ten minutes ahead, other credits: seen, named, not failed; no stream unasked."""
    async with running_sandbox(settings()) as sandbox:
        sandbox.state.conditions.clock_offset_seconds = 600.0
        sandbox.state.limits.credits = CreditLimits(per_user=(Window(seconds=1, credits=5_000),))
        code, out, _ = await check(sandbox, tmp_path)
    found = verdicts(out)
    assert code == 1
    assert [name for name, verdict in found.items() if verdict == "differs"] == ["clock", "credits"]
    assert found["stream"] == "not checked"
    assert re.search(r"clock is \+(599|600|601)\.", out)
    assert "user 5000/1s" in out


async def test_a_bad_token_fails_its_checks_and_shows_nothing(tmp_path):
    """One refusal; what would follow is not asked for, and the token is not shown."""
    async with running_sandbox(settings()) as sandbox:
        bad = "header.planted-secret-other.signature"
        code, out, _ = await check(sandbox, tmp_path, token=bad)
    assert code == 1
    assert verdicts(out)["token"] == "failed"
    assert "unauthorized" in out


async def test_failures_stand_by_themselves(tmp_path):
    """History that fails costs its own checks, not the others."""
    async with running_sandbox(settings()) as sandbox:
        [account_id] = sandbox.broker.accounts
        sandbox.faults.switch_on(Fault(kind=FaultKind.SYNCHRONIZING))
        code, out, _ = await check(sandbox, tmp_path, "--account", account_id)
        missing, told, _ = await check(sandbox, tmp_path, "--account", "no-such-account")
    assert code == 1
    assert verdicts(out)["balance proof"] == "failed"
    assert verdicts(out)["account information"] == "as known"
    assert missing == 1
    assert "no-such-account" in told


async def test_a_token_that_is_not_configured_is_a_wrong_configuration(tmp_path):
    """The command names those that are, by name."""
    async with running_sandbox(settings()) as sandbox:
        code, out, err = await check(sandbox, tmp_path, "--token", "other")
    assert (code, out) == (78, "")
    assert "main" in err
