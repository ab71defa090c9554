"""Resolved secrets on their way: into the container, and into nothing that is kept."""

import pytest
from msgspec.structs import replace

from common import keys
from common.bus import Change
from common.model.agent import Credentials
from common.model.status import TaskStatus
from common.model.task import Secret

pytestmark = pytest.mark.docker

VALUE = "the-password-that-nobody-keeps"


def test_a_resolved_secret_is_never_in_the_durable_store(docker_host, cloud, eventually):
    """No commit of the task's whole life carries the value, although the container has it."""
    cloud.parameters = {"/password": VALUE}
    commits = []
    commit = docker_host.bus.durable.commit
    docker_host.bus.durable.commit = lambda change, *rest: (commits.append(repr(change.commands)), commit(change))[1]
    role = Credentials(
        credentials_id="role", task_arn="t", role_type="TaskExecution", access_key_id="AKIDROLE",
        secret_access_key="its-key", revision=1,
    )  # fmt: skip
    docker_host.bus.volatile.commit(Change().save(keys.CREDENTIALS, "role", role))
    docker_host.start()
    secret = Secret(
        name="PASSWORD", value_from="/password", provider="ssm", region="us-west-2", type="ENVIRONMENT_VARIABLE"
    )
    web = docker_host.task("web", execution_credentials_id="role")
    web = replace(web, containers=(replace(web.containers[0], secrets=(secret,)),))
    docker_host.run(web)
    eventually(lambda: docker_host.known(web) == ["RUNNING"])
    id_ = docker_host.container(web).docker_id
    assert f"PASSWORD={VALUE}" in docker_host.docker("inspect", "-f", "{{.Config.Env}}", id_)
    docker_host.run(web, desired=TaskStatus.STOPPED)
    eventually(lambda: docker_host.known(web) == ["STOPPED"])
    assert len(commits) >= 5
    assert not [c for c in commits if VALUE in c or "its-key" in c]
