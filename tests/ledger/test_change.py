from datetime import UTC, datetime, timedelta

import pytest

from brokerd.ledger.change import Change, Held, change_by_deal, change_by_removal

T0 = datetime(2026, 1, 1, tzinfo=UTC)
T1, T2 = T0 + timedelta(seconds=1), T0 + timedelta(seconds=2)


def held(fetched_at: datetime | None, *, is_removed: bool = False) -> Held:
    """Build a row with content 1."""
    return Held(content_hash=1, fetched_at=fetched_at, is_removed=is_removed)


@pytest.mark.parametrize(
    ("row", "content", "fetched_at", "expected"),
    [
        pytest.param(None, 1, None, Change.INSERTED, id="stream, unknown"),
        pytest.param(None, 1, T1, Change.INSERTED, id="pull, unknown"),
        pytest.param(held(None), 2, None, Change.KEPT, id="stream after stream"),
        pytest.param(held(T1), 2, None, Change.KEPT, id="stream after pull"),
        pytest.param(held(T1, is_removed=True), 1, None, Change.KEPT, id="stream after removal"),
        pytest.param(held(None), 1, T1, Change.REFRESHED, id="pull confirms the stream"),
        pytest.param(held(None), 2, T1, Change.REVISED, id="pull corrects the stream"),
        pytest.param(held(T1), 2, T2, Change.REVISED, id="newer pull"),
        pytest.param(held(T1), 2, T1, Change.KEPT, id="the same pull"),
        pytest.param(held(T2), 2, T1, Change.KEPT, id="older pull"),
        pytest.param(held(T1, is_removed=True), 1, T2, Change.RESTORED, id="back again"),
        pytest.param(held(T2, is_removed=True), 2, T1, Change.KEPT, id="older than the removal"),
    ],
)
def test_a_deal_changes_a_row(
    row: Held | None, content: int, fetched_at: datetime | None, expected: Change
) -> None:
    """The table of design.md 6 and 7."""
    assert change_by_deal(row, content_hash=content, fetched_at=fetched_at) is expected


@pytest.mark.parametrize(
    ("row", "fetched_at", "expected"),
    [
        pytest.param(None, T1, Change.KEPT, id="unknown"),
        pytest.param(held(None), T1, Change.REMOVED, id="stream only"),
        pytest.param(held(T1), T2, Change.REMOVED, id="newer"),
        pytest.param(held(T2), T1, Change.KEPT, id="older"),
        pytest.param(held(T1), T1, Change.KEPT, id="the pull that has it"),
        pytest.param(held(T1), None, Change.KEPT, id="the stream may not"),
        pytest.param(held(T1, is_removed=True), T2, Change.KEPT, id="gone already"),
    ],
)
def test_a_removal_changes_a_row(
    row: Held | None, fetched_at: datetime | None, expected: Change
) -> None:
    """Only a pull that began after all that wrote the row may remove it."""
    assert change_by_removal(row, fetched_at=fetched_at) is expected
