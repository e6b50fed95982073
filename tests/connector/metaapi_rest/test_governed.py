"""F3, F4, F11 to F14, F16 and F18 over the real client: what is answered, and what we send then."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
import respx
from faulty_certificates import FAULTS, self_signed

from brokerd.config.settings import GovernorSettings
from brokerd.connector.metaapi_rest.client import MetaApiRest
from brokerd.connector.metaapi_rest.failures import DEFAULT_THROTTLE_SECONDS
from brokerd.domain import MetaApiRef
from brokerd.errors import (
    BrokerdError,
    Held,
    NotFound,
    RemoteUnavailable,
    Throttled,
    TlsInvalid,
    TopUpRequired,
    Unauthorized,
)

if TYPE_CHECKING:
    from tests.connector.metaapi_rest.conftest import Rig

START, END = datetime(2024, 3, 1, tzinfo=UTC), datetime(2024, 3, 2, tzinfo=UTC)
HTML = "<html><head><title>{}</title></head><body>nginx</body></html>"
Answer = Callable[[httpx.Request], httpx.Response]


def remote(number: int = 1, *, region: str = "london", **changes: str) -> MetaApiRef:
    """Name one of many accounts."""
    made = MetaApiRef(token="main", account_id=f"account-{number}", region=region)
    return replace(made, **changes)


async def ask(client: MetaApiRest, of: MetaApiRef | None = None) -> BrokerdError | None:
    """Ask for an account's deals; return what was raised."""
    try:
        await client.deals(of or remote(), start=START, end=END, offset=0)
    except BrokerdError as failure:
        return failure
    return None


@contextmanager
def answering(answer: Answer) -> Iterator[list[str]]:
    """Let MetaApi answer every request so; give the accounts that were asked for."""
    asked: list[str] = []

    async def respond(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path.split("/")[4])
        await asyncio.sleep(0.002)  # so that others may leave while it is under way
        return answer(request)

    with respx.mock(assert_all_called=False) as router:
        router.get(url__regex=r".*/history-deals/time/.*").mock(side_effect=respond)
        router.get(url__regex=r"http://provisioning.test/.*").mock(side_effect=respond)
        yield asked


def throttle(
    *, headers: dict[str, str] | None = None, metadata: dict[str, object] | None = None
) -> Answer:
    """Answer 429 with what is given, and nothing else."""

    def answer(_: httpx.Request) -> httpx.Response:
        body = {"error": "TooManyRequestsError", "message": "slow down", "metadata": metadata}
        return httpx.Response(429, json=body, headers=headers)

    return answer


# F11: a 429 without metadata, as HTML, with a header only.


@pytest.mark.parametrize(
    ("answer", "wait"),
    [
        (throttle(), DEFAULT_THROTTLE_SECONDS),
        (throttle(headers={"retry-after": "40"}), 40.0),
        (lambda _: httpx.Response(429, html=HTML.format(429)), DEFAULT_THROTTLE_SECONDS),
        (
            lambda _: httpx.Response(429, html=HTML.format(429), headers={"retry-after": "40"}),
            40.0,
        ),
        (lambda _: httpx.Response(429), DEFAULT_THROTTLE_SECONDS),
        (lambda _: httpx.Response(429, content=b'{"metadata":"soon"}'), DEFAULT_THROTTLE_SECONDS),
    ],
    ids=["no_metadata", "header_only", "html", "html_and_header", "empty", "odd_metadata"],
)
async def test_f11_a_429_that_says_little_is_waited_out(
    rig: "Rig", answer: Answer, wait: float
) -> None:
    """The header's wait, or the default one: raised once, and held for its account until then."""
    client = rig.client(request_attempts=1)
    with answering(answer) as asked:
        failure = await ask(client)
        assert isinstance(failure, Throttled)
        assert failure.retry_after_seconds == wait
        rig.clock.seconds += wait - 10.5 if wait > 10.5 else 0
        again = await ask(client)
        rig.clock.seconds += 60
    if wait > 10.5:  # later than a request may wait
        assert isinstance(again, Held)
        assert len(asked) == 1
    else:
        assert sum(rig.holds) >= wait
        assert len(asked) == 2


# F12: a hint in the past, our clock ten minutes ahead.


