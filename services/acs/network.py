"""How this process reaches the control plane: which proxy, which TLS rules.

The proxy rules are the reference's, not those of the usual libraries (ECS agent behaviour, spec 01 §8.4): upper case
wins over lower case, HTTPS falls back to HTTP_PROXY, NO_PROXY knows networks. The environment is read for every
request, so that a changed drop-in works after a restart of this process only, as documented.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

# TLS 1.2 suites that the reference offers; those of TLS 1.3 are not restricted (spec 02 §1.4).
CIPHERS = ":".join(
    (
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES128-SHA256",
        "ECDHE-RSA-AES128-SHA",
        "ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-RSA-AES256-SHA",
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "AES128-GCM-SHA256",
        "AES128-SHA256",
        "AES128-SHA",
        "AES256-GCM-SHA384",
        "AES256-SHA",
    )
)
NEVER_PROXIED = ("169.254.169.254", "169.254.170.2")


def tls_context(verify: bool = True, ca_bundle: str = "") -> ssl.SSLContext:
    """TLS 1.2 or newer; the system's roots (SSL_CERT_FILE, SSL_CERT_DIR) plus `ca_bundle`. OSError for a bad bundle."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    if ca_bundle:
        context.load_verify_locations(ca_bundle)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy; `user` and `password` for Basic authentication, which needs a password."""

    host: str
    port: int
    user: str = ""
    password: str = ""

    @property
    def url(self) -> str:
        """Without credentials."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


class UnusableProxy(ValueError):
    """A proxy variable names something that cannot be used; the text names the variable."""


def proxy_for(url: str, environment: Mapping[str, str]) -> Proxy | None:
    """The proxy for a request to `url`, or None to go directly. Raises UnusableProxy."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme in ("https", "wss") else 80)
    names = ["HTTPS_PROXY", "HTTP_PROXY"] if parts.scheme in ("https", "wss") else ["HTTP_PROXY"]
    name, value = next(((n, v) for n in names if (v := _variable(environment, n))), ("", ""))
    if not value or _bypasses(host, port, _variable(environment, "NO_PROXY")):
        return None
    return _parse(name, value)


def _variable(environment: Mapping[str, str], name: str) -> str:
    return environment.get(name) or environment.get(name.lower()) or ""


def _parse(name: str, value: str) -> Proxy | None:
    parts = urlsplit(value if "://" in value else f"http://{value}")
    try:
        port = parts.port
    except ValueError:
        return None  # a value that does not parse means no proxy
    if not parts.hostname:
        return None
    if parts.scheme != "http":
        raise UnusableProxy(
            f"{name} names a proxy of the kind {parts.scheme!r}; this agent can use HTTP proxies only: "
            "write http://host:port"
        )
    return Proxy(parts.hostname, port or 80, unquote(parts.username or ""), unquote(parts.password or ""))


def _bypasses(host: str, port: int, no_proxy: str) -> bool:
    address = _address(host)
    if host == "localhost" or host in NEVER_PROXIED or (address is not None and address.is_loopback):
        return True
    return any(_matches(item.strip().lower(), host.lower(), port, address) for item in no_proxy.split(","))


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _matches(item: str, host: str, port: int, address: ipaddress.IPv4Address | ipaddress.IPv6Address | None) -> bool:
    if item in ("", "*"):
        return item == "*"
    if "/" in item:
        try:
            return address is not None and address in ipaddress.ip_network(item, strict=False)
        except ValueError:
            return False
    name, colon, wanted = item.rpartition(":")
    if colon and wanted.isdigit() and ":" not in name:
        if int(wanted) != port:
            return False
        item = name
    if address is not None:
        return item.strip("[]") == host
    if item.startswith((".", "*.")):
        return host.endswith(item.lstrip("*"))
    return host == item or host.endswith(f".{item}")
