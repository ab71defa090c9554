"""A fingerprint of the rules of the legacy iptables back end, without a fork.

The legacy back end has no generation number as nf_tables has, but hands out its tables by getsockopt. They are read
and hashed without their packet counters. Matches that keep a state inside (such as `limit`) may change the fingerprint
for nothing, which only costs a listing.

Source: linux/netfilter_ipv4/ip_tables.h, linux/netfilter_ipv6/ip6_tables.h (64-bit layout).
"""

from __future__ import annotations

import ctypes
import hashlib
import socket
import struct

from services.init.rules import Family

_GET_INFO, _GET_ENTRIES = 64, 65
_INFO = struct.Struct("=32sI5I5III")  # name, valid_hooks, hook_entry, underflow, num_entries, size
_HEADER_BYTES = 40  # struct ipt_get_entries before its entries
_COUNTER_BYTES = 16
# family -> (socket family, level, offset of next_offset, offset of the counters) in an entry
_LAYOUT: dict[Family, tuple[int, int, int, int]] = {
    4: (socket.AF_INET, socket.IPPROTO_IP, 90, 96),
    6: (socket.AF_INET6, socket.IPPROTO_IPV6, 142, 152),
}
_libc = ctypes.CDLL(None, use_errno=True)


def fingerprint(families: tuple[Family, ...]) -> bytes | None:
    """Changes when a rule in filter (both families) or nat (IPv4) changes; None when the kernel does not tell."""
    if struct.calcsize("P") != 8:
        return None
    digest = hashlib.blake2b(digest_size=16)
    try:
        for family in families:
            for table in (b"filter", b"nat") if family == 4 else (b"filter",):
                digest.update(_entries(family, table))
    except (OSError, struct.error):
        return None
    return digest.digest()


def _entries(family: Family, table: bytes) -> bytes:
    """The rules of a table with their counters zeroed. Raises OSError."""
    domain, level, next_at, counters_at = _LAYOUT[family]
    with socket.socket(domain, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW) as channel:
        info = _ask(channel, level, _GET_INFO, _INFO.pack(table, *[0] * 13))
        size = _INFO.unpack(info)[-1]
        head = struct.pack("=32sI4x", table, size)
        found = bytearray(_ask(channel, level, _GET_ENTRIES, head + bytes(size))[_HEADER_BYTES:])
    offset = 0
    while offset < size:
        found[offset + counters_at : offset + counters_at + _COUNTER_BYTES] = bytes(_COUNTER_BYTES)
        step = struct.unpack_from("=H", found, offset + next_at)[0]
        if step == 0:
            raise OSError("an entry without length")
        offset += step
    return bytes(found)


def _ask(channel: socket.socket, level: int, option: int, request: bytes) -> bytes:
    """getsockopt with a request in its buffer, which Python's own cannot do."""
    buffer = ctypes.create_string_buffer(request, len(request))
    length = ctypes.c_uint32(len(request))
    if _libc.getsockopt(channel.fileno(), level, option, buffer, ctypes.byref(length)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, "getsockopt")
    return buffer.raw[: length.value]
