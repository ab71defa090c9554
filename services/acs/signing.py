"""Signature Version 4 (AWS General Reference) of API calls and of the ACS handshake.

Built on botocore's implementation, with the time given by the caller: the clock that signs is corrected when the
control plane says that ours is off.
"""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials

SERVICE = "ecs"


class _Signer(SigV4Auth):
    def sign(self, request: Any, at: float) -> None:
        request.context["timestamp"] = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(at))
        self._modify_request_before_signing(request)  # type: ignore[attr-defined]  # the stubs lack it
        text = self.string_to_sign(request, self.canonical_request(request))
        signature = self.signature(text, request)
        self._inject_signature_to_request(request, signature)  # type: ignore[attr-defined]


def sign(
    method: str,
    url: str,
    headers: dict[str, str],
    body: bytes,
    keys: ReadOnlyCredentials,
    region: str,
    at: float,
    service: str = SERVICE,
) -> dict[str, str]:
    """`headers` with Authorization, X-Amz-Date and, when there is one, the token. `at` is Unix seconds.

    The query of `url` must be written with %20: a plus sign would be signed as one.
    """
    request = AWSRequest(method=method, url=url, headers=headers, data=body)
    _Signer(keys, service, region).sign(request, at)
    return dict(request.headers.items())


def host_of(url: str) -> str:
    """The Host header: with a port when the URL has one that is not the scheme's."""
    parts = urlsplit(url)
    default = {"http": 80, "ws": 80, "https": 443, "wss": 443}.get(parts.scheme)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return host if parts.port in (None, default) else f"{host}:{parts.port}"
