"""Our package `queue` lives one level down, so that the standard library keeps its own."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_root_shadows_no_standard_module() -> None:
    """From the repository's root, `queue` is the standard library's and ours is brokerd.queue."""
    code = (
        "import queue, sysconfig, brokerd.queue, concurrent.futures;"
        "assert queue.__file__.startswith(sysconfig.get_path('stdlib')), queue.__file__;"
        "q = queue.SimpleQueue(); q.put('intact'); print(q.get())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "intact\n", "")


def test_no_root_name_is_a_standard_module() -> None:
    """Nothing at the root can be imported in place of a module of the standard library."""
    importable = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert importable & sys.stdlib_module_names == set()
