"""CDI's upload proxy: where it is, whom it is trusted by, and whether it can be reached from here."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from migrate.model import Refused
from migrate.target.api import Object

if TYPE_CHECKING:
    import httpx2

UPLOAD = "/v1beta1/upload"
ASYNC = f"{UPLOAD}-async"
SECONDS = 30.0
STALL = 300.0  # storage that fails over takes nothing for a while, and an upload that is cut begins anew


@dataclass(frozen=True, slots=True)
class Proxy:
    """`url` without a path of CDI's; `authority` has the certificates that it is trusted by beside the system's."""

    url: str
    authority: str | None = None

    @classmethod
    def of(cls, config: Object | None, given: str | None) -> Proxy:
        """The proxy at the `given` URL, else at the one that CDI's configuration names."""
        spec, status = ((config or {}).get(part) or {} for part in ("spec", "status"))
        url = given or spec.get("uploadProxyURLOverride") or status.get("uploadProxyURL")
        if not url:
            raise Refused("CDI does not say where its upload proxy is: give its URL with --uploadproxy-url")
        if "://" not in url:
            url = f"https://{url}"
        try:
            parts = urlsplit(url)
            sound = parts.scheme == "https" and parts.hostname and not parts.username
        except ValueError:  # a [ without a ]
            sound = False
        if not sound:
            raise Refused("the URL of the upload proxy has to be https://HOST[:PORT]: correct --uploadproxy-url")
        return cls(url.partition(UPLOAD)[0].rstrip("/"), status.get("uploadProxyCA"))

    def client(self) -> httpx2.Client:
        """An HTTP/1.1 client that trusts the proxy; an answer may take as long as CDI converts the image."""
        import httpx2

        context = ssl.create_default_context()
        if self.authority:
            context.load_verify_locations(cadata=self.authority)
        return httpx2.Client(verify=context, timeout=httpx2.Timeout(SECONDS, write=STALL, read=None))

    def unreachable(self) -> str | None:
        """Why the proxy cannot be used from here, None where it answers."""
        import httpx2

        try:
            with self.client() as client:
                client.head(self.url + ASYNC, timeout=SECONDS)
        except (httpx2.HTTPError, ssl.SSLError) as error:
            return f"CDI's upload proxy {self.url} does not answer ({error}): give its URL with --uploadproxy-url"
        return None
