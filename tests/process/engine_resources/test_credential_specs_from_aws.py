"""Credential specs from S3 and SSM, users from Secrets Manager, tickets from a fetcher behind a real gRPC server."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest
from msgspec.structs import replace

from common.model.task import Container, Task
from services.engine.resources import credentials_fetcher
from services.engine.resources.credential_specs import CredentialSpecs
from services.engine.resources.credentials_fetcher import Fetcher
from tests.fakes.aws import FakeAws
from tests.fakes.credentials_fetcher import FakeFetcher
from tests.process.engine_resources.conftest import Bench

USER = "arn:aws:secretsmanager:us-west-2:123456789012:secret:joe-AbC"
S3 = "credentialspecdomainless:arn:aws:s3:::specs/web.json"
SSM = "credentialspecdomainless:arn:aws:ssm:us-west-2:123456789012:parameter/specs/web"
JOINED = "credentialspec:arn:aws:ssm:us-west-2:123456789012:parameter/joined"
PARAMETER = "credentialspec:arn:aws:ssm:us-west-2:1:parameter"
PASSWORD = "hunter2-of-joe"
Eventually = Callable[..., object]


@pytest.fixture(scope="module")
def program() -> Iterator[FakeFetcher]:
    """One fetcher for all tests here."""
    directory = Path(tempfile.mkdtemp())
    program = FakeFetcher(directory)
    program.start()
    yield program
    program.kill()
    shutil.rmtree(directory)


@pytest.fixture
def fetcher(program: FakeFetcher) -> FakeFetcher:
    """It behaves, and has not been called."""
    for name in ("behaviour", "calls"):
        (program.directory / name).unlink(missing_ok=True)
    shutil.rmtree(program.directory / "krbdir", ignore_errors=True)
    return program


def spec(account: str = "WebApp01", user: str = USER) -> str:
    """A credential spec as people format them."""
    domainless = {"HostAccountConfig": {"PluginInput": {"CredentialArn": user}}}
    join = {"MachineAccountName": account, "DnsName": "contoso.com"}
    return json.dumps({"DomainJoinConfig": join, "ActiveDirectoryConfig": domainless}, indent=2)


@pytest.fixture
def gmsa(bench: Bench, cloud: FakeAws, fetcher: FakeFetcher) -> Bench:
    """A host with the fetcher; AWS has one spec at each place, and the user."""
    bench.registry.add(CredentialSpecs(Fetcher(str(fetcher.socket), pause=lambda seconds: None)))
    cloud.buckets, cloud.objects = {"specs": "eu-west-1"}, {("specs", "web.json"): spec().encode()}
    cloud.parameters = {"/specs/web": spec("Other"), "/joined": spec("Joined")}
    user = {"username": "joe", "password": PASSWORD, "domainName": "contoso.com"}
    cloud.secrets = {USER: {"SecretString": json.dumps(user)}}
    return bench


def containers(*specs: str) -> list[Container]:
    return [Container(name=f"c{i}", credential_specs=(s,)) for i, s in enumerate(specs)]


def leased(bench: Bench, task: Task) -> Task:
    """The task with its tickets."""
    [resource] = task.resources
    detail = {**resource.detail, **bench.create(task)}
    return replace(task, resources=(replace(resource, detail=detail),))


def test_every_sort_of_spec_gets_its_tickets_in_one_task(gmsa: Bench, cloud: FakeAws, fetcher: FakeFetcher) -> None:
    """Spec 05 §10.2, §10.3: each decided for itself, all with the execution role; S3's text without blanks."""
    task = leased(gmsa, gmsa.task(*containers(S3, SSM, JOINED)))
    detail = task.resources[0].detail
    assert {name: Path(path).name for name, path in detail["tickets"].items()} == {
        S3: "webapp01", SSM: "other", JOINED: "joined",
    }  # fmt: skip
    assert sorted(detail["leases"]) == sorted(fetcher.leases()) and len(detail["leases"]) == 3
    assert [c["request"] for c in fetcher.calls("AddKerberosLease")] == [{"credspec_contents": [spec("Joined")]}]
    compact, as_it_is = sorted(
        (c["request"] for c in fetcher.calls("AddNonDomainJoinedKerberosLease")),
        key=lambda r: len(r["credspec_contents"][0]),
    )
    assert compact["credspec_contents"] == [json.dumps(json.loads(spec()), separators=(",", ":"))]
    assert as_it_is == {
        "credspec_contents": [spec("Other")], "username": "joe", "password": PASSWORD, "domain": "contoso.com",
    }  # fmt: skip
    assert {c.access_key for c in cloud.calls} == {"AKIDEXEC"}
    assert [c.region for c in cloud.asked("GetObject")] == ["eu-west-1"]
    assert all(c.arguments["WithDecryption"] for c in cloud.asked("GetParameters"))
    assert PASSWORD not in repr(task)
    gmsa.cleanup(task)
    gmsa.cleanup(task)
    assert fetcher.leases() == {}


