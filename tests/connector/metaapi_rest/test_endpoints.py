from datetime import UTC, datetime, timedelta, timezone

import pytest

from brokerd.config.settings import MetaApiSettings
from brokerd.connector.metaapi_rest import endpoints
from brokerd.errors import InvalidRequest

NOON = datetime(2024, 3, 1, 12, 0, tzinfo=UTC)
ID = "1eda642a-a9a3-457c-99af-3bc5e8d5c4c9"


def test_the_real_service_is_derived_from_its_domain() -> None:
    """Without overrides the hosts are MetaApi's; the client's domain is discovered."""
    settings = MetaApiSettings(tokens={}, domain="example.test")
    assert endpoints.provisioning_url(settings) == "https://mt-provisioning-api-v1.example.test"
    assert endpoints.configured_client_url(settings, "london") is None
    client = endpoints.discovered_client_url("found.test:8443", "london")
    assert client == "https://mt-client-api-v1.london.found.test:8443"


def test_overrides_point_anywhere() -> None:
    """Configured URLs are taken as they are, the region put in where it is asked for."""
    settings = MetaApiSettings(
        tokens={},
        provisioning_url="http://127.0.0.1:1/p/",
        client_url="http://127.0.0.1:1/c/{region}/",
    )
    assert endpoints.provisioning_url(settings) == "http://127.0.0.1:1/p"
    assert endpoints.configured_client_url(settings, "london") == "http://127.0.0.1:1/c/london"


BAD_REGIONS = ["", "evil.test/", "evil.test#", "a@b", "LONDON", "-x", "a" * 64, "lon\ndon"]


@pytest.mark.parametrize("region", BAD_REGIONS, ids=repr)
def test_a_region_cannot_send_the_token_elsewhere(region: str) -> None:
    """Only a single DNS label may stand in the host name."""
    settings = MetaApiSettings(tokens={}, client_url="https://api.{region}.test")
    with pytest.raises(InvalidRequest, match="region"):
        endpoints.configured_client_url(settings, region)
    with pytest.raises(InvalidRequest, match="region"):
        endpoints.discovered_client_url("example.test", region)


@pytest.mark.parametrize(
    "account_id", ["", ".", "..", "a/b", "a?b", "a#b", "a%2fb", "ü", "x" * 129]
)
def test_an_account_id_cannot_leave_its_path(account_id: str) -> None:
    """Ids from specs cannot reach another resource."""
    with pytest.raises(InvalidRequest, match="account id"):
        endpoints.account_path(account_id)


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        ("agiliumtrade.ai", True),
        ("localhost:8443", True),
        ("", False),
        ("evil.test/path", False),
        ("user@evil.test", False),
        ("a b", False),
    ],
)
def test_a_discovered_domain_is_a_host(domain: str, expected: bool) -> None:  # noqa: FBT001
    """What discovery returns ends in a URL too."""
    assert endpoints.is_host(domain) is expected


@pytest.mark.parametrize(
    ("start", "end", "span"),
    [
        pytest.param(
            NOON,
            NOON + timedelta(seconds=1),
            "2024-03-01T12:00:00.000Z/2024-03-01T12:00:01.000Z",
            id="whole",
        ),
        pytest.param(
            NOON + timedelta(microseconds=1_999),
            NOON + timedelta(microseconds=2_001),
            "2024-03-01T12:00:00.001Z/2024-03-01T12:00:00.003Z",
            id="within_milliseconds",
        ),
        pytest.param(
            NOON,
            NOON + timedelta(microseconds=999_001),
            "2024-03-01T12:00:00.000Z/2024-03-01T12:00:01.000Z",
            id="into_the_next_second",
        ),
        pytest.param(
            NOON.astimezone(timezone(timedelta(hours=3))),
            NOON + timedelta(seconds=1),
            "2024-03-01T12:00:00.000Z/2024-03-01T12:00:01.000Z",
            id="any_zone",
        ),
    ],
)
def test_a_span_loses_no_millisecond(start: datetime, end: datetime, span: str) -> None:
    """Bounds between two milliseconds are widened, never narrowed."""
    assert endpoints.deals_path(ID, start=start, end=end, offset=2000) == (
        f"/users/current/accounts/{ID}/history-deals/time/{span}?offset=2000&limit=1000"
    )


@pytest.mark.parametrize(("deal_id", "ticket"), [("7", "7"), ("7:IN", "7"), ("7:OUT", "7")])
def test_mt4_is_asked_by_its_ticket(deal_id: str, ticket: str) -> None:
    """The entry we append to an MT4 id means nothing to MetaApi."""
    path = endpoints.ticket_path(ID, deal_id=deal_id)
    assert path == f"/users/current/accounts/{ID}/history-deals/ticket/{ticket}"
