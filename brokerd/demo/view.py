"""What one sees while the demo runs: a table on a terminal, a line now and then elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from brokerd.sandbox.faults import FaultKind

LINE_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look at everything; `latency_ms` is from packet to commit, None without a commit."""

    stage: str
    elapsed_seconds: float
    phases: Mapping[str, int]
    deals: int
    deals_per_second: float
    latency_ms: float | None
    by_stream: int
    by_pull: int
    faults: Mapping[FaultKind, int]


class View:
    """Shows looks on standard error, so that standard output belongs to the report."""

    def __init__(self, console: Console) -> None:
        self._console = console
        # without a refresh thread: only the main thread may start and end processes
        self._live = Live(console=console, auto_refresh=False, transient=False)
        self._line_at = float("-inf")
        self._stage = ""

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def say(self, words: str) -> None:
        """Say one thing, above the table where there is one."""
        self._console.print(words, highlight=False, markup=False, soft_wrap=True)

    def show(self, look: Look) -> None:
        """Show the newest look; without a terminal every few seconds, and each new stage."""
        if self._console.is_terminal:
            self._live.update(table_of(look), refresh=True)
        elif look.stage != self._stage or look.elapsed_seconds - self._line_at >= LINE_SECONDS:
            self._stage, self._line_at = look.stage, look.elapsed_seconds
            self.say(line_of(look))


def line_of(look: Look) -> str:
    """Put a look into one line."""
    words = [
        f"{look.elapsed_seconds:6.1f} s {look.stage}:",
        " ".join(f"{phase} {count}" for phase, count in look.phases.items()) + ";",
        f"{look.deals} deals, {look.deals_per_second:.1f}/s, {_milliseconds(look.latency_ms)};",
        f"stream {look.by_stream}, pull {look.by_pull}",
    ]
    struck = sum(look.faults.values())
    return " ".join(words) + (f"; {struck} faults" if struck else "")


def table_of(look: Look) -> Table:
    """Put a look into a table."""
    table = Table(title=f"brokerd demo · {look.stage} · {look.elapsed_seconds:.0f} s", min_width=60)
    table.add_column("what")
    table.add_column("now", justify="right")
    for phase, count in look.phases.items():
        table.add_row(f"links {phase}", str(count))
    table.add_section()
    table.add_row("deals in the ledger", str(look.deals))
    table.add_row("deals per second", f"{look.deals_per_second:.1f}")
    table.add_row("packet to commit", _milliseconds(look.latency_ms))
    table.add_row("from the stream", str(look.by_stream))
    table.add_row("found by a pull", str(look.by_pull))
    # in one cell, which wraps: a row for each kind would be higher than many terminals
    struck = [f"{kind} {count}" for kind, count in look.faults.items() if count]
    if struck:
        table.add_section()
        table.add_row("faults", ", ".join(struck))
    return table


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms"
