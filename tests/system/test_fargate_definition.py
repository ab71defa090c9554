"""A definition made for Fargate runs in the local tree: localhost, logs to be read, a secret from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.fakes.ports import free_port
from tests.system.conftest import container, containers_of, wait_connected

pytestmark = pytest.mark.docker

SECRET = "arn:aws:secretsmanager:us-west-2:000000000000:secret:shop-AbCdEf:greeting::"
LOGS = {"logDriver": "awslogs", "options": {"awslogs-group": "/shop", "awslogs-region": "us-west-2"}}


def test_two_containers_of_a_fargate_definition_meet_on_localhost(
    make_agent: Any, engine: Any, eventually: Any, tmp_path: Path
) -> None:
    """awsvpc and awslogs are replaced on the way to the agent; the output is in Docker's own log."""
    (tmp_path / "secrets.json").write_text('{"shop": {"greeting": "from the other container"}}')
    agent, port = make_agent(ECS_LOCAL_SECRETS_FILE=str(tmp_path / "secrets.json")), free_port()
    wait_connected(agent, eventually)
    serve = f"echo $GREETING | busybox nc -l -p {port}"
    ask = f"until busybox nc 127.0.0.1 {port} </dev/null 2>/dev/null; do sleep 0.2; done"
    agent.ecs.register_task_definition(
        family="shop", networkMode="awsvpc", requiresCompatibilities=["FARGATE"], cpu="256", memory="512",
        executionRoleArn="arn:aws:iam::000000000000:role/x", taskRoleArn="arn:aws:iam::000000000000:role/t",
        containerDefinitions=[
            container("web", ["sh", "-c", serve], essential=False, portMappings=[{"containerPort": port}],
                      logConfiguration=LOGS, secrets=[{"name": "GREETING", "valueFrom": SECRET}]),
            container("app", ["sh", "-c", ask], logConfiguration=LOGS)])  # fmt: skip
    answer = agent.ecs.run_task(
        taskDefinition="shop", launchType="FARGATE",
        networkConfiguration={"awsvpcConfiguration": {"subnets": ["subnet-1"], "securityGroups": ["sg"]}})  # fmt: skip
    assert not answer["failures"], answer["failures"]
    arn = answer["tasks"][0]["taskArn"]
    agent.arns.add(arn)
    eventually(lambda: agent.statuses([arn]) == {"STOPPED"}, seconds=30)
    (task,) = agent.tasks([arn])
    assert {c["name"]: c.get("exitCode") for c in task["containers"]}["app"] == 0, (task, agent.text()[-3000:])
    assert task["launchType"] == "FARGATE"
    (app,) = [c for c in containers_of(engine, arn) if "app" in c["Labels"]["com.amazonaws.ecs.container-name"]]
    assert engine.logs(app["Id"]).decode() == "from the other container\n"
