"""The command that audits: whom it asks, how long it follows, and what it prints."""

import io
from datetime import UTC, datetime

import msgspec
import pytest
from rich.console import Console

from brokerd.api.operation_bodies import (
    AuditBody,
    DifferenceBody,
    OperationBody,
    OperationProblemBody,
    ProgressBody,
    WaitingBody,
)
from brokerd.app.audit import Audited, _begin, _Follower, _live_links, table_of
from brokerd.clock import SystemClock
from brokerd.domain import LinkId, Phase, Proof
from brokerd.errors import ControlRefused, ControlUnavailable
from brokerd.operations import OperationFailure, OperationKind, OperationState

pytestmark = pytest.mark.looptime
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def body(**fields):
    """Build an operation that waits."""
    values = {
        "id": "o-1",
        "kind": OperationKind.AUDIT,
        "link_id": "l-1",
        "state": OperationState.PENDING,
        "asked_at": NOON,
        "started_at": None,
        "finished_at": None,
        "expires_at": NOON,
        "waiting_for": None,
        "progress": ProgressBody(windows_read=2, windows_left=7, note=""),
        "result": None,
        "problem": None,
    }
    return OperationBody(**{**values, **fields})


def ended(proof=Proof.PROVEN, **fields):
    """Build an operation that is done."""
    result = AuditBody(
        proof=proof,
        detail="101 deals",
        windows=9,
        inserted=1,
        revised=2,
        missing=3,
        false_receipts=4,
        difference=DifferenceBody(balance="-12.5", credit="0", currency="USD"),
    )
    return body(state=OperationState.DONE, finished_at=NOON, result=result, **fields)


class Api:
    """A control API that answers as told, the last answer again and again."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    async def audit(self, link_id):
        """Start an audit, or refuse."""
        self.asked.append(link_id)
        return self._answer()

    async def operation(self, operation_id):
        """Show it."""
        self.asked.append(operation_id)
        return self._answer()

    def _answer(self):
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def printed(*audited):
    """Return the table as it is printed into a file, its words parted by one space."""
    console = Console(file=io.StringIO(), width=160)
    console.print(table_of(audited))
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]


def follower(api, *, wait_seconds=600.0):
    """Build one on virtual time."""
    return _Follower(api, clock=SystemClock(), wait_seconds=wait_seconds)


async def test_it_follows_until_all_ended():
    """What ended is not asked for again."""
    api = Api(body(), body(state=OperationState.RUNNING), ended())
    done = Audited(link_id=LinkId("l-0"), operation=ended(id="o-0"))
    found = await follower(api).follow([done, Audited(link_id=LinkId("l-1"), operation=body())])
    assert [each.is_proven for each in found] == [True, True]
    assert api.asked == ["o-1"] * 3


async def test_it_gives_up_when_the_wait_is_over(capsys):
    """It says so and how far all was; the audits go on."""
    waiting = [Audited(link_id=LinkId("l-1"), operation=body())]
    (found,) = await follower(Api(body()), wait_seconds=30.0).follow(waiting)
    assert not found.is_ended
    said = capsys.readouterr().err
    assert "0 of 1 audits ended, 7 windows to read" in said
    assert "still open go on" in said


async def test_a_node_that_restarts_is_followed_again():
    """Half a minute without an answer is borne, two minutes are not."""
    away = ControlUnavailable("away")
    waiting = [Audited(link_id=LinkId("l-1"), operation=body())]
    (found,) = await follower(Api(*[away] * 30, ended())).follow(waiting)
    assert found.is_proven
    with pytest.raises(ControlUnavailable):
        await follower(Api(away)).follow(waiting)


async def test_one_refusal_stops_no_other():
    """Of several links those that refuse are shown; a single one is an error of the command."""
    api = Api(ControlRefused("no link l-1 is registered"), body(), ControlUnavailable("away"))
    found = await _begin(api, [LinkId("l-1"), LinkId("l-2"), LinkId("l-3")])
    assert [each.problem for each in found] == ["no link l-1 is registered", "", "away"]
    assert [each.is_ended for each in found] == [True, False, True]
    with pytest.raises(ControlRefused):
        await _begin(Api(ControlRefused("no")), [LinkId("l-1")])


async def test_the_live_links_of_the_node_are_chosen(capsys):
    """Those of other nodes are theirs; ours that are not live are named."""

    def link(link_id, node, phase):
        shown = {"node": node, "phase": phase}
        return msgspec.defstruct("L", ["id", "status"])(
            link_id, msgspec.defstruct("S", list(shown))(*shown.values())
        )

    class Fleet:
        async def links(self):
            return [
                link("a", "n-1", Phase.LIVE),
                link("b", "n-1", Phase.SYNCING),
                link("c", "n-2", Phase.LIVE),
                link("d", None, Phase.PAUSED),
            ]

    assert await _live_links(Fleet(), node="n-1") == ["a"]
    assert "not live, so not audited: b (syncing)" in capsys.readouterr().err
    assert await _live_links(Fleet(), node="n-3") == []
    assert "node n-3 has no live link" in capsys.readouterr().err


def test_a_result_is_a_row_of_figures():
    """Proof, exact difference, and what was found; credit only when it differs."""
    lines = printed(Audited(link_id=LinkId("l-1"), operation=ended(Proof.MISMATCH)))
    assert "l-1 mismatch -12.5 USD 9 1 2 3 4 101 deals" in lines
    both = DifferenceBody(balance="1", credit="-2", currency="USD")
    result = msgspec.structs.replace(ended().result, difference=both)
    done = msgspec.structs.replace(ended(), result=result)
    lines = printed(Audited(link_id=LinkId("l-1"), operation=done))
    assert any("1 USD, credit -2" in line for line in lines)


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        (
            body(waiting_for=WaitingBody(phase=Phase.PAUSED, reason="Paused", message="")),
            "l-1 pending 2 the link is paused; operation o-1",
        ),
        (
            body(
                state=OperationState.RUNNING,
                progress=ProgressBody(windows_read=9, windows_left=0, note="mismatch 1 of 3: [x]"),
            ),
            "l-1 running 9 mismatch 1 of 3: [x]; operation o-1",
        ),
        (
            body(
                state=OperationState.FAILED,
                finished_at=NOON,
                problem=OperationProblemBody(
                    type="/problems/expired", title="Too late", reason=OperationFailure.EXPIRED
                ),
            ),
            "l-1 failed 2 Too late",
        ),
        (None, "l-1 not audited no such link"),
    ],
    ids=["waiting", "running", "failed", "refused"],
)
def test_what_has_no_result_says_why(operation, words):
    """In the row itself, with where to look later."""
    problem = "" if operation else "no such link"
    each = Audited(link_id=LinkId("l-1"), operation=operation, problem=problem)
    assert words in printed(each)
    assert not each.is_proven
