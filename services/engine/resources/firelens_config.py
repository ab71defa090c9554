"""The configuration file of a FireLens log router, to the byte (spec 05 §9.3). Pure.

Blocks in order: inputs, include filters, exclude filters, record modifier, external include, outputs. Each begins with
an empty line; the file ends with one newline. Options within a block are sorted by key in byte order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct

SOCKET = "/var/run/fluent.sock"
FLUENTD, FLUENTBIT = "fluentd", "fluentbit"
EXTERNAL = {FLUENTD: "/fluentd/etc/external.conf", FLUENTBIT: "/fluent-bit/etc/external.conf"}
MAIN = {FLUENTD: "/fluentd/etc/fluent.conf", FLUENTBIT: "/fluent-bit/etc/fluent-bit.conf"}
OUTPUT_KEY = {FLUENTD: "@type", FLUENTBIT: "Name"}
INCLUDE, EXCLUDE = "include-pattern", "exclude-pattern"
HEALTH_TAG, HEALTH_PORT, PORT = "firelens-healthcheck", 8877, 24224
LISTEN = {"bridge": "0.0.0.0", "awsvpc": "127.0.0.1"}  # network mode -> address; others have no port
DEFAULT_BUFFER_MB = 25
INDENT = "    "


class BadOptions(ValueError):
    """The log options of a container make no configuration; the text is the wire's."""


class Router(Struct, frozen=True, kw_only=True):
    """What the configuration depends on; `options` are the log options by container, in the definition's order."""

    type: str
    network_mode: str = "bridge"
    memory_mib: int = 0
    metadata: Mapping[str, str] | None = None  # of the record modifier; None = there is none
    external: str = ""  # path of the file to include, inside the router
    options: Mapping[str, Mapping[str, str]] = {}


def generate(router: Router) -> str:
    """The file's text. Raises BadOptions."""
    write = _fluentd if router.type == FLUENTD else _fluentbit
    return "".join(f"\n{block}\n" for block in write(router))


def output_of(router: Router, container: str) -> tuple[str, list[tuple[str, str]]]:
    """The output's type ("" when there is none) and its other options, sorted. Raises BadOptions."""
    options = dict(router.options[container])
    key = OUTPUT_KEY[router.type]
    kind = options.pop(key, "")
    others = sorted((name, value) for name, value in options.items() if name not in (INCLUDE, EXCLUDE))
    if others and not kind:
        raise BadOptions(
            f"unable to generate firelens config: unable to apply log options of container {container} to firelens "
            f"config: missing output key {key} which is required for firelens configuration of type {router.type}"
        )
    return kind, others


def _patterns(router: Router, name: str) -> Iterator[tuple[str, str]]:
    return ((c, options[name]) for c, options in router.options.items() if name in options)


def _block(head: str, *lines: str, tail: str = "") -> str:
    return "\n".join([head, *(INDENT + line for line in lines), *([tail] if tail else [])])


# -- fluent bit ----------------------------------------------------------------------------------


def _fluentbit(router: Router) -> Iterator[str]:
    megabytes = router.memory_mib // 2 if router.memory_mib >= 2 else DEFAULT_BUFFER_MB
    yield _block("[INPUT]", "Name forward", f"Mem_Buf_Limit {megabytes}MB", f"unix_path {SOCKET}")
    address = LISTEN.get(router.network_mode)
    if address:
        yield _block("[INPUT]", "Name forward", f"Listen {address}", f"Port {PORT}")
        # For a health check by TCP, which must not make log records.
        yield _block("[INPUT]", "Name tcp", f"Tag {HEALTH_TAG}", "Listen 127.0.0.1", f"Port {HEALTH_PORT}")
    for container, pattern in _patterns(router, INCLUDE):
        yield _block("[FILTER]", "Name   grep", f"Match {container}-firelens*", f"Regex  log {pattern}")
    for container, pattern in _patterns(router, EXCLUDE):
        yield _block("[FILTER]", "Name   grep", f"Match {container}-firelens*", f"Exclude log {pattern}")
    if router.metadata is not None:
        records = [f"Record {name} {value}" for name, value in sorted(router.metadata.items())]
        yield _block("[FILTER]", "Name record_modifier", "Match *", *records)
    if router.external:
        yield f"@INCLUDE {router.external}"
    if address:
        yield _block("[OUTPUT]", "Name null", f"Match {HEALTH_TAG}")
    for container in router.options:
        kind, others = output_of(router, container)
        if kind:
            lines = [f"{name} {value}" for name, value in others]
            yield _block("[OUTPUT]", f"Name {kind}", f"Match {container}-firelens*", *lines)


# -- fluentd -------------------------------------------------------------------------------------


def _fluentd(router: Router) -> Iterator[str]:
    yield _block("<source>", "@type unix", f"path {SOCKET}", tail="</source>")
    address = LISTEN.get(router.network_mode)
    if address:
        yield _block("<source>", "@type forward", f"bind {address}", f"port {PORT}", tail="</source>")
    for name, section in ((INCLUDE, "regexp"), (EXCLUDE, "exclude")):
        for container, pattern in _patterns(router, name):
            inner = [f"<{section}>", f"{INDENT}key log", f"{INDENT}pattern {pattern}", f"</{section}>"]
            yield _block(f"<filter {container}-firelens**>", "@type  grep", *inner, tail="</filter>")
    if router.metadata is not None:
        records = [f"{INDENT}{name} {value}" for name, value in sorted(router.metadata.items())]
        yield _block("<filter **>", "@type record_transformer", "<record>", *records, "</record>", tail="</filter>")
    if router.external:
        yield f"@include {router.external}"
    for container in router.options:
        kind, others = output_of(router, container)
        if kind:
            lines = [f"{name} {value}" for name, value in others]
            yield _block(f"<match {container}-firelens**>", f"@type {kind}", *lines, tail="</match>")
