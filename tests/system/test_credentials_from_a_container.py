"""A container gets its role's credentials the way SDKs ask for them: 169.254.170.2, through the real netfilter rules.

No port tricks: the address and the path are those of the environment that the agent gave the container. busybox's wget
stands for every plain client. boto3 runs inside a container as well, with this machine's Python mounted read-only, so
no image has to be downloaded.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import urllib.request
from pathlib import Path
from typing import Any

import botocore
import pytest

from tests.system.conftest import container, containers_of, wait_connected

pytestmark = pytest.mark.docker

ROLE = "arn:aws:iam::000000000000:role/reader"
FETCH = 'wget -q -O - "http://169.254.170.2$AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"'
METADATA = 'wget -q -O - "$ECS_CONTAINER_METADATA_URI_V4/task"'
PROVIDER = """
import json, os, botocore.session
from botocore.credentials import ContainerProvider
assert "AWS_CONTAINER_CREDENTIALS_FULL_URI" not in os.environ and "AWS_ACCESS_KEY_ID" not in os.environ
found = ContainerProvider().load()
chain = botocore.session.Session().get_credentials()
frozen = chain.get_frozen_credentials()
print(json.dumps({"provider": found.method, "chain": chain.method, "same": found.access_key == frozen.access_key,
                  "key": frozen.access_key, "secret": bool(frozen.secret_key), "token": bool(frozen.token),
                  "lasts": not found.refresh_needed()}))
"""


def finished(agent: Any, engine: Any, eventually: Any, *definitions: dict[str, Any], **more: Any) -> str:
    """Run a task with a role until it stops; returns what its first container printed."""
    (arn,) = agent.run(*definitions, taskRoleArn=ROLE, **more)
    eventually(lambda: agent.statuses([arn]) == {"STOPPED"}, seconds=40)
    (found,) = containers_of(engine, arn)
    output = engine.logs(found["Id"], stdout=True, stderr=True).decode()
    (task,) = agent.tasks([arn])
    assert task["containers"][0].get("exitCode") == 0, (task.get("stoppedReason"), output, agent.text()[-3000:])
    return str(output)


def test_wget_in_a_container_gets_the_role_s_credentials(make_agent, engine, eventually):
    """nat PREROUTING serves containers on the bridge, nat OUTPUT those in the host's network."""
    agent = make_agent(ECS_ENABLE_TASK_IAM_ROLE_NETWORK_HOST="true")
    wait_connected(agent, eventually)
    shell = f"{FETCH} && echo && {METADATA}"
    for mode in ("bridge", "host"):
        output = finished(agent, engine, eventually, container(command=["sh", "-c", shell]), networkMode=mode)
        credentials, task = (json.loads(line) for line in output.splitlines())
        assert credentials["RoleArn"] == ROLE, mode
        assert all(credentials[key] for key in ("AccessKeyId", "SecretAccessKey", "Token", "Expiration")), mode
        assert task["Family"] == "test" and task["Containers"][0]["Name"] == "main", mode


def test_the_metrics_page_tells_how_the_whole_tree_stands(agent, eventually):
    """Session, tasks, outbox and every program, as an operator on the instance sees them."""

    def page() -> str:
        with urllib.request.urlopen("http://127.0.0.1:51678/metrics", timeout=5) as answer:
            return str(answer.read().decode())

    page()  # at once: an agent that is connected serves already
    (arn,) = agent.run(container())
    eventually(lambda: agent.statuses([arn]) == {"RUNNING"}, seconds=20)
    for series in (
        'ecs_agent_session_connected{session="acs"} 1',
        'ecs_agent_tasks{known_status="RUNNING"} 1',
        'ecs_agent_containers{known_status="RUNNING"} 1',
        "ecs_agent_submission_backlog 0",
        'ecs_agent_docker_call_seconds_count{operation="container_start"} 1',
        *(f'ecs_agent_program_ready{{program="{program}"}} 1' for program in ("acs", "engine", "endpoint")),
    ):
        eventually(lambda series=series: f"\n{series}\n" in page(), seconds=15, pause=0.5)
    pid = agent.programs()["engine"].pid
    os.kill(pid, signal.SIGKILL)
    restarts = 'ecs_agent_program_restarts_total{program="engine"} 1'
    eventually(lambda: f"\n{restarts}\n" in page(), seconds=15, pause=0.5)
    assert arn.rpartition("/")[2] not in page()


def mounts_of_python() -> list[Path]:
    """The directories without which this interpreter and botocore do not run."""
    wanted = [sys.base_prefix, sys.prefix, Path(botocore.__file__).parents[1], "/usr", "/lib", "/lib64"]
    found: list[Path] = []
    for path in sorted({Path(p).resolve() for p in wanted if Path(p).is_dir()}):
        if not any(path.is_relative_to(other) for other in found):
            found.append(path)
    return found


def test_boto3_s_own_provider_in_a_container_gets_them(agent, engine, eventually):
    """botocore's ContainerProvider alone, and the default chain of every boto3 program, which must come to it."""
    paths = mounts_of_python()
    # The image has no /lib: where it is a link on the host, the loader is still looked for under that name.
    named = {str(p): str(p) for p in paths} | {p: os.path.realpath(p) for p in ("/lib", "/lib64") if os.path.isdir(p)}
    volumes = [{"name": f"m{n}", "host": {"sourcePath": host}} for n, host in enumerate(named.values())]
    mounts = [{"sourceVolume": f"m{n}", "containerPath": inside, "readOnly": True} for n, inside in enumerate(named)]
    environment = [{"name": "PYTHONPATH", "value": str(Path(botocore.__file__).parents[1])}]
    definition = container(
        command=[os.path.realpath(sys.executable), "-c", PROVIDER],
        mountPoints=mounts, environment=environment, memory=128,
    )  # fmt: skip
    output = finished(agent, engine, eventually, definition, networkMode="bridge", volumes=volumes)
    said = json.loads(output.splitlines()[-1])
    assert said["provider"] == said["chain"] == "container-role"
    assert said["same"] and said["key"] and said["secret"] and said["token"] and said["lasts"]
