"""Paths as the reference's routers treat them (spec 06 §1.3, §1.4): cleaning, redirects, decoding of parts."""

from __future__ import annotations

import posixpath
from typing import Any
from urllib.parse import quote

SAFE = "/-_.~$&+,:;=@"  # what the reference leaves as it is when it writes a path


def cleaned(path: str) -> str:
    """`path` without `//`, `.` and `..`, with a leading slash; a trailing slash stays."""
    if path.startswith("/") and "//" not in path and "/." not in path:
        return path
    clean = posixpath.normpath("/" + path.lstrip("/"))
    ends_in_slash = path.endswith("/")
    return clean + "/" if ends_in_slash and clean != "/" else clean


def location(path: str, environ: dict[str, Any]) -> str:
    """The relative reference to `path` with the request's query."""
    query = environ.get("QUERY_STRING", "")
    mark = "?" if query or environ.get("endpoint.bare_query") else ""
    return quote(path.encode("latin-1"), safe=SAFE) + mark + query


def text(part: str) -> str:
    """A part of a path as text: WSGI hands bytes over as Latin-1."""
    return part if part.isascii() else part.encode("latin-1").decode("utf-8", "replace")
