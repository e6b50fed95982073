"""What docs/sandbox.md lists is what the sandbox has: its control's calls and its faults."""

import re
from pathlib import Path

from brokerd.clock import SystemClock
from brokerd.sandbox.faults import FaultKind, StagedFault
from brokerd.sandbox.server import Sandbox, SandboxSettings

PAGE = (Path(__file__).parents[2] / "docs" / "sandbox.md").read_text()


async def test_every_call_of_the_control_is_listed():
    """Method and path, no more and no less."""
    router = Sandbox(SandboxSettings(), clock=SystemClock()).application().router
    served = {
        f"{route.method} {route.resource.canonical}".replace("{account_id}", "{id}")
        for route in router.routes()
        if route.resource.canonical.startswith("/control/") and route.method != "HEAD"
    }
    assert set(re.findall(r"^\| ([A-Z]+ /control/\S+) \|", PAGE, re.MULTILINE)) == served


def test_every_fault_is_listed():
    """Those of the storm, then those that are staged, each with what it does."""
    storm, staged = PAGE.split("| kind |")[1].split("| staged kind |")
    for table, kinds in ((storm, FaultKind), (staged, StagedFault)):
        rows = re.findall(r"^\| ([a-z_]+) \|", table, re.MULTILINE)
        assert rows == [kind.value for kind in kinds]
