"""What is shown is what was seen, on any terminal."""

import io

from rich.console import Console

from brokerd.demo.view import LINE_SECONDS, Look, View, line_of, table_of
from brokerd.sandbox.faults import FaultKind

LOOK = Look(
    stage="chaos",
    elapsed_seconds=12.0,
    phases={"queued": 15, "live": 10},
    deals=1_400,
    deals_per_second=5.25,
    latency_ms=13.4,
    by_stream=150,
    by_pull=1_250,
    faults=dict.fromkeys(FaultKind, 7),
)


def printed(look=LOOK, *, width=80):
    """Return the table as a terminal shows it."""
    console = Console(file=io.StringIO(), width=width)
    console.print(table_of(look))
    return console.file.getvalue()


def test_a_line_has_everything_in_it():
    """One line for logs and pipes."""
    line = line_of(LOOK)
    for word in ("chaos", "queued 15", "live 10", "1400 deals", "5.2/s", "13 ms", "133 faults"):
        assert word in line
    assert "\n" not in line


def test_a_table_fits_a_small_terminal():
    """With every fault in it it has no more than 24 lines of 80."""
    lines = printed().splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert all(str(kind) in " ".join(printed(width=400).split()) for kind in FaultKind)


def test_without_a_terminal_there_is_a_line_now_and_then():
    """A new stage at once, else every few seconds."""
    output = io.StringIO()
    with View(Console(file=output, force_terminal=False)) as view:
        for seconds, stage in (
            (0.0, "trading"),
            (1.0, "trading"),
            (1.5, "frozen"),
            (2.0, "frozen"),
        ):
            view.show(_at(seconds, stage))
        view.show(_at(1.5 + LINE_SECONDS, "frozen"))
    assert [line.split(" s ")[0].strip() for line in output.getvalue().splitlines()] == [
        "0.0",
        "1.5",
        "6.5",
    ]


def _at(seconds, stage):
    return Look(
        stage=stage,
        elapsed_seconds=seconds,
        phases={},
        deals=0,
        deals_per_second=0.0,
        latency_ms=None,
        by_stream=0,
        by_pull=0,
        faults={},
    )
