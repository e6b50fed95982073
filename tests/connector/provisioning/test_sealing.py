"""Passwords while they wait, and what is left of them."""

import os
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokerd.config.settings import Secret, SecretsSettings
from brokerd.connector.provisioning.ports import Sealed
from brokerd.connector.provisioning.sealing import Vault
from brokerd.domain import Identity, LinkId, Platform

IDENTITY = Identity(platform=Platform.MT5, login="5016", server="Broker-Demo", currency="USD")
LINK = LinkId("l-1")
PASSWORD = Secret("correct horse battery")


def vault(*key_ids: str, current: str | None = None) -> Vault:
    """Build a vault whose keys differ by their ids."""
    keys = {key_id: Secret(key_id * 32) for key_id in key_ids}
    settings = SecretsSettings(keys=keys, current=current or (key_ids[-1] if key_ids else ""))
    return Vault(settings, random_bytes=os.urandom)


@given(st.text(min_size=1, max_size=128))
def test_what_is_sealed_comes_back(password):
    """Any text, for the same link."""
    safe = vault("k1")
    opened = safe.open(safe.seal(Secret(password), link_id=LINK), link_id=LINK)
    assert opened is not None
    assert opened.reveal() == password


def test_a_box_opens_for_its_link_alone():
    """Moved to the row of another link it is worthless."""
    sealed = vault("k1").seal(PASSWORD, link_id=LINK)
    assert vault("k1").open(sealed, link_id=LinkId("l-2")) is None


@pytest.mark.parametrize("place", [0, 11, 12, -1])
def test_a_box_that_was_touched_does_not_open(place):
    """Nonce, content and tag are all of one piece."""
    sealed = vault("k1").seal(PASSWORD, link_id=LINK)
    box = bytearray(sealed.box)
    box[place] ^= 1
    assert vault("k1").open(replace(sealed, box=bytes(box)), link_id=LINK) is None


@pytest.mark.parametrize("box", [b"", b"short", b"x" * 12, b"x" * 28])
def test_rubbish_does_not_open(box):
    """However short it is."""
    assert vault("k1").open(Sealed(key_id="k1", box=box), link_id=LINK) is None


def test_the_box_and_the_vault_show_nothing():
    """Neither the password nor the key is in what can be printed or stored."""
    safe = vault("k1")
    sealed = safe.seal(PASSWORD, link_id=LINK)
    shown = f"{sealed!r} {safe!r} {safe._keys!r} {sealed.box!r}"
    assert PASSWORD.reveal() not in shown
    assert "k1" * 32 not in shown
    assert PASSWORD.reveal().encode() not in sealed.box


def test_no_two_boxes_are_equal():
    """Whoever reads the database cannot tell that two links have the same password."""
    boxes = {vault("k1").seal(PASSWORD, link_id=LINK).box for _ in range(100)}
    assert len(boxes) == 100


def test_a_replaced_key_still_opens_and_never_seals():
    """What waits is opened with its own key; without it, not at all."""
    sealed = vault("k1").seal(PASSWORD, link_id=LINK)
    both = vault("k1", "k2", current="k2")
    assert both.open(sealed, link_id=LINK) == PASSWORD
    assert both.seal(PASSWORD, link_id=LINK).key_id == "k2"
    assert vault("k2").open(sealed, link_id=LINK) is None


def test_without_keys_no_password_is_taken():
    """The rest of the daemon runs all the same."""
    assert not vault().has_keys
    assert vault("k1").has_keys


def test_credentials_are_recognised_under_every_key():
    """A digest made with the old key is among those that the new configuration knows."""
    old = vault("k1").digest(IDENTITY, PASSWORD)
    both = vault("k1", "k2", current="k2")
    assert old in both.digests(IDENTITY, PASSWORD)
    assert both.digest(IDENTITY, PASSWORD) in both.digests(IDENTITY, PASSWORD)
    assert both.digest(IDENTITY, PASSWORD) != old
    assert old.startswith("k1:")


@pytest.mark.parametrize(
    "changes", [{"platform": Platform.MT4}, {"login": "5017"}, {"server": "Broker-Live"}]
)
def test_a_digest_is_of_the_whole_credentials(changes):
    """The same password elsewhere is something else; the currency is no part of it."""
    safe = vault("k1")
    digest = safe.digest(IDENTITY, PASSWORD)
    assert safe.digest(replace(IDENTITY, **changes), PASSWORD) != digest
    assert safe.digest(IDENTITY, Secret("another")) != digest
    assert safe.digest(replace(IDENTITY, currency="EUR"), PASSWORD) == digest


def test_parts_cannot_be_shifted_into_each_other():
    """Login 12 with password 3x is not login 123 with password x."""
    safe = vault("k1")
    one = safe.digest(replace(IDENTITY, login="12"), Secret("3x"))
    other = safe.digest(replace(IDENTITY, login="123"), Secret("x"))
    assert one != other


def test_sealing_and_digesting_use_keys_of_their_own():
    """And the nonce is what the randomness says it is."""
    safe = Vault(
        SecretsSettings(keys={"k": Secret("s" * 64)}, current="k"),
        random_bytes=Random(1).randbytes,
    )
    keys = safe._keys["k"]
    assert keys.sealing != keys.digesting
    assert safe.seal(PASSWORD, link_id=LINK).box[:12] == Random(1).randbytes(12)
