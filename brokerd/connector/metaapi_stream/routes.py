"""Where the SDK's requests go: the URLs it builds, or the configured ones in their place."""

from urllib.parse import urlsplit

from brokerd.config.settings import MetaApiSettings

_PROVISIONING = "mt-provisioning-api-v1"
_CLIENT = "mt-client-api-v1"


class Routes:
    """Rewrites the SDK's https URLs to the servers the configuration names."""

    def __init__(self, settings: MetaApiSettings) -> None:
        self._settings = settings

    def rewrite(self, url: str) -> str:
        """Return where a request for the SDK's URL goes."""
        parts = urlsplit(url)
        service, _, rest = parts.netloc.partition(".")
        region = rest.partition(".")[0]
        base: str | None = None
        if service == _PROVISIONING:
            base = self._settings.provisioning_url
        elif service == _CLIENT and self._settings.client_url is not None:
            base = self._settings.client_url.replace("{region}", region)
        if base is None:
            return url
        return base.rstrip("/") + parts.path + (f"?{parts.query}" if parts.query else "")
