"""Tags of the container instance and of a task, asked of ECS on each request (spec 06 §15).

Both calls together stay below the server's write time-out, so that a slow ECS costs the tags and not the answer; the
reference retries for longer than its client can wait (W3).
"""

from __future__ import annotations

import logging
import random
import time
from dataclasses import dataclass, field

from common.model.agent import Instance
from services.endpoint.aws import Ecs, EcsError, NoAnswer
from services.endpoint.encode import Object, put

log = logging.getLogger(__name__)

TOTAL_SECONDS = 4.0
RETRIED = ("ThrottlingException", "ServerException", "LimitExceededException")
# The errors of ListTagsForResource in the ECS API reference.
DECLARED = ("AccessDeniedException", "ClientException", "ClusterNotFoundException", "InvalidParameterException",
            "ServerException")  # fmt: skip
DELAY_START, DELAY_MAXIMUM, DELAY_MULTIPLIER, DELAY_JITTER = 0.5, 10.0, 1.5, 0.1
INSTANCE_FIELD, TASK_FIELD = "ContainerInstanceTags", "TaskTags"


@dataclass
class Found:
    """Tags by field, and what went wrong."""

    tags: dict[str, dict[str, str]] = field(default_factory=dict)
    errors: list[Object] = field(default_factory=list)

    def fields(self, with_errors: bool) -> Object:
        """The fields to add to a task, in order."""
        result: Object = {}
        put(result, TASK_FIELD, self.tags.get(TASK_FIELD))
        put(result, INSTANCE_FIELD, self.tags.get(INSTANCE_FIELD))
        put(result, "Errors", self.errors if with_errors else None)
        return result


class Tags:
    """Asks ECS with the agent's credentials."""

    def __init__(self, ecs: Ecs) -> None:
        self.ecs = ecs

    def of(self, instance: Instance, task_arn: str, asking: str) -> Found:
        """The tags of both; `asking` is the container that goes into the User-Agent, "" for none."""
        found, end = Found(), time.monotonic() + TOTAL_SECONDS
        half = time.monotonic() + TOTAL_SECONDS / 2  # so that a dead first call leaves time for the second
        for name, arn, until in ((INSTANCE_FIELD, instance.arn, half), (TASK_FIELD, task_arn, end)):
            try:
                tags = self._ask(arn, instance.region, f" container/{asking}" if asking else "", until)
                found.tags[name] = dict(sorted(tags.items()))
            except _Failed as error:
                log.error("the tags of %s are missing in the task metadata: %s", arn, error)
                found.errors.append({"ErrorField": name, "ErrorMessage": str(error), "ResourceARN": arn})
        return found

    def _ask(self, arn: str, region: str, suffix: str, until: float) -> dict[str, str]:
        delay, attempt = DELAY_START, 0
        while True:
            attempt += 1
            try:
                answer = self.ecs.call("list_tags_for_resource", {"resourceArn": arn}, region,
                                       max(0.05, until - time.monotonic()), agent_suffix=suffix)  # fmt: skip
                return {t["key"]: t.get("value", "") for t in answer.get("tags") or () if t.get("key")}
            except EcsError as error:
                pause = delay * (1 + random.uniform(0, DELAY_JITTER))
                if error.code not in RETRIED or time.monotonic() + pause >= until:
                    raise _Failed(arn, attempt, _cause(error)) from error
            except NoAnswer as error:
                raise _Failed(arn, attempt, f"operation error ECS: ListTagsForResource, {error}") from error
            except Exception as error:  # whatever botocore raises: it must cost the tags, not the answer
                raise _Failed(arn, attempt, f"operation error ECS: ListTagsForResource, {error}") from error
            time.sleep(pause)
            delay = min(DELAY_MAXIMUM, delay * DELAY_MULTIPLIER)


class _Failed(Exception):
    def __init__(self, arn: str, attempts: int, cause: str) -> None:
        super().__init__(f"GetResourceTags failed for {arn} after {attempts} attempts: {cause}")


def _cause(error: EcsError) -> str:
    """In the words of the reference's SDK, which names errors that the operation does not declare in another way."""
    declared = "" if error.code in DECLARED else "api error "
    return (f"operation error ECS: ListTagsForResource, https response error StatusCode: {error.status}, "
            f"RequestID: {error.request_id}, {declared}{error.code}: {error.message}")  # fmt: skip