def test_new_credentials_renew_each_users_tickets_once(
    gmsa: Bench, cloud: FakeAws, fetcher: FakeFetcher, caplog: pytest.LogCaptureFixture
) -> None:
    """Spec 05 §10.3: the specs are read again, the joined one is none of it; leases and directories stay."""
    for ours in ("services", "common", "h2"):  # botocore's own lines are off in a service (common/logs.py)
        caplog.set_level(logging.DEBUG, logger=ours)
    task = leased(gmsa, gmsa.task(*containers(S3, SSM, JOINED)))
    cloud.calls.clear()
    assert gmsa.create(task) == {}
    assert [c["request"] for c in fetcher.calls("RenewNonDomainJoinedKerberosLease")] == [
        {"username": "joe", "password": PASSWORD, "domain": "contoso.com"}
    ]
    assert len(cloud.asked("GetSecretValue")) == len(cloud.asked("GetObject")) == len(cloud.asked("GetParameters")) == 1
    tickets = sorted((fetcher.directory / "krbdir").glob("*/*/krb5cc"))
    assert {t.read_text() for t in tickets} == {"a renewed ticket"} and len(tickets) == 3
    assert len(fetcher.calls("AddKerberosLease") + fetcher.calls("AddNonDomainJoinedKerberosLease")) == 3
    assert PASSWORD not in caplog.text


def test_a_renewal_that_fails_costs_nothing_but_a_line(
    gmsa: Bench, cloud: FakeAws, fetcher: FakeFetcher, caplog: pytest.LogCaptureFixture
) -> None:
    """The tickets last for hours; who reads the log learns why and what comes next."""
    task = leased(gmsa, gmsa.task(*containers(SSM)))
    fetcher.behave(RenewNonDomainJoinedKerberosLease={"status": "PERMISSION_DENIED", "message": f"no joe, {PASSWORD}"})
    assert gmsa.create(task) == {}
    said = "rpc error: code = PermissionDenied desc = no joe, ***"
    assert said in caplog.text and "tried again with the next credentials" in caplog.text
    cloud.secrets.clear()
    assert gmsa.create(task) == {}
    gmsa.roles.clear()
    assert gmsa.create(task) == {}
    assert "credentialspec resource: unable to find execution role credentials" in caplog.text


