"""Who may call: one API key, compared in constant time."""

import hmac

from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.exceptions import NotAuthorizedException
from litestar.handlers import BaseRouteHandler

from brokerd.config.settings import Secret


class KeyGuard:
    """A Litestar guard that lets pass whoever bears the key."""

    def __init__(self, key: Secret) -> None:
        self._key = key

    def __call__(
        self, connection: ASGIConnection[BaseRouteHandler, None, None, State], _: BaseRouteHandler
    ) -> None:
        """Raise `NotAuthorizedException` unless the request bears the key."""
        scheme, _separator, given = connection.headers.get("authorization", "").partition(" ")
        expected = self._key.reveal().encode()
        is_same = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), expected)
        if scheme.lower() != "bearer" or not is_same:
            raise NotAuthorizedException
