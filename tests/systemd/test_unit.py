"""The unit is what systemd understands, and agrees with the configuration it starts."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from brokerd.app.run import EXIT_RECYCLE
from brokerd.config.rules import UNIT_STOP_SECONDS
from brokerd.config.settings import DEFAULT_PATH

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "systemd" / "brokerd.service"
EXAMPLE = ROOT / "config" / "brokerd.example.toml"


def _values(key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", UNIT.read_text(), re.MULTILINE)


def _verify(unit: Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    return subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )


def _copy_that_exists(folder: Path, text: str) -> Path:
    """Write the unit with a command that exists here: verify demands one."""
    copy = folder / "brokerd.service"
    copy.write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", text))
    return copy


def test_systemd_understands_every_line(tmp_path: Path) -> None:
    """Verify exits 0 and says nothing; it exits 0 on unknown keys too, and says so."""
    result = _verify(_copy_that_exists(tmp_path, UNIT.read_text()))
    assert (result.returncode, result.stderr) == (0, "")


def test_verify_would_notice(tmp_path: Path) -> None:
    """The check above is no formality: a misspelt key is reported."""
    text = UNIT.read_text().replace("WatchdogSec=", "WatchDogSeconds=")
    assert "WatchDogSeconds" in _verify(_copy_that_exists(tmp_path, text)).stderr


def test_credentials_are_those_of_the_example() -> None:
    """Every credential the example needs is loaded under the name it uses."""
    active = re.sub(r"(?m)^#.*$", "", EXAMPLE.read_text())
    needed = set(re.findall(r'credential = "([^"]+)"', active))
    assert needed == {value.partition(":")[0] for value in _values("LoadCredential")}
    assert len(needed) == 3


def test_unit_agrees_with_the_daemon() -> None:
    """Stop time, restart rule, path and notify type are what the daemon was built for."""
    assert [float(value) for value in _values("TimeoutStopSec")] == [UNIT_STOP_SECONDS]
    assert _values("RestartPreventExitStatus") == ["78"]
    recycled = [str(EXIT_RECYCLE)]
    assert _values("SuccessExitStatus") == _values("RestartForceExitStatus") == recycled
    assert (_values("Type"), _values("NotifyAccess")) == (["notify"], ["main"])
    (command,) = _values("ExecStart")
    assert command.endswith(f"brokerd run --config {DEFAULT_PATH}")


def test_user_and_folders_exist() -> None:
    """The unit's user is made by sysusers, and the credentials' folder is closed by tmpfiles."""
    (user,) = _values("User")
    assert re.search(rf"^u {user} ", (ROOT / "systemd/sysusers.conf").read_text(), re.MULTILINE)
    folders = (ROOT / "systemd/tmpfiles.conf").read_text()
    assert re.search(r"^d /etc/brokerd/credentials 0700 root root ", folders, re.MULTILINE)