@pytest.mark.parametrize("ahead_seconds", [0.0, 600.0, -600.0])
async def test_f12_a_hint_is_read_on_the_servers_clock(rig: "Rig", ahead_seconds: float) -> None:
    """Whatever our clock shows: 30 s are 30 s, without a Date header after earlier ones."""
    client = rig.client(request_attempts=1)
    truth = rig.clock.now() - timedelta(seconds=ahead_seconds)

    def server_now() -> datetime:
        return truth + timedelta(seconds=rig.clock.seconds)

    def dated(_: httpx.Request) -> httpx.Response:
        date = format_datetime(server_now(), usegmt=True)
        return httpx.Response(200, json=[], headers={"date": date})

    with answering(dated):
        for _ in range(30):
            assert await ask(client) is None
            rig.clock.seconds += 1.37
    hint = server_now() + timedelta(seconds=30)
    retry_at = hint.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    undated = throttle(metadata={"recommendedRetryTime": retry_at, "exceededConfig": "perUser"})
    with answering(undated):
        failure = await ask(client)
    assert isinstance(failure, Throttled)
    assert failure.retry_after_seconds == pytest.approx(30.0, abs=0.8)


@pytest.mark.parametrize(
    "hint",
    [
        {"metadata": {"recommendedRetryTime": "2020-01-01T00:00:00.000Z"}},
        {"headers": {"retry-after": "0"}},
        {"headers": {"retry-after": "-20"}},
        {"headers": {"retry-after": "Wed, 01 Jan 2020 00:00:00 GMT"}},
    ],
    ids=["body_past", "zero", "negative", "date_past"],
)
async def test_f12_a_hint_in_the_past_asks_once_a_second(
    rig: "Rig", hint: dict[str, dict[str, object]]
) -> None:
    """However often links ask and retry, one request a second leaves, and not a tight loop."""
    metadata = {"exceededConfig": "perUser", **hint.get("metadata", {})}
    client = rig.client(request_attempts=3)
    with answering(throttle(headers=hint.get("headers"), metadata=metadata)) as asked:
        for _ in range(20):
            await asyncio.gather(*(ask(client, remote(number)) for number in range(5)))
        assert len(asked) >= 20
        assert rig.clock.seconds >= len(asked) - 5  # the first five were under way together


# F13: a hint six hours ahead.


async def test_f13_a_hint_of_six_hours_sends_nothing_for_six_hours(rig: "Rig") -> None:
    """Everybody of the token is told how long; other tokens go on; then one asks again."""
    client = rig.client()
    metadata = {"exceededConfig": "perUser"}
    with answering(throttle(headers={"retry-after": "21600"}, metadata=metadata)) as asked:
        failure = await ask(client)
        assert isinstance(failure, Throttled)
        assert failure.retry_after_seconds == 21_600
        for hour in range(6):
            for number in range(20):
                held = await ask(client, remote(number))
                assert isinstance(held, Held)
                assert held.retry_after_seconds == pytest.approx(21_600 - hour * 3_590)
            rig.clock.seconds += 3_590
        assert asked == ["account-1"]
        other = await ask(client, remote(9, token="other"))
        assert isinstance(other, Throttled)
    assert not rig.holds
    assert not rig.waits


# F14: 500, 502, 503, 504 as HTML, with Retry-After.


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_f14_a_5xx_in_html_is_jittered_honoured_and_broken(rig: "Rig", status: int) -> None:
    """Hints are honoured; five callers open the breaker; it half-opens for one, and closes."""
    client = rig.client(request_attempts=1)

    def fail(_: httpx.Request) -> httpx.Response:
        return httpx.Response(status, html=HTML.format(status), headers={"retry-after": "20"})

    with answering(fail) as asked:
        for number in range(5):
            failure = await ask(client, remote(number))
            assert isinstance(failure, RemoteUnavailable)
            assert failure.retry_after_seconds == 20
        held = await ask(client, remote(6))
        assert isinstance(held, Held)
        assert (held.cause, held.scope) == ("server", "client:london")
        assert held.retry_after_seconds == pytest.approx(20)
        assert len(asked) == 5
        assert isinstance(await ask(client, remote(6, region="tokyo")), RemoteUnavailable)
        rig.clock.seconds += 20
        probe = await asyncio.gather(*(ask(client, remote(number)) for number in range(10)))
        assert [type(each) for each in probe].count(RemoteUnavailable) == 1
        assert [type(each) for each in probe].count(Held) == 9
        assert len(asked) == 7
    rig.clock.seconds += 60
    with answering(lambda _: httpx.Response(200, json=[])) as asked:
        assert await asyncio.gather(*(ask(client, remote(n)) for n in range(10))) == [None] * 10
        assert len(asked) == 10


@pytest.mark.parametrize("status", [500, 503])
async def test_f14_without_a_hint_retries_are_jittered(rig: "Rig", status: int) -> None:
    """Three attempts, with waits that differ and grow."""
    client = rig.client()
    with answering(lambda _: httpx.Response(status, html=HTML.format(status))) as asked:
        assert isinstance(await ask(client), RemoteUnavailable)
    assert len(asked) == 3
    assert len(rig.waits) == 2
    assert 0 <= rig.waits[0] <= 0.25
    assert 0 <= rig.waits[1] <= 0.5


