"""The control plane's process under boto3 and a fake agent: the life of a task, and what the waiters rely on."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

import pytest
from botocore.exceptions import ClientError, WaiterError

from tests.process.local.harness import FakeAgent, Json, Plane, definition, eventually

WEB = {"containerName": "web", "runtimeId": "abc"}
SOON = {"Delay": 1, "MaxAttempts": 10}


def code(error: pytest.ExceptionInfo[ClientError]) -> tuple[str, str, int]:
    """Code, message and HTTP status of a failed call."""
    answer = error.value.response
    return answer["Error"]["Code"], answer["Error"]["Message"], answer["ResponseMetadata"]["HTTPStatusCode"]


def run(ecs: Any, **more: Any) -> str:
    """Register and run one task; its ARN."""
    ecs.register_task_definition(**definition(**more))
    answer = ecs.run_task(taskDefinition="web")
    assert answer["failures"] == []
    arn: str = answer["tasks"][0]["taskArn"]
    return arn


def test_a_task_goes_from_run_to_stopped_and_the_waiters_follow(ecs: Any, agent: FakeAgent) -> None:
    """Register, run, payload, ack, reports, stop: what boto3 sees at each step, with its own waiters."""
    arn = run(ecs, taskRoleArn="arn:aws:iam::000000000000:role/r")
    payload = agent.payload(arn)
    assert payload["containers"][0]["command"] == ["true"]
    assert payload["roleCredentials"]["roleArn"] == "arn:aws:iam::000000000000:role/r"
    binding = {"bindIP": "0.0.0.0", "containerPort": 80, "hostPort": 8080, "protocol": "tcp"}
    agent.report(arn, "RUNNING", {**WEB, "status": "RUNNING", "networkBindings": [binding]}, pullStartedAt=1.5)
    ecs.get_waiter("tasks_running").wait(tasks=[arn], WaiterConfig=SOON)
    task = ecs.describe_tasks(tasks=[arn])["tasks"][0]
    assert (task["lastStatus"], task["desiredStatus"], task["connectivity"]) == ("RUNNING", "RUNNING", "CONNECTED")
    assert task["containers"][0]["networkBindings"] == [binding]
    assert task["pullStartedAt"].timestamp() == 1.5
    assert ecs.stop_task(task=arn, reason="enough")["task"]["desiredStatus"] == "STOPPED"
    agent.payload(arn, "STOPPED")
    agent.report(arn, "STOPPED", {**WEB, "status": "STOPPED", "exitCode": 143})
    ecs.get_waiter("tasks_stopped").wait(tasks=[arn], WaiterConfig=SOON)
    task = ecs.describe_tasks(tasks=[arn])["tasks"][0]
    assert (task["stopCode"], task["stoppedReason"]) == ("UserInitiated", "enough")
    assert task["containers"][0]["exitCode"] == 143
    assert task["createdAt"] <= task["startedAt"] <= task["stoppingAt"] <= task["stoppedAt"]


def test_the_waiter_for_running_fails_at_once_for_a_stopped_or_unknown_task(ecs: Any, agent: FakeAgent) -> None:
    """The waiter's failure states are STOPPED and the failure reason MISSING (spec 11 §2)."""
    arn = run(ecs)
    agent.report(arn, "STOPPED", {"containerName": "web", "status": "STOPPED", "reason": "CannotPullContainerError: x"})
    for name in (arn, "a" * 32):
        with pytest.raises(WaiterError, match="terminal failure"):
            ecs.get_waiter("tasks_running").wait(tasks=[name], WaiterConfig=SOON)


def test_what_cannot_be_placed_is_a_failure_with_its_reason(plane: Plane, ecs: Any, agent: FakeAgent) -> None:
    """RESOURCE:CPU, RESOURCE:MEMORY, RESOURCE:PORTS, ATTRIBUTE, AGENT; the rest of the call succeeds."""

    def reasons(count: int = 1, **container: Any) -> list[str]:
        request = definition()
        request["containerDefinitions"][0] |= container
        ecs.register_task_definition(**request)
        return [f["reason"] for f in ecs.run_task(taskDefinition="web", count=count)["failures"]]

    assert reasons(cpu=4096) == ["RESOURCE:CPU"]
    assert reasons(memory=8192) == ["RESOURCE:MEMORY"]
    assert reasons(count=3, portMappings=[{"containerPort": 80, "hostPort": 8080}]) == ["RESOURCE:PORTS"] * 2
    assert reasons(logConfiguration={"logDriver": "syslog"}) == ["ATTRIBUTE"]
    agent.disconnect()
    assert reasons() == []  # an agent that has just gone is surely coming back
    eventually(lambda: reasons() == ["AGENT"], "the agent counts as away", 20)
    with pytest.raises(ClientError) as error:
        ecs.create_cluster(clusterName="empty")
        ecs.run_task(cluster="empty", taskDefinition="web")
    assert code(error) == ("InvalidParameterException", "No Container Instances were found in your cluster.", 400)


