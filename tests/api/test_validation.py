"""Which bodies of a PUT are refused, and how."""

import json
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokerd.api.validation import Invalid, Limits, Unreadable, check_id, read_spec
from brokerd.domain import MetaApiPlace

LIMITS = Limits(tokens={"main"}, now=datetime(2026, 11, 21, tzinfo=UTC), can_create=True)
GOOD = {
    "spec": {
        "userId": "u-17",
        "desired": "live",
        "metaapi": {"token": "main", "accountId": "a-1", "region": "london"},
        "identity": {
            "platform": "mt5",
            "login": "5016",
            "server": "Broker-Demo 2",
            "currency": "USD",
        },
    }
}


def body_with(path, value):
    """Return a good body with one place replaced; `...` removes it."""
    body = deepcopy(GOOD)
    *outer, last = path.removeprefix("$.").split(".")
    place = body
    for name in outer:
        place = place[name]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return body


def violations(body):
    """Return what is wrong with a body, by path."""
    with pytest.raises(Invalid) as caught:
        read_spec(json.dumps(body).encode(), limits=LIMITS)
    return {each.path: each.message for each in caught.value.violations}


def test_a_minimal_body_is_enough():
    """Priority, history, staleness and labels have defaults."""
    spec = read_spec(json.dumps(GOOD).encode(), limits=LIMITS)
    assert (spec.priority, spec.sync_from, spec.max_staleness_seconds, spec.labels) == (
        "normal",
        None,
        None,
        {},
    )


def test_moments_become_utc():
    """An offset is converted, so that the same moment is the same spec."""
    east = body_with("$.spec.syncFrom", "2024-01-01T02:00:00+02:00")
    utc = body_with("$.spec.syncFrom", "2024-01-01T00:00:00Z")
    read = [read_spec(json.dumps(body).encode(), limits=LIMITS) for body in (east, utc)]
    assert read[0] == read[1]


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("$.spec", ..., "missing"),
        ("$.spec", [], "object"),
        ("$.spec.extra", 1, "not known"),
        ("$.spec.userId", "", "regex"),
        ("$.spec.userId", "a" * 129, "length"),
        ("$.spec.userId", "a\n", "control"),
        ("$.spec.userId", "a\x00", "regex"),
        ("$.spec.userId", 7, "str"),
        ("$.spec.desired", "fresh", "planned"),
        ("$.spec.desired", "dead", "enum"),
        ("$.spec.priority", "urgent", "enum"),
        ("$.spec.metaapi.token", "other", "configured"),
        ("$.spec.metaapi.accountId", "a/b", "regex"),
        ("$.spec.metaapi.region", "London", "regex"),
        ("$.spec.identity.platform", "mt6", "enum"),
        ("$.spec.identity.login", 5016, "str"),
        ("$.spec.identity.login", "x", "regex"),
        ("$.spec.identity.server", "Broker\n", "control"),
        ("$.spec.identity.server", " x", "regex"),
        ("$.spec.identity.currency", "", "regex"),
        ("$.spec.identity.currency", ..., "missing"),
        ("$.spec.syncFrom", "2024-01-01T00:00:00", "timezone"),
        ("$.spec.syncFrom", "yesterday", "RFC3339"),
        ("$.spec.syncFrom", "2027-01-01T00:00:00Z", "between"),
        ("$.spec.syncFrom", "1969-01-01T00:00:00Z", "between"),
        ("$.spec.syncFrom", "0001-01-01T00:00:00+05:00", "between"),
        ("$.spec.maxStalenessSeconds", 0, ">= 1"),
        ("$.spec.maxStalenessSeconds", 1.5, "int"),
        ("$.spec.labels", {"": "x"}, "regex"),
        ("$.spec.labels", {"tier": 1}, "str"),
        ("$.spec.labels", {"tier": "a" * 257}, "length"),
        ("$.spec.labels", {f"l{n}": "" for n in range(33)}, "length"),
        ("$.spec.labels", None, "object"),
    ],
    ids=lambda part: str(part)[:40],
)
def test_one_violation(path, value, says):
    """Each fault is named with its path, and alone."""
    found = violations(body_with(path, value))
    assert list(found) == [path]
    assert says in found[path]


def test_a_control_character_in_a_label_is_named():
    """The path leads to the label."""
    assert list(violations(body_with("$.spec.labels", {"tier": "x\n"}))) == ["$.spec.labels.tier"]


def test_an_account_is_created_only_where_its_password_can_be_sealed():
    """Without an account id the spec asks for a new one, for which a password must wait."""
    body = json.dumps(body_with("$.spec.metaapi.accountId", None)).encode()
    assert read_spec(body, limits=LIMITS).metaapi == MetaApiPlace(token="main", region="london")
    with pytest.raises(Invalid, match=r"without \[secrets\] keys brokerd creates none"):
        read_spec(body, limits=replace(LIMITS, can_create=False))


def test_all_violations_come_at_once():
    """Faults of form and of sense are told together."""
    body = body_with("$.spec.desired", "fresh")
    body["spec"]["metaapi"] = {"token": "other", "accountId": "a/b", "region": 1}
    body["spec"]["identity"] = []
    body["spec"]["syncFrom"] = "2030-01-01T00:00:00Z"
    body["more"] = 1
    assert set(violations(body)) == {
        *("$.more", "$.spec.desired", "$.spec.metaapi.token", "$.spec.metaapi.accountId"),
        *("$.spec.metaapi.region", "$.spec.identity", "$.spec.syncFrom"),
    }


def test_violations_are_bounded():
    """A hostile body does not make a huge answer."""
    body = deepcopy(GOOD)
    body["spec"] |= {f"x{n}": 1 for n in range(500)}
    assert len(violations(body)) == 100


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"nope", b'{"spec": "\\ud800"}', b"\xff\xfe", b"[" * 50_000, b'{"a":1}x'],
    ids=["empty", "cut", "word", "surrogate", "bytes", "deep", "more"],
)
def test_what_is_no_json(raw):
    """It is told apart from a wrong body."""
    with pytest.raises(Unreadable):
        read_spec(raw, limits=LIMITS)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_nothing_else_is_raised(value):
    """Any JSON at any place is either fine or named."""
    for body in (value, {"spec": value}, {"spec": {**GOOD["spec"], "labels": value}}):
        try:
            read_spec(json.dumps(body).encode(), limits=LIMITS)
        except (Invalid, Unreadable):
            continue


@pytest.mark.parametrize("value", ["", ".", "..", "a/b", "a:b", "a b", "ä", "a\n", "a" * 129, "-a"])
def test_ids_that_are_refused(value):
    """An id is safe in a path, and leaves the colon to verbs."""
    with pytest.raises(Invalid):
        check_id(value, path="$")


@pytest.mark.parametrize("value", ["a", "u-17-main", "a.b_c~d@e", "A" * 128])
def test_ids_that_are_taken(value):
    """What people use as ids is fine."""
    check_id(value, path="$")
