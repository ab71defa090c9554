"""What the instance's own life means for the agent: a failed first boot, warm pools, spot interruptions.

All ask the metadata service (ECS agent behaviour, spec 01 §5.2, §5.7, §5.9).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

from common.errors import AgentError, Temporary, Terminal
from common.metadata import Metadata, MetadataError
from common.wire import ecs as wire
from services.acs.ecs import EcsClient

log = logging.getLogger(__name__)

LIFECYCLE = "autoscaling/target-lifecycle-state"
POLL_SECONDS = 60.0
FIRST_POLLS = 120
PASSING = (0, 404, 429, 500, 502, 503, 504)  # 0: no answer
SPOT_SECONDS = 1.0
SPOT_ACTIONS = ("hibernate", "terminate", "stop")

CLOUD_INIT_RESULT = "/var/lib/cloud/data/result.json"

Wait = Callable[[float], bool]  # sleeps; False when the process is to stop


def check_first_boot(metadata: Metadata, path: str = CLOUD_INIT_RESULT) -> None:
    """Raise Terminal when cloud-init found no data source although there is user data: the set-up did not happen."""
    try:
        with open(path, encoding="utf-8") as file:
            source = json.load(file)["v1"]["datasource"]
        user_data = metadata.get("user-data") if source == "DataSourceNone" else ""
    except (OSError, ValueError, KeyError, TypeError, MetadataError):
        return  # no statement of cloud-init, or no user data: nothing was missed
    if user_data:
        raise Terminal(
            f"cloud-init ran without a data source ({path}), so this instance's user data was not applied. Reboot it, "
            "or replace it"
        )


def wait_for_service(metadata: Metadata, wait: Wait) -> None:
    """Return when Auto Scaling has put the instance into service. Raises Terminal when it never will."""
    if metadata.disabled:
        return
    state, polls = "", 0
    while state != "InService":
        if polls:
            log.info("the instance is in a warm pool (%s); registration waits", state or "state unknown")
            if not wait(POLL_SECONDS):
                raise Temporary("the wait for the warm pool was given up because the process is to stop")
        polls += 1
        try:
            state = metadata.insist(LIFECYCLE)
        except MetadataError as error:
            if error.status not in PASSING or (not state and polls >= FIRST_POLLS):
                raise Terminal(
                    f"ECS_WARM_POOLS_CHECK is on, but the lifecycle state cannot be read: {error}"
                ) from error


def watch_spot(metadata: Metadata, api: EcsClient, cluster: str, instance_arn: Callable[[], str], wait: Wait) -> None:
    """Drain the instance once when EC2 announces its interruption."""
    while True:
        if _is_interrupted(metadata) and _drain(api, cluster, instance_arn()):
            return
        if not wait(SPOT_SECONDS):
            return


def _is_interrupted(metadata: Metadata) -> bool:
    try:
        text = metadata.meta("spot/instance-action")
    except MetadataError as error:
        if error.status != 404:
            log.debug("the spot interruption notice cannot be read: %s", error)
        return False
    try:
        notice: dict[str, Any] = {k.lower(): v for k, v in json.loads(text).items()}
    except (ValueError, AttributeError):
        log.error("the spot interruption notice is not understood: %.200s", text)
        return False
    if notice.get("action") not in SPOT_ACTIONS:
        log.error("the spot interruption notice names the unknown action %r", notice.get("action"))
        return False
    log.warning("EC2 will %s this spot instance at %s; it is drained", notice["action"], notice.get("time"))
    return True


def _drain(api: EcsClient, cluster: str, arn: str) -> bool:
    try:
        api.call("UpdateContainerInstancesState", wire.update_instance_state(cluster, arn, "DRAINING"))
        return True
    except AgentError as error:
        log.error("the instance could not be set to DRAINING, and will be tried again: %s", error)
        return False
