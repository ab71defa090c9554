"""Who this machine is, as the instance metadata service tells it (ECS agent behaviour, spec 01 §5.5, §6.2).

Nothing here fails: a value that cannot be had is empty and the log says so once. What is mandatory is decided by the
registration.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import gevent

from common.metadata import Metadata, MetadataError

log = logging.getLogger(__name__)

DOCUMENT, SIGNATURE = "dynamic/instance-identity/document", "dynamic/instance-identity/signature"
WINDOW_SECONDS = 30.0


@dataclass(frozen=True)
class Place:
    """Where the instance is. Empty where unknown."""

    instance_id: str = ""
    availability_zone_id: str = ""
    vpc_id: str = ""
    outpost_arn: str = ""


def find_place(metadata: Metadata) -> Place:
    """All values at once; the slowest decides."""
    if metadata.disabled:
        return Place()
    questions = {
        "instance_id": lambda: metadata.insist("instance-id"),
        "availability_zone_id": lambda: metadata.insist("placement/availability-zone-id"),
        "vpc_id": lambda: _vpc(metadata),
        "outpost_arn": lambda: metadata.meta("outpost-arn"),
    }
    jobs = {name: gevent.spawn(_or_empty, name, ask) for name, ask in questions.items()}
    return Place(**{name: job.get() for name, job in jobs.items()})


def _or_empty(name: str, ask: Callable[[], str]) -> str:
    try:
        return ask()
    except MetadataError as error:
        log.log(logging.DEBUG if error.status == 404 else logging.WARNING, "%s is not known: %s", name, error)
        return ""


def _vpc(metadata: Metadata) -> str:
    return metadata.insist(f"network/interfaces/macs/{metadata.insist('mac')}/vpc-id")


def identity_document(metadata: Metadata, window_seconds: float = WINDOW_SECONDS) -> tuple[str, str]:
    """The document and its signature, each "" when it cannot be had within its window.

    Without a document the signature is worthless and is not asked for.
    """
    if metadata.disabled:
        return "", ""
    signature = gevent.spawn(_keep_asking, metadata, SIGNATURE, window_seconds)
    document = _keep_asking(metadata, DOCUMENT, window_seconds)
    if not document:
        signature.kill()
        return "", ""
    return document, signature.get()


def _keep_asking(metadata: Metadata, path: str, window_seconds: float) -> str:
    end, delay = time.monotonic() + window_seconds, 0.1
    while True:
        try:
            return metadata.get(path)
        except MetadataError as error:
            if time.monotonic() + delay > end:
                log.warning("the instance identity is sent without its %s: %s", path.rpartition("/")[2], error)
                return ""
        gevent.sleep(delay + random.uniform(0.0, 0.2 * delay))
        delay = min(5.0, delay * 2)


def region(metadata: Metadata, without_document: bool) -> str:
    """The region of the instance, "" when metadata cannot tell."""
    try:
        if without_document:
            return metadata.meta("placement/region")
        return str(json.loads(metadata.get(DOCUMENT)).get("region", ""))
    except (MetadataError, ValueError, AttributeError) as error:
        log.warning("the region is not configured and metadata does not tell it: %s", error)
        return ""