def test_a_task_holds_its_resources_until_it_has_stopped(ecs: Any, agent: FakeAgent) -> None:
    """remainingResources and the counts of the instance and the cluster follow the reports."""
    arn = run(ecs)

    def left() -> int:
        return next(r["integerValue"] for r in agent.view()["remainingResources"] if r["name"] == "CPU")

    assert left() == 1948 and agent.view()["pendingTasksCount"] == 1
    agent.report(arn, "RUNNING", {**WEB, "status": "RUNNING"})
    assert agent.view()["runningTasksCount"] == 1
    cluster = ecs.describe_clusters(include=["STATISTICS"])["clusters"][0]
    assert (cluster["runningTasksCount"], cluster["registeredContainerInstancesCount"]) == (1, 1)
    agent.report(arn, "STOPPED", {**WEB, "status": "STOPPED", "exitCode": 0})
    assert left() == 2048


def test_lists_are_filtered_and_paged(ecs: Any, agent: FakeAgent) -> None:
    """By family, who started it, desired status and instance; the paginator walks everything."""
    ecs.register_task_definition(**definition())
    for number in range(3):
        ecs.run_task(taskDefinition="web", startedBy=f"me{number}")
    arns = [a for page in ecs.get_paginator("list_tasks").paginate(PaginationConfig={"PageSize": 2})
            for a in page["taskArns"]]  # fmt: skip
    assert len(set(arns)) == 3
    assert len(ecs.list_tasks(startedBy="me1")["taskArns"]) == 1
    assert len(ecs.list_tasks(family="web", containerInstance=agent.arn)["taskArns"]) == 3
    assert ecs.list_tasks(family="other")["taskArns"] == []
    agent.report(arns[0], "STOPPED")
    assert ecs.list_tasks(desiredStatus="STOPPED")["taskArns"] == [arns[0]]


def test_tags_are_given_propagated_and_changed(ecs: Any, agent: FakeAgent) -> None:
    """Tags of the request win over those of the definition; managed tags name the cluster."""
    ecs.register_task_definition(**definition(tags=[{"key": "a", "value": "1"}, {"key": "b", "value": "1"}]))
    task = ecs.run_task(taskDefinition="web", propagateTags="TASK_DEFINITION", enableECSManagedTags=True,
                        tags=[{"key": "b", "value": "2"}])["tasks"][0]["taskArn"]  # fmt: skip
    ecs.tag_resource(resourceArn=task, tags=[{"key": "c", "value": "3"}])
    ecs.untag_resource(resourceArn=task, tagKeys=["a"])
    tags = {t["key"]: t["value"] for t in ecs.list_tags_for_resource(resourceArn=task)["tags"]}
    assert tags == {"b": "2", "c": "3", "aws:ecs:clusterName": "default"}
    assert ecs.describe_tasks(tasks=[task])["tasks"][0]["tags"] == []


def test_overrides_reach_the_agent_and_unknown_containers_are_refused(ecs: Any, agent: FakeAgent) -> None:
    """The command as an override, the environment merged, the role replaced."""
    ecs.register_task_definition(**definition())
    role = "arn:aws:iam::000000000000:role/other"
    task = ecs.run_task(taskDefinition="web", overrides={"taskRoleArn": role, "containerOverrides": [
        {"name": "web", "command": ["x"], "environment": [{"name": "A", "value": "1"}]}]})["tasks"][0]  # fmt: skip
    payload = agent.payload(task["taskArn"])
    assert json.loads(payload["containers"][0]["overrides"]) == {"command": ["x"]}
    assert payload["containers"][0]["environment"] == {"A": "1"}
    assert payload["roleCredentials"]["roleArn"] == role
    with pytest.raises(ClientError) as error:
        ecs.run_task(taskDefinition="web", overrides={"containerOverrides": [{"name": "ghost"}]})
    assert code(error)[:2] == ("InvalidParameterException", "Override for container named ghost is not a container in "
                                                            "the TaskDefinition.")  # fmt: skip


