"""The backup's units are what systemd understands, agree with the commands and are as closed."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import typer

from brokerd.cli import cli
from brokerd.config.settings import DEFAULT_PATH

FOLDER = Path(__file__).parents[2] / "systemd"
NAMES = ["brokerd-backup", "brokerd-backup-check"]


def values(unit: Path, key: str) -> list[str]:
    """Return what a unit sets a key to."""
    return re.findall(rf"^{key}=(.*)$", unit.read_text(), re.MULTILINE)


def hardening(unit: Path) -> list[str]:
    """Return the lines that close a unit in."""
    closing = r"(?:NoNew|Capab|Ambient|Lock|Private|Protect|Remove|Restrict\w|System)\w+"
    return sorted(re.findall(rf"^{closing}=.*$", unit.read_text(), re.MULTILINE))


@pytest.mark.parametrize("name", NAMES)
def test_systemd_understands_every_line(name: str, tmp_path: Path) -> None:
    """Verify exits 0 and says nothing, of the timer with its service beside it."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    text = (FOLDER / f"{name}.service").read_text()
    service, timer = tmp_path / f"{name}.service", tmp_path / f"{name}.timer"
    service.write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", text))
    timer.write_text((FOLDER / timer.name).read_text())
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(service), str(timer)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("name", NAMES)
def test_the_service_is_as_closed_as_the_daemon(name: str) -> None:
    """User, credentials, mask and every line of the sandbox are the daemon's."""
    daemon, service = FOLDER / "brokerd.service", FOLDER / f"{name}.service"
    for key in ("User", "Group", "LoadCredential", "UMask", "Environment"):
        assert values(service, key) == values(daemon, key)
    assert hardening(service) == hardening(daemon)
    assert len(hardening(daemon)) > 20


@pytest.mark.parametrize("name", NAMES)
def test_the_command_exists_as_it_is_written(name: str) -> None:
    """Our command line takes every word of ExecStart; both read and write the same folder."""
    (command,) = values(FOLDER / f"{name}.service", "ExecStart")
    _, verb, *words = shlex.split(command)
    known = typer.main.get_command(cli).commands[verb]
    given = known.make_context(verb, words, resilient_parsing=False).params
    assert given["config"] == DEFAULT_PATH
    assert Path("/var/lib/brokerd/backups") in given.values()
    folders = values(FOLDER / "brokerd-backup.service", "StateDirectory")
    assert folders == ["brokerd/backups"]


@pytest.mark.parametrize("name", NAMES)
def test_the_timer_is_not_missed_and_not_a_stampede(name: str) -> None:
    """A machine that was off makes up for it, and a fleet does not begin at one moment."""
    timer = FOLDER / f"{name}.timer"
    assert values(timer, "Persistent") == ["true"]
    assert values(timer, "RandomizedDelaySec") == ["1h"]
    (when,) = values(timer, "OnCalendar")
    assert when == ("daily" if name == "brokerd-backup" else "Wed 11:00")
