"""Registration of this machine as a container instance (ECS agent behaviour, spec 01 §5.6, §6).

What was stored decides: the same machine registers again under its ARN, another machine (a copied disk) starts anew,
another cluster than the stored one ends the service for good. Errors that a restart would not mend end it too; any
other is retried here with back-off, because a process of this product waits instead of exiting. The ARN is saved before
the answer's attributes are checked, so that a failed check leaves no orphan behind.
"""

from __future__ import annotations

import logging
import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from msgspec.structs import replace

from common.backoff import Backoff
from common.errors import Temporary, Terminal
from common.logs import fields
from common.model.agent import Instance
from common.version import VERSION
from common.wire import ecs as wire
from services.acs.ecs import ApiError
from services.acs.identity import Place
from services.acs.instance import InstanceRecord
from services.acs.settings import Settings

log = logging.getLogger(__name__)

TRANSIENT = ("ThrottlingException", "ServerException", "LimitExceededException")
TERMINAL_CODES = ("InvalidParameterException", "ClientException")
TYPE_CHANGE = "Container instance type changes are not supported."
NO_CLUSTER = "Cluster not found."
TERMINAL_ERROR = "Received terminal error from RegisterContainerInstance call, exiting"
NON_TERMINAL_ERROR = (
    "Received non-terminal error from RegisterContainerInstance call, retrying with exponential backoff"
)
WINDOW_SECONDS = 3600.0
ATTEMPT_START, ATTEMPT_MAXIMUM = 3.0, 192.0
RETRY_START, RETRY_MAXIMUM = 0.5, 15.0  # between whole registrations, as the reference's supervisor restarts it