@pytest.mark.parametrize(
    ("specs", "reason"),
    [
        (("credentialspec:arn:aws:s3:::gone/a",), "bucket not found"),
        (("credentialspec:arn:aws:s3:::specs",), "invalid s3 arn: arn:aws:s3:::specs"),
        (
            ("credentialspec:arn:aws:ssm:us-west-2:1:document/a",),
            "the provided SSM parameter:document/a is in an invalid format",
        ),
        (
            (f"{PARAMETER}/x", f"{PARAMETER}/y"),
            "fetching secret data from SSM Parameter Store in map[]: invalid parameters: /x;"
            "fetching secret data from SSM Parameter Store in map[]: invalid parameters: /y",
        ),
        (
            (f"{PARAMETER}/x", "credentialspec:file:///none"),
            "open /none: no such file or directory",
        ),
        (
            (f"{PARAMETER}/secure",),
            "Error unmarshalling credentialspec domain-joined (a SecureString, not shown) : invalid character 'h' "
            "looking for beginning of value",
        ),
        (
            ("credentialspecdomainless:arn:aws:ssm:us-west-2:1:parameter/no-user",),
            "failed to retrieve credentials for domainless gMSA user arn:gone: operation error Secrets Manager: "
            "GetSecretValue, https response error StatusCode: 400, RequestID: r-1, ResourceNotFoundException: Secrets "
            "Manager can't find the specified secret.",
        ),
        (
            ("credentialspecdomainless:arn:aws:ssm:us-west-2:1:parameter/odd-user",),
            "failed to parse asmSecretData for the gMSA AD user: unexpected end of JSON input",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_had_is_the_tasks_reason(
    gmsa: Bench, cloud: FakeAws, fetcher: FakeFetcher, specs: tuple[str, ...], reason: str
) -> None:
    """Spec 05 §10.2, §10.3: the first error, those of calls to SSM joined. Nothing is leased."""
    more = {"/secure": PASSWORD, "/no-user": spec("a", "arn:gone"), "/odd-user": spec("a", "arn:odd")}
    cloud.parameters, cloud.secure = cloud.parameters | more, {"/secure"}
    cloud.secrets["arn:odd"] = {"SecretString": ""}
    assert gmsa.failure(gmsa.task(*containers(*specs))) == reason
    assert fetcher.leases() == {}


def test_a_domainless_spec_on_disk_needs_the_role_all_the_same(gmsa: Bench, tmp_path: Path, cloud: FakeAws) -> None:
    """For the user's password; it is not waited for, since the spec itself needs no role (spec 05 §1.4)."""
    (tmp_path / "web.json").write_text(spec())
    task = gmsa.task(*containers(f"credentialspecdomainless:file://{tmp_path}/web.json"))
    assert not task.resources[0].needs_execution_credentials
    gmsa.roles.clear()
    text = f"failed to retrieve credentials for domainless gMSA user {USER}: unable to find execution role credentials"
    assert gmsa.failure(task) == text
    assert cloud.calls == []


def test_a_fetcher_that_comes_back_is_used(gmsa: Bench, fetcher: FakeFetcher, eventually: Eventually) -> None:
    """Three attempts: the daemon may be starting."""
    fetcher.behave(AddKerberosLease={"status": "UNAVAILABLE", "message": "starting"})
    creating = gevent.spawn(leased, slow(gmsa, fetcher), gmsa.task(*containers(JOINED)))
    eventually(lambda: fetcher.calls())
    fetcher.behave()
    assert creating.get(timeout=10).resources[0].detail["leases"] == list(fetcher.leases())


def slow(bench: Bench, fetcher: FakeFetcher) -> Bench:
    """With half a second between attempts."""
    bench.registry.add(CredentialSpecs(Fetcher(str(fetcher.socket), pause=lambda seconds: gevent.sleep(0.5))))
    return bench


def test_a_fetcher_that_hangs_or_is_away_ends_the_task_with_a_reason(
    gmsa: Bench, fetcher: FakeFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within its time; other greenlets go on meanwhile."""
    monkeypatch.setattr(credentials_fetcher, "ATTEMPT_SECONDS", 0.2)
    fetcher.behave(AddKerberosLease={"seconds": 2.0})
    began, ticks = time.monotonic(), []
    ticking = gevent.spawn(lambda: [(ticks.append(1), gevent.sleep(0.02)) for _ in range(100)])
    reason = gmsa.failure(gmsa.task(*containers(JOINED)))
    assert time.monotonic() - began < 2.0 and len(ticks) > 5
    ticking.kill()
    where = f"the credentials fetcher at {fetcher.socket} did not answer within 0.2 s"
    assert reason == f"rpc error: code = DeadlineExceeded desc = {where}"
    assert len(fetcher.calls("AddKerberosLease")) == 3
    gmsa.registry.add(CredentialSpecs(Fetcher("/none.sock", pause=lambda seconds: None)))
    assert gmsa.failure(gmsa.task(*containers(JOINED))) == (
        "rpc error: code = Unavailable desc = no credentials fetcher at /none.sock: No such file or directory"
    )


def test_a_request_may_be_larger_than_one_frame(gmsa: Bench, cloud: FakeAws, fetcher: FakeFetcher) -> None:
    """HTTP/2 takes 16 KiB at a time and 64 KiB before the server asks for more."""
    cloud.parameters["/joined"] = json.dumps({**json.loads(spec("Joined")), "padding": "x" * 200_000})
    leased(gmsa, gmsa.task(*containers(JOINED)))
    assert fetcher.calls("AddKerberosLease")[0]["request"] == {"credspec_contents": [cloud.parameters["/joined"]]}
