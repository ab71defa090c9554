"""AWS Signature Version 4, for WebSockets and API calls alike (spec 02 §1.3, spec 07 §12.3).

It is written out here because botocore's costs 9 MB of memory in a process that needs nothing else of it; the test
vectors of the specification hold for both.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, urlsplit

SERVICE = "ecs"
UNRESERVED = "-_.~"
DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}


class Keys(NamedTuple):
    """AWS credentials to sign with; `token` is empty without a session."""

    access_key: str
    secret_key: str
    token: str = ""

    def __repr__(self) -> str:
        return f"Keys({self.access_key!r})"


def host_of(url: str) -> str:
    """The Host header of `url`: with the port only when it is not the scheme's own."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return host if parts.port in (None, DEFAULT_PORTS.get(parts.scheme)) else f"{host}:{parts.port}"


def sign(
    url: str,
    region: str,
    keys: Keys,
    payload: bytes = b"",
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    at: float | None = None,
    service: str = SERVICE,
) -> dict[str, str]:
    """The headers that sign a request (AWS Signature Version 4): Authorization, X-Amz-Date, X-Amz-Security-Token.

    Host is always signed; `headers` are further ones to sign. `at` is the Unix time to sign for. A space in the query
    of `url` may be written as + or as %20: it is signed as %20, which is what the service reads out of both.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(at))
    signed = {"host": host_of(url), "x-amz-date": stamp}
    if keys.token:
        signed["x-amz-security-token"] = keys.token
    signed |= {name.lower(): " ".join(value.split()) for name, value in (headers or {}).items()}
    names = ";".join(sorted(signed))
    parts = urlsplit(url)
    canonical = "\n".join((
        method,
        quote(parts.path or "/", safe="/-_.~%"),
        _canonical_query(parts.query),
        "".join(f"{name}:{signed[name]}\n" for name in sorted(signed)),
        names,
        hashlib.sha256(payload).hexdigest(),
    ))  # fmt: skip
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = _signing_key(keys.secret_key, stamp[:8], region, service)
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    result = {
        "Authorization": f"AWS4-HMAC-SHA256 Credential={keys.access_key}/{scope}, "
        f"SignedHeaders={names}, Signature={signature}",
        "X-Amz-Date": stamp,
    }
    if keys.token:
        result["X-Amz-Security-Token"] = keys.token
    return result


def _canonical_query(query: str) -> str:
    pairs = sorted(parse_qsl(query, keep_blank_values=True))  # reads '+' as the space that it is on the request line
    return "&".join(f"{quote(k, safe=UNRESERVED)}={quote(v, safe=UNRESERVED)}" for k, v in pairs)


def _signing_key(secret: str, day: str, region: str, service: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key
