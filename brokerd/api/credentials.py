"""Passwords over HTTP: write only. What was submitted is sealed here and never shown again."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from http import HTTPStatus

import msgspec
from litestar import Response
from litestar.params import FromPath

from brokerd.api.hints import Hints
from brokerd.api.links import ApiRequest, json_answer, read_body
from brokerd.api.money_bodies import CredentialsBody, CredentialVersionBody
from brokerd.api.ports import CredentialBook, Registry, SubmittedPassword
from brokerd.api.query import Query
from brokerd.api.snapshots import Snapshots
from brokerd.api.validation import Invalid, Unreadable, Violation, check_id
from brokerd.config.settings import Secret
from brokerd.connector.provisioning.budgets import Limit, refusal_of
from brokerd.connector.provisioning.ports import SpendReader
from brokerd.connector.provisioning.sealing import Vault
from brokerd.domain import Identity, LinkId
from brokerd.errors import KnownBadCredentials, NotFound
from brokerd.telemetry import Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Purse:
    """What an attempt with a password may cost, and what may be spent on it."""

    spend: SpendReader
    limits: Sequence[Limit]
    failed_attempt_usd: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialRoutes:
    """The handler of /v1/links/{id}/credentials."""

    registry: Registry
    book: CredentialBook
    purse: Purse
    vault: Vault
    snapshots: Snapshots
    hints: Hints
    metrics: Metrics

    async def put(self, link_id: FromPath[str], request: ApiRequest) -> Response[bytes]:
        """Take a password for the link's owner to use; known bad ones are refused."""
        check_id(link_id, path="/v1/links/{id}/credentials")
        Query(request.scope["query_string"], known=()).check()
        known, password = LinkId(link_id), _password(await read_body(request))
        if not self.vault.has_keys:
            message = "cannot be kept: brokerd has no key to seal it with; set [secrets]"
            raise Invalid([Violation(path="$.password", message=message)])
        record = await self.registry.get(known)
        if record is None or record.is_deleted:
            raise NotFound(f"no link {known} is registered")
        await self._check_budgets(known)
        submitted = self._sealed(known, record.spec.identity, password)
        try:
            result = await self.book.submit(known, submitted)
        except KnownBadCredentials:
            self.metrics.credential_cache_hits.inc()
            raise
        if result is None:
            raise NotFound(f"no link {known} is registered")
        if result.is_changed:
            await self.snapshots.forget(known)
            await self.hints.publish()
        status = HTTPStatus.ACCEPTED if result.is_changed else HTTPStatus.OK
        body = CredentialVersionBody(credential_version=result.credential_version)
        return json_answer(body, headers={}, status=status)

    async def _check_budgets(self, link_id: LinkId) -> None:
        """Refuse a password that could not even be tried now."""
        purse = self.purse
        spent = await purse.spend.spent_by(link_id, purse.limits)
        refusal = refusal_of(purse.limits, spent, cost_usd=purse.failed_attempt_usd)
        if refusal is not None:
            raise refusal

    def _sealed(self, link_id: LinkId, identity: Identity, password: Secret) -> SubmittedPassword:
        return SubmittedPassword(
            identity=identity,
            digest=self.vault.digest(identity, password),
            digests=self.vault.digests(identity, password),
            sealed=self.vault.seal(password, link_id=link_id),
        )


def _password(raw: bytes) -> Secret:
    """Read the body; no problem quotes what stands in it."""
    try:
        password = msgspec.json.decode(raw, type=CredentialsBody).password
    except msgspec.ValidationError:
        message = 'must be {"password": "…"} with 1 to 128 characters, and nothing else'
        raise Invalid([Violation(path="$", message=message)]) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise Unreadable("it is cut off or no JSON at all") from None
    if not password.isprintable():
        message = "must not hold control characters"
        raise Invalid([Violation(path="$.password", message=message)])
    return Secret(password)