def test_errors_have_the_codes_words_and_status_of_the_service(ecs: Any, agent: FakeAgent) -> None:
    """What scripts match on."""
    for call, arguments, expected in (
        ("run_task", {"taskDefinition": "ghost"}, ("ClientException", "TaskDefinition not found.")),
        ("run_task", {"taskDefinition": "x", "cluster": "ghost"}, ("ClusterNotFoundException", "Cluster not found.")),
        ("stop_task", {"task": "a" * 32}, ("InvalidParameterException", "The referenced task was not found.")),
        ("describe_tasks", {"tasks": []}, ("InvalidParameterException", "Tasks cannot be empty.")),
        ("describe_task_definition", {"taskDefinition": "g"},
         ("ClientException", "Unable to describe task definition.")),
        ("delete_cluster", {"cluster": "default"},
         ("ClusterContainsContainerInstancesException",
          "The Cluster cannot be deleted while Container Instances are active or draining.")),
        ("register_task_definition", {"family": "f", "containerDefinitions": [{"name": "c", "memory": 8}]},
         ("ClientException", "Container.image should not be null or empty.")),
    ):  # fmt: skip
        with pytest.raises(ClientError) as error:
            getattr(ecs, call)(**arguments)
        assert code(error) == (*expected, 400)


def test_start_task_places_on_the_named_instance(ecs: Any, agent: FakeAgent) -> None:
    """One task per instance, MISSING for one that is not there."""
    ecs.register_task_definition(**definition())
    answer = ecs.start_task(taskDefinition="web", containerInstances=[agent.arn, "b" * 32])
    assert [t["containerInstanceArn"] for t in answer["tasks"]] == [agent.arn]
    assert [f["reason"] for f in answer["failures"]] == ["MISSING"]
    ecs.update_container_instances_state(containerInstances=[agent.arn], status="DRAINING")
    assert ecs.run_task(taskDefinition="web")["failures"][0]["reason"] == "INACTIVE"


def test_a_report_on_an_unknown_task_is_accepted(agent: FakeAgent) -> None:
    """An error would make the agent repeat it for ever (spec 02 §8.9)."""
    arn = "arn:aws:ecs:us-east-1:000000000000:task/default/" + "f" * 32
    answer = agent.client.submit_task_state_change(cluster="default", task=arn, status="STOPPED")
    assert answer["acknowledgment"] == "ok"


def test_protection_is_kept_until_it_is_lifted(ecs: Any, agent: FakeAgent) -> None:
    """What the agent's task protection endpoint asks for."""
    arn = run(ecs)
    answer = ecs.update_task_protection(cluster="default", tasks=[arn], protectionEnabled=True, expiresInMinutes=5)
    assert answer["protectedTasks"][0]["protectionEnabled"] is True
    assert ecs.get_task_protection(cluster="default", tasks=[arn])["protectedTasks"][0]["expirationDate"]
    ecs.update_task_protection(cluster="default", tasks=[arn], protectionEnabled=False)
    assert ecs.get_task_protection(cluster="default")["protectedTasks"] == [
        {"taskArn": arn, "protectionEnabled": False}
    ]


def post(plane: Plane, body: bytes, **headers: str) -> tuple[int, Json]:
    """A raw request."""
    request = urllib.request.Request(plane.url, data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_requests_that_are_no_api_calls_get_an_answer_too(plane: Plane) -> None:
    """Not JSON, no target, an unknown operation, and a name that a web page made point here."""
    prefix = "AmazonEC2ContainerServiceV20141113."
    assert post(plane, b"{", **{"X-Amz-Target": prefix + "ListTasks"})[1]["__type"] == "SerializationException"
    assert post(plane, b"{}")[1]["__type"] == "UnknownOperationException"
    assert post(plane, b"{}", **{"X-Amz-Target": prefix + "Nonsense"})[0] == 400
    status, body = post(plane, b"{}", **{"X-Amz-Target": prefix + "ListClusters", "Host": "evil.example:80"})
    assert (status, body["__type"]) == (403, "AccessDeniedException")


def test_killing_the_control_plane_loses_nothing_that_was_answered(plane: Plane, ecs: Any, agent: FakeAgent) -> None:
    """SIGKILL right after RunTask: the task is there after the restart, and the agent hears of it when it is back."""
    agent.disconnect()
    quiet = FakeAgent(plane, acks=False).connect()
    arn = run(ecs)
    plane.kill()
    plane.start()
    assert ecs.describe_tasks(tasks=[arn])["tasks"][0]["lastStatus"] == "PENDING"
    quiet.received.clear()
    quiet.connect()
    quiet.payload(arn)
    eventually(lambda: quiet.view()["agentConnected"], "the session is back")
