"""Tags of the EC2 instance, for ECS_CONTAINER_INSTANCE_PROPAGATE_TAGS_FROM=ec2_instance (spec 01 §7.4).

One signed call of the EC2 query API (version 2016-11-15), so that the EC2 model of 2 MB need not be loaded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from urllib.parse import urlencode, urlsplit
from xml.etree import ElementTree

import gevent
import urllib3

from common.backoff import Backoff
from common.discovery import regional
from common.errors import Temporary
from common.metadata import Metadata, MetadataError
from common.own_keys import OwnCredentials
from common.proxy import proxy_for
from common.sigv4 import DEFAULT_PORTS, host_of, sign
from common.trust import tls_context
from services.acs.ecs import pool_through
from services.acs.identity import Place
from services.acs.settings import Settings
from services.acs.words import explain

log = logging.getLogger(__name__)

CALL_SECONDS = 42.0
RESERVED = "aws:"  # tags of AWS itself, by key or value


def sure_tags(
    ask: Callable[[str], dict[str, str]],
    metadata: Metadata,
    place: Place,
    not_ready: Callable[[str], object],
    wait: Callable[[float], bool],
) -> tuple[Place, dict[str, str]] | None:
    """The tags that `ask` tells for the instance's id, and the place with that id, however late it becomes known.

    Without these tags the instance must not be registered, so they are asked for until they come. None when the process
    is to stop: `wait(seconds)` is False then.
    """
    backoff = Backoff(1.0, 30.0)
    while True:
        try:
            if not place.instance_id:
                place = replace(place, instance_id=metadata.meta("instance-id"))
            return place, ask(place.instance_id)
        except (Temporary, MetadataError) as error:
            not_ready(f"the tags of the instance are not known: {error}")
            if not wait(backoff.delay()):
                return None


def instance_tags(settings: Settings, credentials: OwnCredentials, instance_id: str, at: float) -> dict[str, str]:
    """The tags of the instance that may be passed on; `at` is the Unix time by AWS's clock. Raises Temporary."""
    if not instance_id:
        raise Temporary("the tags of the instance cannot be asked for: its id is not known")
    # Dual-stack only where there is no IPv4, whatever AWS_USE_DUALSTACK_ENDPOINT says (spec 01 §8.2).
    public = regional("ec2", settings.region, settings.use_fips, dual_stack=settings.ipv6_only)
    url = (settings.ec2_endpoint or public).rstrip("/") + "/"
    body = urlencode(
        {
            "Action": "DescribeTags",
            "Version": "2016-11-15",
            "MaxResults": "50",
            "Filter.1.Name": "resource-id",
            "Filter.1.Value.1": instance_id,
            "Filter.2.Name": "resource-type",
            "Filter.2.Value.1": "instance",
        }
    ).encode()
    typed = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
    signed = sign(url, settings.region, credentials.keys(), body, "POST", typed, at, "ec2")
    return read_tags(*_post(url, body, {"Host": host_of(url), **typed, **signed}, settings))


def _post(url: str, body: bytes, headers: Mapping[str, str], settings: Settings) -> tuple[int, bytes]:
    # -k does not hold for EC2 (spec 01 §4); a CA bundle does. Nor does an HTTP proxy hold for its https (§8.4).
    context = tls_context(settings.verify or True) if url.startswith("https") else None
    parts = urlsplit(url)
    port = parts.port or DEFAULT_PORTS[parts.scheme]
    late = TimeoutError(f"no answer within {CALL_SECONDS:.0f} s")
    try:
        proxy = proxy_for(parts.scheme, parts.hostname or "", port, fall_back=False)
        with gevent.Timeout(CALL_SECONDS, late):
            pool = pool_through(proxy, maxsize=1, ssl_context=context, retries=False)
            answer = pool.request("POST", url, body=body, headers=dict(headers))
            return answer.status, answer.data
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise Temporary(f"DescribeTags: EC2 at {url} cannot be reached: {error}") from error


def read_tags(status: int, data: bytes) -> dict[str, str]:
    """The tags in an answer of DescribeTags. Raises Temporary."""
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise Temporary(f"DescribeTags: HTTP status {status} and an answer that is not XML: {error}") from error
    if status != 200:
        code, text = root.findtext(".//Code") or "", root.findtext(".//Message") or ""
        raise Temporary(f"DescribeTags: {explain('DescribeTags', code, text, 'ec2')}")
    tags = {}
    for item in root.iter():
        if item.tag.rpartition("}")[2] == "item":
            fields = {child.tag.rpartition("}")[2]: child.text or "" for child in item}
            key, value = fields.get("key", ""), fields.get("value", "")
            if key and not key.lower().startswith(RESERVED) and not value.lower().startswith(RESERVED):
                tags[key] = value
    return tags
