"""The interfaces of another network namespace with their 64-bit counters, by netlink (spec 07 §4.4; rtnetlink(7)).

Only devices without a kind (physical ones such as an ENI) and VLANs count; the loopback device and the veth that leads
to the task endpoints do not. The namespace is entered by a worker thread that goes back before it does anything else:
setns(2) changes one thread only, and a socket stays in the namespace in which it was made.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Iterator

from gevent.monkey import get_original
from gevent.threadpool import ThreadPool

from services.telemetry.core.dockerstats import Interface

CLONE_NEWNET = 0x40000000
NETLINK_ROUTE = 0
RTM_NEWLINK, RTM_GETLINK, NLMSG_ERROR, NLMSG_DONE = 16, 18, 2, 3
NLM_F_REQUEST, NLM_F_DUMP = 0x1, 0x300
IFLA_IFNAME, IFLA_LINKINFO, IFLA_STATS64, IFLA_INFO_KIND = 3, 18, 23, 1
ARPHRD_LOOPBACK = 772
COUNTED_KINDS = ("", "vlan")
TIMEOUT_SECONDS = 2

_pool = ThreadPool(1)
_libc = ctypes.CDLL(None, use_errno=True)
_socket = get_original("socket", "socket")  # a cooperative socket must not be used outside of the hub's thread


def interfaces(pid: int, proc: str = "/proc") -> dict[str, Interface]:
    """The counted interfaces in the namespace of process `pid`, by name. Raises OSError."""
    found: dict[str, Interface] = _pool.apply(_read, (pid, proc))
    return found


def _read(pid: int, proc: str) -> dict[str, Interface]:
    ours = os.open(f"{proc}/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        theirs = os.open(f"{proc}/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(theirs)
        finally:
            os.close(theirs)
        try:
            link = _socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_ROUTE)
        finally:
            _enter(ours)
    finally:
        os.close(ours)
    with link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", TIMEOUT_SECONDS, 0))
        return dict(_dump(link))


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"setns: {os.strerror(error)}")


def _dump(link: socket.socket) -> Iterator[tuple[str, Interface]]:
    body = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, 0, 0, 0)
    link.send(struct.pack("=IHHII", 16 + len(body), RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + body)
    while True:
        for kind, message in _messages(link.recv(1 << 17)):
            if kind == NLMSG_DONE:
                return
            if kind == NLMSG_ERROR:
                code = -struct.unpack_from("=i", message)[0]
                raise OSError(code, f"listing links: {os.strerror(code)}")
            if kind == RTM_NEWLINK:
                yield from link_of(message)


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, at)
        yield kind, data[at + 16 : at + length]
        at += (length + 3) & ~3


def link_of(message: bytes) -> Iterator[tuple[str, Interface]]:
    """Name and counters of an RTM_NEWLINK message, when the link counts."""
    (link_type,) = struct.unpack_from("=H", message, 2)
    attributes = dict(_attributes(message[16:]))
    info = dict(_attributes(attributes.get(IFLA_LINKINFO, b"")))
    kind = info.get(IFLA_INFO_KIND, b"").rstrip(b"\0").decode()
    if link_type == ARPHRD_LOOPBACK or kind not in COUNTED_KINDS or IFLA_STATS64 not in attributes:
        return
    # struct rtnl_link_stats64: packets, bytes, errors, dropped, each received then sent.
    rxp, txp, rxb, txb, rxe, txe, rxd, txd = struct.unpack_from("=8Q", attributes[IFLA_STATS64])
    yield attributes[IFLA_IFNAME].rstrip(b"\0").decode(), Interface(rxb, rxp, rxe, rxd, txb, txp, txe, txd)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4:
            return
        yield kind & 0x3FFF, data[at + 4 : at + length]
        at += (length + 3) & ~3
