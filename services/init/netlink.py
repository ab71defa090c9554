"""What the kernel tells without a program: changes of the rule set, its generation, default route, one host route.

`generation` answers in microseconds whether any rule of the nf_tables back end changed since the last look, so that
the periodic check costs a fork only when something did change; `subscribe` lets the kernel say so at once. The routes
are asked by netlink as well, because the text of `ip route` differs between versions and the tool is missing on small
hosts.

Sources: linux/netlink.h, linux/rtnetlink.h, linux/netfilter/nfnetlink.h, nf_tables.h (NFT_MSG_GETGEN).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

_NETLINK_ROUTE, _NETLINK_NETFILTER = 0, 12
_REQUEST, _ACK, _DUMP, _CREATE, _EXCL = 0x01, 0x04, 0x300, 0x400, 0x200
_ERROR, _DONE = 2, 3
_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26
_GETGEN = (10 << 8) | 16
_GEN_ID = 1
_NFT_GROUP = 7  # NFNLGRP_NFTABLES
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_TABLE = 1, 4, 5, 15
_TABLE_MAIN, _PROTO_BOOT, _SCOPE_LINK, _UNICAST = 254, 3, 253, 1
_HEADER = struct.Struct("=IHHII")
_RTMSG = struct.Struct("=BBBBBBBBI")
_TIMEOUT_SECONDS = 2.0


def _exchange(protocol: int, kind: int, flags: int, body: bytes) -> Iterator[tuple[int, bytes]]:
    """Send one request; yield (type, payload) of each answer until the end. Raises OSError for a kernel error."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol) as channel:
        channel.settimeout(_TIMEOUT_SECONDS)
        channel.bind((0, 0))
        channel.send(_HEADER.pack(_HEADER.size + len(body), kind, flags | _REQUEST, 1, 0) + body)
        while True:
            data = channel.recv(1 << 16)
            offset = 0
            while offset + _HEADER.size <= len(data):
                length, answer, answer_flags, _, _ = _HEADER.unpack_from(data, offset)
                payload = data[offset + _HEADER.size : offset + length]
                offset += (length + 3) & ~3
                if answer == _DONE:
                    return
                if answer == _ERROR:
                    code = -struct.unpack_from("=i", payload)[0]
                    if code:
                        raise OSError(code, os.strerror(code))
                    return
                yield answer, payload
                if not answer_flags & 0x02:  # not a part of a dump: the only answer
                    return


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    offset = 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def generation() -> int | None:
    """Number of the current nf_tables rule set of this network namespace; None when the kernel does not tell.

    Every commit to any table changes it, those of `iptables` with the nf_tables back end included; changes made by the
    legacy back end do not.
    """
    try:
        for _, payload in _exchange(_NETLINK_NETFILTER, _GETGEN, 0, struct.pack("!BBH", 0, 0, 0)):
            value = _attributes(payload[4:]).get(_GEN_ID)
            return struct.unpack("!I", value)[0] if value else None
    except OSError:
        return None
    return None


def subscribe() -> socket.socket | None:
    """A socket that has something to read after each change of the nf_tables rule set; None when the kernel refuses.

    Hearing of nothing is no proof that nothing changed: the legacy back end tells nobody, and an overrun loses messages
    (recv then raises ENOBUFS, which is as good a sign as any message).
    """
    channel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    try:
        channel.bind((0, 1 << (_NFT_GROUP - 1)))
    except OSError:
        channel.close()
        return None
    return channel


def has_ipv4_default_gateway() -> bool:
    """Whether the main table has an IPv4 default route with a gateway of its own (spec 09 §6.2).

    A default without gateway, with several next hops or with an IPv6 next hop does not count, as in the reference.
    """
    request = _RTMSG.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)
    for kind, payload in _exchange(_NETLINK_ROUTE, _GETROUTE, _DUMP, request):
        if kind != _NEWROUTE:
            continue
        found = _attributes(payload[_RTMSG.size :])
        table = struct.unpack("=I", found[_RTA_TABLE])[0] if _RTA_TABLE in found else payload[4]
        if table == _TABLE_MAIN and payload[1] == 0 and _RTA_GATEWAY in found:
            return True
    return False


def _host_route(address: str, device: str) -> bytes:
    head = _RTMSG.pack(socket.AF_INET, 32, 0, 0, _TABLE_MAIN, _PROTO_BOOT, _SCOPE_LINK, _UNICAST, 0)
    index = socket.if_nametoindex(device)
    return head + struct.pack("=HH4s", 8, _RTA_DST, socket.inet_aton(address)) + struct.pack("=HHI", 8, _RTA_OIF, index)


def add_host_route(address: str, device: str) -> bool:
    """`ip route add ADDRESS/32 dev DEVICE scope link`. False when it is there already; raises OSError otherwise."""
    try:
        list(_exchange(_NETLINK_ROUTE, _NEWROUTE, _ACK | _CREATE | _EXCL, _host_route(address, device)))
    except OSError as error:
        if error.errno == errno.EEXIST:
            return False
        raise
    return True


def delete_host_route(address: str, device: str) -> bool:
    """`ip route del ADDRESS/32 dev DEVICE scope link`. False when it is not there; raises OSError otherwise."""
    try:
        list(_exchange(_NETLINK_ROUTE, _DELROUTE, _ACK, _host_route(address, device)))
    except OSError as error:
        if error.errno == errno.ESRCH:
            return False
        raise
    return True