class Api(Protocol):
    """What a registration needs of the ECS client."""

    def call(self, operation: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """One call with the SDK's retries. Raises ApiError or Temporary."""


class AttributesRefused(Terminal):
    """ECS registered the instance without an attribute that was asked for."""


@dataclass(frozen=True)
class Offer:
    """What is registered, besides the identity."""

    attributes: Sequence[Mapping[str, str]]
    resources: Sequence[Mapping[str, Any]]
    tags: Mapping[str, str]
    gpu_ids: Sequence[str] | None = None


def restored(stored: Instance | None, settings: Settings, instance_id: str) -> Instance:
    """The instance to go on with: the stored one or a new one. Raises Terminal when the clusters differ."""
    fresh = Instance(
        revision=stored.revision if stored else 0,
        cluster=settings.cluster_name,
        ec2_instance_id=instance_id,
        region=settings.region,
        manifest_sequence=-1,
    )
    if stored is None:  # without checkpoints the store is empty after a restart of the tree, not of this process
        return replace(fresh, manifest_sequence=0) if settings.checkpoint else fresh
    if instance_id and stored.ec2_instance_id and stored.ec2_instance_id != instance_id:
        log.warning(
            "Data mismatch; saved InstanceID '%s' does not match current InstanceID '%s'. Overwriting old datafile",
            stored.ec2_instance_id, instance_id,
        )  # fmt: skip
        return fresh
    if stored.cluster and stored.cluster != settings.cluster_name:
        raise Terminal(
            f"Data mismatch; saved cluster '{stored.cluster}' does not match configured cluster "
            f"'{settings.cluster_name}'. Perhaps you want to delete the configured checkpoint file? An instance cannot "
            "move to another cluster: set ECS_CLUSTER back, or empty ECS_DATADIR to register anew"
        )
    return replace(stored, ec2_instance_id=instance_id or stored.ec2_instance_id)


class Registrar:
    """Registers until it succeeds; `wait` sleeps and answers False when the process is to stop."""

    def __init__(
        self,
        api: Api,
        record: InstanceRecord,
        settings: Settings,
        identity: Callable[[], tuple[str, str]],
        wait: Callable[[float], bool],
        complain: Callable[[str], None],
    ) -> None:
        self._api, self.record, self._settings = api, record, settings
        self._identity, self._wait, self._complain = identity, wait, complain

    def register(self, place: Place, offer: Offer) -> Instance:
        """The registered instance, saved in the record. Raises Terminal, or Temporary when the process is to stop."""
        backoff = Backoff(RETRY_START, RETRY_MAXIMUM, 2.0, 0.1)
        while True:
            try:
                return self._register(place, offer)
            except Terminal as error:
                log.error(TERMINAL_ERROR, **fields(error=str(error)))
                log.critical("Agent will terminally exit, unable to register container instance: %s", error)
                raise
            except (ApiError, Temporary) as error:
                delay = backoff.delay()
                log.error(NON_TERMINAL_ERROR, **fields(error=str(error), seconds=delay))
                self._complain(f"not registered: {error}; the next attempt follows in {delay:.0f} s")
                self._pause(delay)

    def _pause(self, seconds: float) -> None:
        if not self._wait(seconds):
            raise Temporary("the registration was given up because the process is to stop")

    def _register(self, place: Place, offer: Offer) -> Instance:
        instance = self.record.current
        if instance.arn:
            arn_and_cluster = fields(containerInstanceARN=instance.arn, cluster=instance.cluster)
            log.info("Restored from checkpoint file", **arn_and_cluster)
        else:
            log.info("Registering Instance with ECS")
        token = str(uuid.uuid4())  # one for all attempts of this registration
        try:
            answer = self._attempts(instance, offer, token)
        except ApiError as error:
            if self._settings.cluster:
                raise self._judged(error, instance) from error
            answer = self._with_default_cluster(error, instance, offer, token)
        found = answer.get("containerInstance") or {}
        arn = instance.arn or str(found.get("containerInstanceArn") or "")
        if not arn:
            raise Temporary("ECS answered the registration without a container instance ARN")
        registered = self.record.change(
            arn=arn,
            availability_zone=_value(found, "ecs.availability-zone"),
            availability_zone_id=place.availability_zone_id,
            vpc_id=place.vpc_id,
            agent_version=VERSION,
            status=str(found.get("status") or ""),
            registered_at=time.time(),
        )
        self._check(offer.attributes, found)
        log.info("Registered container instance with cluster!")
        if not instance.arn:
            done = fields(instanceArn=arn, cluster=registered.cluster)
            log.info("Instance registration completed successfully", **done)
        return registered

    def _with_default_cluster(self, first: ApiError, instance: Instance, offer: Offer, token: str) -> dict[str, Any]:
        """Second attempt of an agent without a configured cluster: make the default one if it is missing."""
        try:
            if NO_CLUSTER in first.text:  # the words count, whatever the code
                log.info("the cluster 'default' does not exist; it is created")
                self._api.call("CreateCluster", {"clusterName": "default"})
            return self._attempts(instance, offer, token)
        except ApiError as error:
            raise self._judged(error, instance) from error

    def _attempts(self, instance: Instance, offer: Offer, token: str) -> dict[str, Any]:
        """One registration, again while ECS is overloaded, for an hour at most. Raises ApiError."""
        end, delay = time.monotonic() + WINDOW_SECONDS, ATTEMPT_START
        while True:
            log.info("Remaining memory", **fields(remainingMemory=_memory(offer)))
            document, signature = self._identity()
            body = wire.register_instance(
                instance.cluster, token, document, signature, offer.attributes, offer.resources,
                instance.arn, offer.tags, offer.gpu_ids,
            )  # fmt: skip
            try:
                return self._api.call("RegisterContainerInstance", body)
            except (ApiError, Temporary) as error:
                log.error("Unable to register as a container instance with ECS", **fields(error=str(error)))
                transient = isinstance(error, ApiError) and error.code in TRANSIENT
                if not transient or time.monotonic() + delay > end:
                    raise
                log.error(NON_TERMINAL_ERROR, **fields(error=str(error), seconds=delay))
            self._pause(delay + random.uniform(0.0, 0.2 * delay))
            delay = min(ATTEMPT_MAXIMUM, delay * 2)

    def _judged(self, error: ApiError, instance: Instance) -> Exception:
        if instance.arn and TYPE_CHANGE in error.text:
            return Terminal(
                f"the type of this instance has changed since it was registered as {instance.arn}, which ECS does not "
                "allow. Empty ECS_DATADIR to register it anew"
            )
        if error.code in TERMINAL_CODES:
            return Terminal(f"ECS refuses this container instance: {error}")
        return error

    def _check(self, wanted: Sequence[Mapping[str, str]], found: Mapping[str, Any]) -> None:
        """Every attribute with a value must come back with it; names alone cannot fail, and of a name the last counts.

        ECS keeps one value per name, so an earlier one that differs is not missing.
        """
        values = {a["name"]: a.get("value", "") for a in wanted}
        missing = [name for name, value in values.items() if value != _value(found, name)]
        if missing:
            hint = " Check ECS_INSTANCE_ATTRIBUTES" if self._settings.attributes else ""
            raise AttributesRefused(f"Attribute validation failed: ECS did not keep {', '.join(missing)}.{hint}")


def _value(found: Mapping[str, Any], name: str) -> str:
    values = [e.get("value") for e in found.get("attributes") or () if isinstance(e, Mapping) and e.get("name") == name]
    return str(values[-1] or "") if values else ""


def _memory(offer: Offer) -> int:
    return sum(int(r.get("integerValue") or 0) for r in offer.resources if r.get("name") == "MEMORY")
