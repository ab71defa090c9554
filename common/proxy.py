"""Which proxy a connection to AWS goes through, and the way through it (spec 02 §1.5).

The environment is read for every connection, upper case before lower case. For https an HTTP proxy serves when no HTTPS
proxy is named, except for EC2, whose client knows the HTTPS proxy only (spec 01 §8.4). http proxies are asked with
CONNECT, socks5 ones as RFC 1928 says; an https:// proxy is an error.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

T = TypeVar("T", bound=Any)

CONNECT_SECONDS = 30.0
LINK_LOCAL_SERVICES = "169.254.169.254,169.254.170.2"
NEVER_PROXIED = ("localhost", *LINK_LOCAL_SERVICES.split(","))
SOCKS = ("socks5", "socks5h")
PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}
ANSWER_BYTES = 16384  # longest head of an answer to CONNECT


def default_no_proxy(docker_socket: str) -> None:
    """Set NO_PROXY, when it is empty, to the instance metadata addresses and Docker's socket (spec 02 §1.5).

    Upper case wins, so what no_proxy says is taken along. What somebody wrote into NO_PROXY keeps its place, and the
    addresses are added; botocore, which asks them for keys, goes by no_proxy first, so that says the same.
    """
    said = os.environ.get("NO_PROXY")
    if said:
        items = {item.strip() for item in said.split(",")}
        all_items = [said, *(a for a in LINK_LOCAL_SERVICES.split(",") if a not in items and "*" not in items)]
    else:
        all_items = [LINK_LOCAL_SERVICES, docker_socket, os.environ.get("no_proxy", "")]
    os.environ["NO_PROXY"] = ",".join(filter(None, all_items))
    if "no_proxy" in os.environ:
        os.environ["no_proxy"] = os.environ["NO_PROXY"]


def proxy_for(
    scheme: str, host: str, port: int, environ: Mapping[str, str] = os.environ, fall_back: bool = True
) -> SplitResult | None:
    """The proxy for a connection to `host`, or None. A value that cannot be read means no proxy.

    `fall_back` is False for clients that do not take the HTTP proxy for https. Raises OSError for a value of HTTP_PROXY
    in a CGI program, where whoever sends a request could have put it there.
    """
    wanted = {"https": ("HTTPS_PROXY", "HTTP_PROXY") if fall_back else ("HTTPS_PROXY",)}.get(scheme, ("HTTP_PROXY",))
    values = ((name, environ.get(name) or environ.get(name.lower()) or "") for name in wanted)
    source, value = next((pair for pair in values if pair[1]), ("", ""))
    if not value or _is_local(host) or _excluded(host, port, environ.get("NO_PROXY") or environ.get("no_proxy") or ""):
        return None
    if source == "HTTP_PROXY" and environ.get("REQUEST_METHOD"):
        raise OSError("HTTP_PROXY is refused because REQUEST_METHOD is set, as in a CGI program: unset one of them")
    try:
        proxy = urlsplit(value if "://" in value else f"http://{value}")
        usable = bool(proxy.hostname) and (proxy.port is None or proxy.port > 0)
    except ValueError:  # half an IPv6 address, or a port that is no number
        return None
    return proxy if usable else None


def through_proxy(make: Callable[[dict[str, str]], T]) -> T:
    """The client of botocore that `make` gives for these proxies: those for its endpoint (spec 01 §8.4).

    botocore's own look into the environment knows no HTTP proxy for https and no networks in NO_PROXY. Only a client
    knows its endpoint, so one behind a proxy is made twice. Raises OSError as `proxy_for` does, and for a SOCKS proxy.
    """
    client = make({})
    endpoint = urlsplit(client.meta.endpoint_url)
    port = endpoint.port or PORTS[endpoint.scheme]
    proxy = proxy_for(endpoint.scheme, endpoint.hostname or "", port)
    if proxy is not None and proxy.scheme in SOCKS:
        raise OSError(
            f"{proxy_url(proxy)} cannot be used for {endpoint.hostname}: name an http:// proxy in HTTPS_PROXY"
        )
    return client if proxy is None else make({endpoint.scheme: proxy.geturl()})


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None


def _is_local(host: str) -> bool:
    address = _address(host)
    return host.lower() in NEVER_PROXIED or (address is not None and address.is_loopback)


def _excluded(host: str, port: int, no_proxy: str) -> bool:
    return any(_matches(host.lower(), port, item.strip().lower()) for item in no_proxy.split(",") if item.strip())


def _matches(host: str, port: int, item: str) -> bool:
    if item == "*":
        return True
    address = _address(host)
    if "/" in item:
        try:
            return address is not None and address in ipaddress.ip_network(item, strict=False)
        except ValueError:
            return False
    name, colon, only_port = item.rpartition(":") if not _address(item) else (item, "", "")
    if colon and only_port.isdigit():
        if int(only_port) != port:
            return False
    else:
        name = item
    if address is not None:
        return _address(name) == address
    if name.startswith(("*.", ".")):
        return host.endswith(name.lstrip("*"))
    return host == name or host.endswith(f".{name}")


def open_socket(scheme: str, host: str, port: int, seconds: float = CONNECT_SECONDS) -> socket.socket:
    """A TCP connection to `host`, through a proxy when there is one for it. Raises OSError."""
    proxy = proxy_for(scheme, host, port)
    if proxy is None:
        return _tuned(socket.create_connection((host, port), seconds))
    if proxy.scheme != "http" and proxy.scheme not in SOCKS:
        raise OSError(f"proxy scheme {proxy.scheme!r} cannot be used; write http:// or socks5://")
    sock = _tuned(socket.create_connection((proxy.hostname, proxy.port or PORTS[proxy.scheme]), seconds))
    try:
        (_connect if proxy.scheme == "http" else _socks)(sock, proxy, host, port)
    except BaseException:
        sock.close()
        raise
    return sock


def _tuned(sock: socket.socket) -> socket.socket:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return sock


def proxy_url(proxy: SplitResult) -> str:
    """The proxy without credentials."""
    name = proxy.hostname or ""
    return f"{proxy.scheme}://{f'[{name}]' if ':' in name else name}:{proxy.port or PORTS.get(proxy.scheme, 80)}"


def proxy_login(proxy: SplitResult) -> str | None:
    """`user:password` for Basic authentication; None without a password."""
    if proxy.password is None:
        return None
    return f"{unquote(proxy.username or '')}:{unquote(proxy.password)}"


def _connect(sock: socket.socket, proxy: SplitResult, host: str, port: int) -> None:
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    pair = proxy_login(proxy)
    if pair is not None:
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(pair.encode()).decode()}")
    sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
    head = b""
    while not head.endswith(b"\r\n\r\n") and len(head) < ANSWER_BYTES:
        byte = sock.recv(1)  # one at a time: what follows the head belongs to TLS
        if not byte:
            break
        head += byte
    status = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 1)[-1]
    if not status.startswith("200"):
        raise OSError(f"the proxy {proxy_url(proxy)} refused the connection to {target}: {status or 'no answer'}")


def _socks(sock: socket.socket, proxy: SplitResult, host: str, port: int) -> None:
    user, password = unquote(proxy.username or "").encode(), unquote(proxy.password or "").encode()
    sock.sendall(b"\x05\x02\x00\x02" if user else b"\x05\x01\x00")
    method = _exactly(sock, 2)[1]
    if method == 2 and user:
        sock.sendall(b"\x01" + bytes([len(user)]) + user + bytes([len(password)]) + password)
        if _exactly(sock, 2)[1] != 0:
            raise OSError(f"the proxy {proxy.hostname} refused the user name or password")
    elif method != 0:
        raise OSError(f"the proxy {proxy.hostname} offers no usable way to log in")
    name = host.encode("idna")
    sock.sendall(b"\x05\x01\x00\x03" + bytes([len(name)]) + name + port.to_bytes(2, "big"))
    _, status, _, kind = _exactly(sock, 4)
    if status != 0:
        raise OSError(f"the proxy {proxy.hostname} refused the connection: SOCKS5 status {status}")
    _exactly(sock, {1: 4, 4: 16}.get(kind) or _exactly(sock, 1)[0])
    _exactly(sock, 2)


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = sock.recv(count - len(data))
        if not chunk:
            raise OSError("the proxy closed the connection")
        data += chunk
    return data
