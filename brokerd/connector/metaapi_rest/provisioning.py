"""MetaApi's provisioning side: listing, creating, deploying and removing accounts.

What is sent again by itself is only what MetaApi does once however often it is asked: an account is
created once per transaction, and an account can be undeployed or removed but once. A deployment or
another password may cost each time, so one question gets one answer.
"""

from collections.abc import Sequence

import msgspec

from brokerd.config.settings import MetaApiSettings, Secret
from brokerd.connector import wire
from brokerd.connector.governor.ports import Service
from brokerd.connector.metaapi_rest import endpoints
from brokerd.connector.metaapi_rest.failures import Answer
from brokerd.connector.metaapi_rest.hints import hinted_seconds
from brokerd.connector.metaapi_rest.transport import Request, RestPorts, Transport
from brokerd.connector.ports import PAGE_LIMIT, RemoteAccount
from brokerd.connector.provisioning.ports import Created, NewAccount, Pending
from brokerd.domain import MetaApiRef
from brokerd.errors import MalformedAnswer, NotFound

_CREATED, _PENDING, _NO_CONTENT = 201, 202, 204
_DONE = frozenset({200, _NO_CONTENT})
_JSON = {"content-type": "application/json"}


class _NewAccount(msgspec.Struct, rename="camel"):
    """The body of a creation (metaapi.md 2.2)."""

    name: str
    login: str
    password: str
    server: str
    platform: str
    region: str
    type: str
    reliability: str
    magic: int = 0


class _Password(msgspec.Struct):
    """The body of an update that changes the password alone."""

    password: str


class _CreatedRecord(msgspec.Struct):
    """The answer to a creation."""

    id: str


class MetaApiProvisioning:
    """`ProvisioningPort` on MetaApi's provisioning service."""

    def __init__(self, settings: MetaApiSettings, *, ports: RestPorts) -> None:
        """Use what `transport.open_http` opened, which stays its opener's to close."""
        self._url = endpoints.provisioning_url(settings)
        self._transport = Transport(settings, ports=ports)

    async def accounts(
        self, token: str, *, login: str | None = None, states: Sequence[str] = ()
    ) -> Sequence[RemoteAccount]:
        """List the token's accounts that match, page by page, each once.

        An account that comes or goes meanwhile shifts the others, so that one may come twice.
        """
        found: dict[str, RemoteAccount] = {}
        offset = 0
        while True:
            path = endpoints.accounts_path(offset=offset, login=login, states=states)
            request = Request(
                method="accounts",
                url=f"{self._url}{path}",
                token=token,
                service=Service.PROVISIONING,
                call=f"listing the MetaApi accounts from {offset} on (token {token!r})",
            )
            page = await self._transport.get(request, wire.accounts_from_json)
            found |= {account.account_id: account for account in page}
            offset += len(page)
            if len(page) < PAGE_LIMIT:
                return tuple(found.values())

    async def create(
        self, token: str, account: NewAccount, *, transaction_id: str
    ) -> Created | Pending:
        """Create an account, once per transaction however often it is asked."""
        request = Request(
            method="create",
            verb="POST",
            url=f"{self._url}{endpoints.ACCOUNTS_PATH}",
            token=token,
            service=Service.PROVISIONING,
            region=account.region,
            is_spending=True,
            content=_body(account),
            headers={"transaction-id": transaction_id, **_JSON},
            accepted=frozenset({_CREATED, _PENDING}),
            secret=account.password,
            call=(
                f"creating a MetaApi account for {account.login} at {account.server!r}"
                f" (token {token!r}, region {account.region!r})"
            ),
        )
        return await self._transport.send(request, _created)

    async def update(self, remote: MetaApiRef, *, password: Secret) -> None:
        """Give the account another password; MetaApi uses it from the next deployment on."""
        request = Request(
            method="update",
            verb="PUT",
            url=self._url + endpoints.account_path(remote.account_id),
            token=remote.token,
            service=Service.PROVISIONING,
            account_id=remote.account_id,
            is_spending=True,
            content=msgspec.json.encode(_Password(password=password.reveal())),
            headers=_JSON,
            accepted=_DONE,
            is_repeatable=False,
            secret=password,
            call=_call("updating the password of", remote),
        )
        await self._transport.send(request, _ignored)

    async def deploy(self, remote: MetaApiRef) -> None:
        """Start the account's terminal; returns when MetaApi agreed, not when it is up."""
        await self._order(remote, "deploy", is_spending=True, is_repeatable=False)

    async def undeploy(self, remote: MetaApiRef) -> None:
        """Stop the account's terminal; returns when MetaApi agreed."""
        await self._order(remote, "undeploy", is_spending=False, is_repeatable=True)

    async def delete(self, remote: MetaApiRef) -> None:
        """Remove the account; one that is gone already counts as removed."""
        request = Request(
            method="delete",
            verb="DELETE",
            url=self._url + endpoints.account_path(remote.account_id),
            token=remote.token,
            service=Service.PROVISIONING,
            account_id=remote.account_id,
            accepted=_DONE,
            call=_call("removing", remote),
        )
        try:
            await self._transport.send(request, _ignored)
        except NotFound:
            return

    async def _order(
        self, remote: MetaApiRef, verb: str, *, is_spending: bool, is_repeatable: bool
    ) -> None:
        request = Request(
            method=verb,
            verb="POST",
            url=f"{self._url}{endpoints.account_path(remote.account_id)}/{verb}",
            token=remote.token,
            service=Service.PROVISIONING,
            account_id=remote.account_id,
            is_spending=is_spending,
            accepted=_DONE,
            is_repeatable=is_repeatable,
            call=_call(f"{verb}ing", remote),
        )
        await self._transport.send(request, _ignored)


def _body(account: NewAccount) -> bytes:
    """Write the body where no frame of a failure will show it."""
    return msgspec.json.encode(
        _NewAccount(
            name=account.name,
            login=account.login,
            password=account.password.reveal(),
            server=account.server,
            platform=account.platform,
            region=account.region,
            type=account.type,
            reliability=account.reliability,
        )
    )


def _created(answer: Answer) -> Created | Pending:
    if answer.status == _PENDING:
        seconds = hinted_seconds(answer.headers, recommended=None, now=answer.answered_at)
        return Pending(retry_after_seconds=seconds)
    try:
        account_id = msgspec.json.decode(answer.body, type=_CreatedRecord).id
    except (ValueError, RecursionError) as error:
        raise MalformedAnswer(f"not the answer to a creation: {error}") from None
    if not endpoints.is_account_id(account_id):
        raise MalformedAnswer(f"not an account id: {account_id[:64]!r}")
    return Created(account_id=account_id)


def _ignored(_answer: Answer) -> None:
    """Read nothing: that MetaApi agreed says it all."""


def _call(what: str, remote: MetaApiRef) -> str:
    return f"{what} MetaApi account {remote.account_id} (token {remote.token!r})"
