"""The ECS API as the command uses it."""

from __future__ import annotations

from typing import Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from services.local.core import laptop
from services.local.credentials import DUMMY_ACCESS_KEY, DUMMY_SECRET_KEY
from services.local.tool.settings import Problem, Settings

Json = dict[str, Any]
LOCAL_SUBNET = "subnet-local"  # the API asks for a subnet; here it leads nowhere
ERRORS = (ClientError, BotoCoreError)  # what a call may raise; `explain` puts either into words


def client(settings: Settings, read_timeout: float = 10.0, patient: bool = False) -> Any:
    """A boto3 client of the local control plane. It signs with placeholders: the caller's keys stay out of it.

    `patient`: a tree runs, so a refused connection means that its control plane is just being started again.
    """
    attempts = 6 if patient else 2
    # Without a look at AWS_PROFILE: a profile that is not there, or is broken, is no matter of this client.
    session = botocore.session.Session(session_vars={"profile": (None, None, None, None)})
    return boto3.session.Session(botocore_session=session).client(
        "ecs",
        endpoint_url=settings.endpoint,
        region_name=settings.region,
        aws_access_key_id=DUMMY_ACCESS_KEY,
        aws_secret_access_key=DUMMY_SECRET_KEY,
        config=Config(
            connect_timeout=3,
            read_timeout=read_timeout,
            retries={"total_max_attempts": attempts, "mode": "standard"},
            proxies={},
        ),
    )


def explain(error: Exception, settings: Settings) -> Problem:
    """A failed call in words for the user."""
    if isinstance(error, ClientError):
        detail = error.response["Error"]
        return Problem(f"{error.operation_name}: {detail.get('Message')} ({detail.get('Code')})")
    if isinstance(error, BotoCoreError):
        return Problem(
            f"No control plane answers at {settings.endpoint} ({type(error).__name__}). Start one with: ecs-local up"
        )
    return Problem(str(error))


def connected_instance(ecs: Any, cluster: str) -> Json | None:
    """The container instance whose agent is connected, or None."""
    arns = ecs.list_container_instances(cluster=cluster)["containerInstanceArns"]
    if not arns:
        return None
    described: Json = ecs.describe_container_instances(cluster=cluster, containerInstances=arns)
    return next((i for i in described["containerInstances"] if i["agentConnected"] and i["status"] == "ACTIVE"), None)


def run_task(ecs: Any, cluster: str, definition: Json, **more: Any) -> Json:
    """RunTask of a registered definition; one made for Fargate or awsvpc gets what the API asks for beside it."""
    if definition.get("networkMode") == "awsvpc":
        more["networkConfiguration"] = {"awsvpcConfiguration": {"subnets": [LOCAL_SUBNET]}}
    if definition.get("requiresCompatibilities") == ["FARGATE"]:
        more["launchType"] = "FARGATE"
    answer: Json = ecs.run_task(cluster=cluster, taskDefinition=definition["taskDefinitionArn"], **more)
    return answer


def replaced(ecs: Any, cluster: str, definition: Json, tasks: list[Json]) -> list[str]:
    """What the control plane replaces in a definition for the instances of these tasks, a sentence each."""
    arns = sorted({t["containerInstanceArn"] for t in tasks})
    if not arns:
        return []
    instances = ecs.describe_container_instances(cluster=cluster, containerInstances=arns)["containerInstances"]
    sentences = (laptop.fit(definition, {a["name"] for a in i["attributes"]}).replaced for i in instances)
    return list(dict.fromkeys(sentence for some in sentences for sentence in some))


def describe(ecs: Any, cluster: str, arns: list[str]) -> list[Json]:
    """The tasks, any number of them."""
    found: list[Json] = []
    for start in range(0, len(arns), 100):
        found += ecs.describe_tasks(cluster=cluster, tasks=arns[start : start + 100])["tasks"]
    return found


def task_arns(ecs: Any, cluster: str, *statuses: str, started_by: str | None = None) -> list[str]:
    """ARNs of the tasks with these desired statuses."""
    more = {"startedBy": started_by} if started_by else {}
    pages = ecs.get_paginator("list_tasks")
    return [
        arn
        for status in statuses
        for page in pages.paginate(cluster=cluster, desiredStatus=status, **more)
        for arn in page["taskArns"]
    ]


def find_task(ecs: Any, cluster: str, text: str) -> Json:
    """The task whose ARN or id is or begins with `text`; Problem (status 2) when it is none or several."""
    id_ = text.rsplit("/", 1)[-1]
    matching = [a for a in task_arns(ecs, cluster, "RUNNING", "STOPPED") if a.rsplit("/", 1)[-1].startswith(id_)]
    if len(matching) != 1:
        count = "No task" if not matching else f"{len(matching)} tasks"
        raise Problem(f"{count} in cluster {cluster} with an id that begins with {id_!r}. See: ecs-local ps --all", 2)
    return describe(ecs, cluster, matching)[0]


def short_id(arn: str) -> str:
    """The first eight digits of a task's id."""
    return arn.rsplit("/", 1)[-1][:8]
