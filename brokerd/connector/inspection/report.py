"""What a look at MetaApi found: each check with what was seen beside what we know of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What a check says."""

    AS_KNOWN = "as known"
    DIFFERS = "differs"  # worth a line in docs/fidelity.md, or in the configuration
    FAILED = "failed"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check. `known` is what docs/fidelity.md says the sandbox does."""

    check: str
    verdict: Verdict
    seen: str
    known: str = ""


def is_good(findings: Sequence[Finding]) -> bool:
    """Say whether everything that was checked is as known."""
    return all(each.verdict in {Verdict.AS_KNOWN, Verdict.NOT_CHECKED} for each in findings)
