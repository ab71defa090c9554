"""Paths as the reference's routers treat them (spec 06 §1.3, §1.4): cleaning, redirects, decoding of parts."""

from __future__ import annotations

import posixpath
import re
from urllib.parse import quote, unquote_plus

BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
SAFE = "/-_.~$&+,:;=@"  # what the reference leaves as it is when it writes a path


def cleaned(path: str) -> str:
    """`path` without `//`, `.` and `..`, with a leading slash; a trailing slash stays."""
    if path.startswith("/") and "//" not in path and "/." not in path:
        return path
    clean = posixpath.normpath("/" + path.lstrip("/"))
    ends_in_slash = path.endswith("/")
    return clean + "/" if ends_in_slash and clean != "/" else clean


def location(path: str, query: str, bare: bool = False) -> str:
    """The relative reference to `path` with the request's query; `bare` keeps a question mark without one."""
    return quote(path.encode("latin-1"), safe=SAFE) + ("?" if query or bare else "") + query


def first_values(query: str) -> dict[str, str]:
    """The first value of each key; pairs with a semicolon or a broken escape are dropped (spec 06 §3.3)."""
    found: dict[str, str] = {}
    for pair in query.split("&") if query else ():
        if pair and ";" not in pair and BAD_ESCAPE.search(pair) is None:
            key, _, value = pair.partition("=")
            found.setdefault(_unquoted(key), _unquoted(value))
    return found


def _unquoted(part: str) -> str:
    return unquote_plus(text(part), errors="replace")


def text(part: str) -> str:
    """A part of a path as text: WSGI hands bytes over as Latin-1."""
    return part if part.isascii() else part.encode("latin-1").decode("utf-8", "replace")
