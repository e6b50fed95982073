from datetime import UTC, datetime, timedelta

import pytest

from brokerd.ledger.change import Change, Held, change_by_deal, change_by_removal, may_change

T0 = datetime(2026, 1, 1, tzinfo=UTC)
T1, T2 = T0 + timedelta(seconds=1), T0 + timedelta(seconds=2)

PRESENT = Held(content_hash=1, is_removed=False)
GONE = Held(content_hash=1, is_removed=True)


@pytest.mark.parametrize(
    ("fetched_at", "pulled_at", "expected"),
    [
        pytest.param(None, None, False, id="stream"),
        pytest.param(None, T1, False, id="stream after a pull"),
        pytest.param(T1, None, True, id="first pull"),
        pytest.param(T2, T1, True, id="later pull"),
        pytest.param(T1, T1, True, id="another part of the same pull"),
        pytest.param(T1, T2, False, id="slow pull"),
    ],
)
def test_only_the_pull_that_began_last_may_change_rows(
    fetched_at: datetime | None, pulled_at: datetime | None, *, expected: bool
) -> None:
    """The order of design.md 2: the stream inserts, pulls count by their beginnings."""
    assert may_change(fetched_at=fetched_at, pulled_at=pulled_at) is expected


@pytest.mark.parametrize(
    ("row", "content", "may", "expected"),
    [
        pytest.param(None, 1, False, Change.INSERTED, id="unknown, may not"),
        pytest.param(None, 1, True, Change.INSERTED, id="unknown"),
        pytest.param(PRESENT, 2, False, Change.KEPT, id="other content, may not"),
        pytest.param(PRESENT, 2, True, Change.REVISED, id="other content"),
        pytest.param(PRESENT, 1, True, Change.KEPT, id="equal"),
        pytest.param(GONE, 1, False, Change.KEPT, id="removed, may not"),
        pytest.param(GONE, 1, True, Change.RESTORED, id="back as it was"),
        pytest.param(GONE, 2, True, Change.RESTORED, id="back with other content"),
    ],
)
def test_a_deal_changes_a_row(
    row: Held | None, content: int, *, may: bool, expected: Change
) -> None:
    """The table of design.md 6 and 7."""
    assert change_by_deal(row, content_hash=content, may_change=may) is expected


@pytest.mark.parametrize(
    ("row", "may", "expected"),
    [
        pytest.param(None, True, Change.KEPT, id="unknown"),
        pytest.param(PRESENT, True, Change.REMOVED, id="present"),
        pytest.param(PRESENT, False, Change.KEPT, id="may not"),
        pytest.param(GONE, True, Change.KEPT, id="gone already"),
    ],
)
def test_a_removal_changes_a_row(row: Held | None, *, may: bool, expected: Change) -> None:
    """Only who may change rows removes them, and once."""
    assert change_by_removal(row, may_change=may) is expected
