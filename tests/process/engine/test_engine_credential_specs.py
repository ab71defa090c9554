"""A task that runs as a group managed service account: on a real Docker, with a fetcher behind a real gRPC server."""

import json

import pytest
from msgspec.structs import replace

from common import keys
from common.bus import Change
from common.model.agent import Credentials, Sent
from common.model.messages import CredentialsChanged
from common.model.status import TaskStatus
from services.engine.resources import credentials_fetcher
from services.engine.resources.credential_specs import CredentialSpecs
from services.engine.resources.credentials_fetcher import Fetcher
from services.engine.resources.registry import Registry, standard
from tests.fakes.credentials_fetcher import FakeFetcher

pytestmark = pytest.mark.docker

PASSWORD = "the-password-that-nobody-keeps"
USER = "arn:aws:secretsmanager:us-west-2:1:secret:joe"
SPEC = "credentialspecdomainless:arn:aws:ssm:us-west-2:1:parameter/web"
RENEW = "RenewNonDomainJoinedKerberosLease"


@pytest.fixture
def fetcher(run_dir, docker_host):
    """A credentials fetcher that the host's engines ask, without long pauses."""
    directory = run_dir / "fetcher"
    directory.mkdir()
    fetcher = FakeFetcher(directory)
    client = Fetcher(str(fetcher.socket), pause=lambda seconds: None)
    docker_host.make_registry = lambda: Registry(*standard(CredentialSpecs(client)))
    yield fetcher
    fetcher.kill()


def spec(**more):
    """A credential spec."""
    return json.dumps({"DomainJoinConfig": {"MachineAccountName": "WebApp01", "DnsName": "contoso.com"}, **more})


def with_role(host, id_):
    """The execution role's credentials are there."""
    role = Credentials(
        credentials_id=id_, task_arn="t", role_type="TaskExecution", access_key_id="AKIDROLE", secret_access_key="k",
        revision=1,
    )  # fmt: skip
    host.bus.volatile.commit(Change().save(keys.CREDENTIALS, id_, role))


def task_with(host, name, credential_spec, **more):
    """A task whose container has the spec; Docker gets a security option of its own, too."""
    task = host.task(name, **more)
    options = json.dumps({"SecurityOpt": ["no-new-privileges", "credentialspec:file:///ignored"]})
    app = replace(task.containers[0], credential_specs=(credential_spec,), docker_host_config=options)
    return replace(task, containers=(app,))


def resource(host, task):
    """As it is saved."""
    return host.bus.durable.get(keys.TASK, task.arn).resources[0]


def told(host, task):
    """ECS has accepted the STOPPED report."""
    host.bus.durable.commit(Change().save(keys.SENT, task.arn, Sent(revision=1, task=TaskStatus.STOPPED)))


def test_a_container_has_its_tickets_from_start_to_cleanup(docker_host, cloud, fetcher, eventually):
    """Spec 05 §10: bound read-only, renewed with new credentials, the lease known over a restart and given back."""
    host = docker_host
    commits, commit = [], host.bus.durable.commit
    host.bus.durable.commit = lambda change, *rest: (commits.append(repr(change.commands)), commit(change))[1]
    secret = {"HostAccountConfig": {"PluginInput": {"CredentialArn": USER}}}
    cloud.parameters = {"/web": spec(ActiveDirectoryConfig=secret)}
    user = {"username": "joe", "password": PASSWORD, "domainName": "contoso.com"}
    cloud.secrets = {USER: {"SecretString": json.dumps(user)}}
    fetcher.start()
    host.options = {"ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION": "1s"}
    host.start()
    web = task_with(host, "web", SPEC, execution_credentials_id="role")
    host.run(web)
    with_role(host, "role")
    eventually(lambda: host.known(web) == ["RUNNING"])
    id_, [lease] = host.container(web).docker_id, list(fetcher.leases())
    bind = f"{fetcher.directory}/krbdir/{lease}/webapp01:/var/credentials-fetcher/krbdir:ro"
    described = json.loads(host.docker("inspect", "-f", "{{json .HostConfig}}", id_))
    assert (described["Binds"], described["SecurityOpt"]) == ([bind], ["no-new-privileges"])
    ticket = ("exec", id_, "cat", "/var/credentials-fetcher/krbdir/krb5cc")
    assert host.docker(*ticket) == "a ticket"
    before = resource(host, web)

    engine = host.restart()
    eventually(lambda: web.arn in engine.workers)
    assert resource(host, web) == before and len(fetcher.calls("AddNonDomainJoinedKerberosLease")) == 1
    with_role(host, "fresh-role")
    host.bus.durable.commit(
        Change().append(keys.COMMANDS, CredentialsChanged(arn=web.arn, credentials_id="fresh-role", execution=True))
    )
    eventually(lambda: fetcher.calls(RENEW))
    eventually(lambda: host.docker(*ticket) == "a renewed ticket")
    eventually(lambda: resource(host, web) == before)
    assert host.bus.durable.get(keys.TASK, web.arn).execution_credentials_id == "fresh-role"

    host.run(web, desired=TaskStatus.STOPPED)
    eventually(lambda: host.known(web) == ["STOPPED"])
    assert list(fetcher.leases()) == [lease], "it lasts as long as the containers"
    told(host, web)
    eventually(lambda: host.known(web) == ["NONE"])
    assert fetcher.leases() == {} and host.ids() == []
    assert len(commits) >= 5 and not [c for c in commits if PASSWORD in c]


def test_a_task_that_is_stopped_before_its_tickets_come_gives_them_back(docker_host, fetcher, eventually, tmp_path):
    """They come when nobody waits for them any more; the cleanup waits for them."""
    (tmp_path / "web.json").write_text(spec())
    fetcher.start()
    fetcher.behave(AddKerberosLease={"seconds": 1.5})
    docker_host.options = {"ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION": "1s"}
    docker_host.start()
    web = task_with(docker_host, "web", f"credentialspec:file://{tmp_path}/web.json")
    docker_host.run(web)
    eventually(lambda: fetcher.calls())
    docker_host.run(web, desired=TaskStatus.STOPPED)
    eventually(lambda: docker_host.known(web) == ["STOPPED"])
    assert fetcher.leases() == {}, "the stop is not held up"
    told(docker_host, web)
    eventually(lambda: docker_host.known(web) == ["NONE"])
    assert fetcher.leases() == {} and len(fetcher.calls("DeleteKerberosLease")) == 1


def test_a_fetcher_that_hangs_costs_only_the_task_that_needs_it(
    docker_host, fetcher, eventually, tmp_path, monkeypatch
):
    """The task says why; its neighbour runs meanwhile, and nothing of the first is ever made."""
    monkeypatch.setattr(credentials_fetcher, "ATTEMPT_SECONDS", 0.5)
    (tmp_path / "web.json").write_text(spec())
    fetcher.start()
    fetcher.behave(AddKerberosLease={"seconds": 3.0})
    docker_host.start()
    web = task_with(docker_host, "web", f"credentialspec:file://{tmp_path}/web.json")
    other = docker_host.task("other")
    docker_host.run(web, other)
    eventually(lambda: docker_host.known(web, other) == ["STOPPED", "RUNNING"])
    saved = docker_host.bus.durable.get(keys.TASK, web.arn)
    assert saved.terminal_reason == (
        "Rpc error: code = DeadlineExceeded desc = the credentials fetcher at "
        f"{fetcher.socket} did not answer within 0.5 s"
    )
    assert saved.containers[0].docker_id == "" and docker_host.reports(web) == ["STOPPED"]