# F16, F18: an empty balance, a bad token.


def refuse_main(status: int, message: str) -> Answer:
    """Refuse the first token, serve the other."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.headers["auth-token"].startswith("other"):
            return httpx.Response(200, json=[])
        return httpx.Response(status, json={"error": "Error", "message": message})

    return answer


@pytest.mark.parametrize(
    ("status", "message", "kind", "cause"),
    [
        (401, "Authorization token is invalid or has expired.", Unauthorized, "unauthorized"),
        (403, "Your balance is insufficient. Please top up", TopUpRequired, "billing"),
        (402, "Payment required", TopUpRequired, "billing"),
        (400, "You have insufficient funds", TopUpRequired, "billing"),
    ],
)
async def test_f16_f18_a_refused_token_is_probed_four_times_an_hour(
    rig: "Rig", status: int, message: str, kind: type[BrokerdError], cause: str
) -> None:
    """Ten links ask every thirty seconds for an hour: one request in fifteen minutes.

    The links of another token are served all the while.
    """
    client = rig.client()
    with answering(refuse_main(status, message)) as asked:
        first = await ask(client, remote(0))
        assert isinstance(first, kind)
        for _ in range(119):
            rig.clock.seconds += 30
            failures = [await ask(client, remote(number)) for number in range(10)]
            held = [each for each in failures if isinstance(each, Held)]
            assert len(held) >= 9
            assert {each.cause for each in held} == {cause}
            assert await ask(client, remote(99, token="other")) is None
    assert asked.count("account-99") == 119
    assert len(asked) - 119 == 4
    assert not rig.waits


async def test_a_403_that_speaks_of_rights_is_the_accounts_own(rig: "Rig") -> None:
    """It holds nobody: a token may be good for one account and not for another."""
    client = rig.client()
    message = "You are not allowed to access this resource."
    with answering(refuse_main(403, message)) as asked:
        for number in range(5):
            await ask(client, remote(number))
        assert len(asked) == 5


async def test_a_404_says_that_everything_else_is_well(rig: "Rig") -> None:
    """An account that is gone closes what was open: MetaApi answered."""
    client = rig.client(request_attempts=1)
    with answering(lambda _: httpx.Response(503)):
        for number in range(5):
            await ask(client, remote(number))
    rig.clock.seconds += 2
    with answering(lambda _: httpx.Response(404, json={"error": "NotFoundError"})) as asked:
        for number in range(5):
            assert isinstance(await ask(client, remote(number)), NotFound)
        assert len(asked) == 5


# F3: DNS.


async def test_f3_a_name_that_does_not_resolve_is_transient(rig: "Rig") -> None:
    """Nothing is refused for good; its breaker opens for a second, and is probed."""
    client = rig.client(client_url="http://no-such-host.invalid", request_attempts=1)
    failures = [await ask(client, remote(number)) for number in range(6)]
    assert {type(each) for each in failures[:5]} == {RemoteUnavailable}
    assert isinstance(failures[5], Held)
    assert failures[5].cause == "transport"
    assert failures[5].retry_after_seconds <= 1


# F4: TLS.


@pytest.mark.parametrize("fault", FAULTS)
async def test_f4_a_bad_certificate_blocks_and_is_never_worked_around(
    rig: "Rig", fault: str, tmp_path: Path
) -> None:
    """Nothing is sent, no attempt without TLS is made, others are held, the operator is told."""
    served: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(await reader.read(100))
        writer.close()

    made = self_signed(tmp_path, fault=fault)
    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=made.server) as server:
        port = server.sockets[0].getsockname()[1]
        async with httpx.AsyncClient(verify=made.client) as http:
            rig.http = http
            client = rig.client(client_url=f"https://localhost:{port}")
            failure = await ask(client)
            held = await ask(client, remote(2))
        assert isinstance(failure, TlsInvalid)
        assert "certificate" in str(failure)
        assert isinstance(held, Held)
        assert (held.cause, held.scope) == ("tls_invalid", "client:london")
        assert 890 < held.retry_after_seconds <= 900
        assert not any(served)
    assert not rig.waits


# Credits, over the client.


@pytest.mark.parametrize(("records", "pages"), [(0, 4), (500, 1)])
async def test_a_page_is_charged_by_what_it_held(rig: "Rig", records: int, pages: int) -> None:
    """Of a second's 1000 credits a page may cost 725: four empty ones fit, or one half full."""
    rig.limits = GovernorSettings(longest_wait_seconds=5.0)
    client = rig.client()
    with answering(lambda _: httpx.Response(200, json=[{"id": str(n)} for n in range(records)])):
        for _ in range(pages):
            assert await ask(client) is None
        assert not rig.holds
        assert await ask(client) is None
        assert len(rig.holds) == 1
