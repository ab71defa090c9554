"""Credential specs: which a container has, what is read of them, and whose tickets are whose."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from common import grpc, protobuf
from common.config import load
from common.model.agent import DockerFacts
from common.model.task import Container, Resource, Task
from services.engine.core.prepare import set_up
from services.engine.docker.draft import Draft, Refused, World
from services.engine.docker.ports import PortPicker
from services.engine.docker.settings import Settings
from services.engine.resources import credential_specs as kind
from services.engine.resources.credential_spec_sources import Spec, compacted, name_for, parse, read_all
from services.engine.resources.credential_specs import CredentialSpecs, assigned, parse_account
from services.engine.resources.credentials_fetcher import Account, Fetcher, FetcherFailed, Lease
from services.engine.resources.kind import Host, ResourceFailed

ARN = "arn:aws:ecs:us-west-2:123456789012:task/default/0123456789abcdef0123456789abcdef"
BOTH = {"DomainJoinConfig": {"MachineAccountName": "WebApp01", "DnsName": "contoso.com"}}


class Daemon:
    """A credentials fetcher made of lists."""

    def __init__(self, paths: Sequence[str] = (), refuses: Sequence[str] = ()) -> None:
        self.paths, self.refuses = tuple(paths), set(refuses)
        self.added: list[list[str]] = []
        self.deleted: list[str] = []

    def add(self, contents: Sequence[str]) -> Lease:
        """One lease after the other."""
        self.added.append(list(contents))
        return Lease(f"lease-{len(self.added)}", self.paths)

    def add_domainless(self, content: str, account: Account) -> Lease:
        """As `add`, or a refusal."""
        if account.username in self.refuses:
            raise FetcherFailed("UNAUTHENTICATED", f"no {account.username}")
        return self.add([content])

    def delete(self, lease_id: str) -> None:
        """Give it back."""
        if lease_id in self.refuses:
            raise FetcherFailed("INTERNAL", "busy")
        self.deleted.append(lease_id)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """No role, no volumes."""
    unused: Any = None
    return Host(Settings(data_dir=str(tmp_path)), DockerFacts(), unused, region="us-west-2")


def with_daemon(daemon: Daemon, made_up: bool = False) -> CredentialSpecs:
    fetcher: Any = daemon
    return CredentialSpecs(fetcher, made_up)


def task_of(*containers: Container) -> Task:
    return Task(arn=ARN, containers=containers)


def app(*specs: str, name: str = "app", **host_config: Any) -> Container:
    return Container(name=name, credential_specs=specs, docker_host_config=json.dumps(host_config))


def spec_file(directory: Path, name: str, account: str = "WebApp01", domain: str = "contoso.com") -> str:
    """A spec on disk; how the definition names it."""
    path = directory / f"{name}.json"
    path.write_text(json.dumps({"DomainJoinConfig": {"MachineAccountName": account, "DnsName": domain}}))
    return f"credentialspec:file://{path}"


# -- which spec ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("container", "name"),
    [
        (app("credentialspec:file:///a"), "credentialspec:file:///a"),
        (app("credentialspecdomainless:arn:x", "credentialspec:file:///a"), "credentialspecdomainless:arn:x"),
        (app("file:///no-prefix", "credentialspec:file:///a"), "credentialspec:file:///a"),
        (app("credentialspec:file:///a", SecurityOpt=["credentialspec:file:///b"]), "credentialspec:file:///a"),
        (app("nothing", SecurityOpt=["no-new-privileges", "credentialspec:file:///b"]), "credentialspec:file:///b"),
        (app(securityopt=["credentialspec:file:///b"]), "credentialspec:file:///b"),
        (app(SecurityOpt=["credentialspecdomainless:arn:x"]), ""),
        (app(SecurityOpt=[1, "no-new-privileges"]), ""),
        (app(SecurityOpt=None), ""),
        (app(), ""),
    ],
)  # fmt: skip
def test_which_spec_a_container_has(container: Container, name: str) -> None:
    """Spec 05 §10.1: the list of the definition first, then Docker's security options, which know one prefix."""
    assert name_for(container) == name


def test_one_resource_serves_the_task_and_only_the_containers_with_a_spec_wait_for_it(host: Host) -> None:
    """Spec 05 §1.4, §1.5: the role is needed for what is not a file; renewals are for domainless specs."""
    file, far = "credentialspec:file:///a", "credentialspecdomainless:arn:aws:ssm:r:1:parameter/a"
    here = task_of(app(file), app(name="plain"), app(name="b", SecurityOpt=[file]))
    kind_ = with_daemon(Daemon())
    [resource] = kind_.prepare(here, host)
    assert (resource.kind, resource.name, resource.needs_execution_credentials) == (kind.KIND, kind.NAME, False)
    assert resource.detail == {"containers": ["app", "b"], "renewed": False}
    task = set_up(here, (resource,), False)
    assert [c.name for c in task.containers if c.transition_dependencies] == ["app", "b"]
    [resource] = kind_.prepare(task_of(app(file), app(far, name="b")), host)
    assert (resource.needs_execution_credentials, resource.detail["renewed"]) == (True, True)
    assert kind_.prepare(task_of(app("no-prefix")), host) == []


# -- what is in a spec -----------------------------------------------------------------------------


def test_only_three_members_of_a_spec_count() -> None:
    """Spec 05 §10.2: keys match in any case; the secret counts for domainless ones."""
    content = json.dumps(
        {
            "domainjoinconfig": {"MACHINEACCOUNTNAME": "WebApp01", "DnsName": "contoso.com", "Guid": None},
            "ActiveDirectoryConfig": {"HostAccountConfig": {"PluginInput": {"CredentialArn": "arn:secret"}}},
        }
    )
    joined = parse("credentialspec:file:///a", content)
    assert (joined.account, joined.domain, joined.secret_arn) == ("WebApp01", "contoso.com", "")
    assert joined.names_an_account and not joined.is_domainless and joined.content == content
    domainless = parse("credentialspecdomainless:file:///a", content)
    assert domainless.secret_arn == "arn:secret" and domainless.is_domainless


@pytest.mark.parametrize("document", [None, {}, {"DomainJoinConfig": None}, {"DomainJoinConfig": {"DnsName": "d"}}])
def test_a_spec_without_an_account_is_no_error(document: Any) -> None:
    """The reference skips it; the container that needs the tickets tells."""
    assert not parse("credentialspec:file:///a", json.dumps(document)).names_an_account


JOINED, DOMAINLESS = "credentialspec:file:///a", "credentialspecdomainless:file:///a"


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        (JOINED, "{", "Error unmarshalling credentialspec domain-joined { : unexpected end of JSON input"),
        (DOMAINLESS, "", "error unmarshalling credentialspec domainless  : unexpected end of JSON input"),
        (JOINED, "hello", "Error unmarshalling credentialspec domain-joined hello : invalid character 'h' looking for "
                          "beginning of value"),
        (DOMAINLESS, "[]", "error unmarshalling credentialspec domainless [] : json: cannot unmarshal array into Go "
                           "value of type CredentialSpec"),
        (JOINED, '{"DomainJoinConfig": {"DnsName": 1}}', 'Error unmarshalling credentialspec domain-joined '
         '{"DomainJoinConfig": {"DnsName": 1}} : json: cannot unmarshal number into Go struct field .DnsName of type '
         'string'),
    ],
)  # fmt: skip
def test_a_spec_that_is_no_json_object_is_told_with_its_text(name: str, content: str, error: str) -> None:
    """Spec 05 §10.2, to the byte before the decoder's own words."""
    with pytest.raises(ResourceFailed) as caught:
        parse(name, content)
    assert str(caught.value) == error


def test_the_text_of_a_secure_string_is_not_told() -> None:
    """It may be a password that was named by mistake."""
    with pytest.raises(ResourceFailed) as caught:
        parse(JOINED, "hunter2", "(a SecureString, not shown)")
    assert "hunter2" not in str(caught.value) and "(a SecureString, not shown) : invalid" in str(caught.value)


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("nowhere", "arn: invalid prefix"),
        ("arn:aws:s3", "arn: not enough sections"),
        ("arn:aws:iam::1:role/x", "unsupported credentialspec ARN, only s3/ssm ARNs are valid"),
        ("arn:aws:s3:::bucket/key", "credentialspec resource: unable to find execution role credentials"),
        ("arn:aws:ssm:r:1:parameter/a", "credentialspec resource: unable to find execution role credentials"),
        ("file://{tmp}/none.json", "open {tmp}/none.json: no such file or directory"),
        ("file://{tmp}", "open {tmp}: is a directory"),
        ("file://{tmp}/pipe", "open {tmp}/pipe: not a regular file"),
        ("file://{tmp}/large", "read {tmp}/large: more than 1048576 bytes"),
    ],
)
def test_a_place_that_cannot_be_read_is_told(place: str, error: str, tmp_path: Path, host: Host) -> None:
    """Spec 05 §10.2. A pipe would be waited for, with the whole engine."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(bytes((1 << 20) + 1))
    with pytest.raises(ResourceFailed) as caught:
        read_all([f"credentialspec:{place.format(tmp=tmp_path)}"], None, host)
    assert str(caught.value) == error.format(tmp=tmp_path)


@pytest.mark.parametrize("value", [BOTH, [], {"a b": 'c "d\\ e'}, {"x": [1, {"y": "\t \\\\"}]}, "  ", None])
def test_compacting_leaves_the_meaning(value: Any) -> None:
    """Blanks inside of texts stay."""
    short = json.dumps(value, separators=(",", ":"))
    assert compacted(json.dumps(value, indent=3)) == short


# -- whose tickets ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accounts", "paths", "found"),
    [
        ({"a": "WebApp01"}, ["/krb/1/webapp01"], {"a": "/krb/1/webapp01"}),
        ({"a": "web", "b": "WEBAPP"}, ["/krb/1/webapp", "/krb/1/web"], {"a": "/krb/1/web", "b": "/krb/1/webapp"}),
        ({"a": "web", "b": "web"}, ["/krb/1/web", "/krb/2/web"], {"a": "/krb/1/web", "b": "/krb/2/web"}),
        ({"a": "web"}, ["/krb/1/WEB-x", "/krb/other"], {"a": "/krb/1/WEB-x"}),
        ({"a": ""}, ["/krb/1/x"], {}),
        ({"a": "web"}, [], {}),
    ],
)  # fmt: skip
def test_a_directory_belongs_to_the_spec_whose_account_it_names(
    accounts: dict[str, str], paths: list[str], found: dict[str, str]
) -> None:
    """Spec 05 §10.3: in any case of letters; `web` does not take what is `webapp`'s."""
    specs = [Spec(name=n, content="", account=a, domain="d" if a else "") for n, a in accounts.items()]
    assert assigned(paths, specs) == found


def test_all_specs_of_a_joined_instance_go_into_one_lease(tmp_path: Path, host: Host) -> None:
    """Skipped ones included, as the reference does; what is kept are ids and directories."""
    names = [spec_file(tmp_path, "a"), spec_file(tmp_path, "b", "Other"), spec_file(tmp_path, "c", "", "")]
    daemon = Daemon(["/krb/1/webapp01", "/krb/1/other"])
    task = task_of(*(app(n, name=f"c{i}") for i, n in enumerate([*names, names[0]])))
    detail = with_daemon(daemon).create(task, Resource(kind=kind.KIND, name=kind.NAME), host)
    assert [len(contents) for contents in daemon.added] == [3]
    assert detail == {"leases": ["lease-1"], "tickets": {names[0]: "/krb/1/webapp01", names[1]: "/krb/1/other"}}


def test_what_was_leased_is_given_back_when_another_lease_fails(
    tmp_path: Path, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Joined and domainless in one task: decided spec by spec. Nothing is left of a task that does not run."""
    spec = spec_file(tmp_path, "a")
    task = task_of(app(spec), app(spec.replace("credentialspec:", "credentialspecdomainless:"), name="b"))
    monkeypatch.setattr(kind, "account_of", lambda *_: Account("joe", "secret", "d"))
    monkeypatch.setattr(kind.aws, "execution_role", lambda *_: None)
    daemon = Daemon(["/krb/1/webapp01"], refuses=["joe"])
    with pytest.raises(ResourceFailed) as caught:
        with_daemon(daemon).create(task, Resource(kind=kind.KIND, name=kind.NAME), host)
    assert str(caught.value) == "rpc error: code = Unauthenticated desc = no joe"
    assert daemon.deleted == ["lease-1"]


def test_every_lease_is_given_back_at_the_cleanup(host: Host) -> None:
    """The reference forgets all but the last. One that fails does not keep the others."""
    daemon = Daemon(refuses=["b"])
    resource = Resource(kind=kind.KIND, name=kind.NAME, detail={"leases": ["a", "b", "c"]})
    with pytest.raises(ResourceFailed) as caught:
        with_daemon(daemon).cleanup(task_of(), resource, host)
    assert str(caught.value) == "lease b: rpc error: code = Internal desc = busy" and daemon.deleted == ["a", "c"]
    with_daemon(daemon).cleanup(task_of(), Resource(kind=kind.KIND, name=kind.NAME), host)
    assert len(daemon.deleted) == 2


def test_tests_without_a_fetcher_have_made_up_tickets(tmp_path: Path, host: Host) -> None:
    """Spec 05 §10.3: the fetcher is never called."""
    names, daemon = [spec_file(tmp_path, "a"), spec_file(tmp_path, "b", "")], Daemon()
    specs = with_daemon(daemon, made_up=True)
    task, resource = task_of(*(app(n, name=n[-6:]) for n in names)), Resource(kind=kind.KIND, name=kind.NAME)
    detail = specs.create(task, resource, host)
    assert detail == {"leases": ["12345"], "tickets": {names[0]: "/tmp/tgt"}}
    specs.cleanup(task, replace(resource, detail=detail), host)
    assert (daemon.added, daemon.deleted) == ([], [])


# -- the container ---------------------------------------------------------------------------------


def draft_of(container: Container, detail: dict[str, Any], host: Host) -> Draft:
    resource = Resource(kind=kind.KIND, name=kind.NAME, detail=detail)
    task = replace(task_of(container), resources=(resource,))
    world = World(host.settings, host.facts, PortPicker((40001, 40100), lambda port, protocol: True))
    draft = Draft(task, container, world, host={"Binds": ["/x:/y"], **json.loads(container.docker_host_config)})
    with_daemon(Daemon()).amend(draft, resource)
    return draft


def test_a_container_sees_its_tickets_and_docker_no_spec(host: Host) -> None:
    """Spec 05 §10.4: appended to the binds; other security options stay."""
    options = ["no-new-privileges", "credentialspec:file:///a"]
    draft = draft_of(app(SecurityOpt=options), {"tickets": {"credentialspec:file:///a": "/krb/1/a"}}, host)
    assert draft.host["Binds"] == ["/x:/y", "/krb/1/a:/var/credentials-fetcher/krbdir:ro"]
    assert draft.host["SecurityOpt"] == ["no-new-privileges"]
    assert draft_of(app(), {}, host).host["Binds"] == ["/x:/y"]


@pytest.mark.parametrize(
    ("detail", "text"),
    [
        ({}, "unable to fetch task resource credentialspec"),
        ({"leases": ["1"], "tickets": {}}, "unable to fetch valid credentialspec mapping"),
        ({"leases": ["1"], "tickets": {"credentialspec:file:///b": "/krb"}},
         "unable to fetch valid credentialspec mapping"),
    ],
)  # fmt: skip
def test_a_container_without_its_tickets_is_refused(detail: dict[str, Any], text: str, host: Host) -> None:
    """Spec 05 §10.4."""
    with pytest.raises(Refused) as caught:
        draft_of(app("credentialspec:file:///a"), detail, host)
    assert str(caught.value) == f"DockerClientConfigError: {text}"


# -- users -----------------------------------------------------------------------------------------


def test_a_user_is_read_in_any_case_and_the_password_never_printed() -> None:
    """Spec 05 §10.3, trap 7."""
    account = parse_account('{"UserName": "joe", "PASSWORD": "hunter2", "domainName": "contoso.com", "x": 1}')
    assert (account.username, account.password, account.domain) == ("joe", "hunter2", "contoso.com")
    assert "hunter2" not in repr(account)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "unexpected end of JSON input"),
        ("hunter2", "invalid character 'h' looking for beginning of value"),
        ('["hunter2"]', "json: cannot unmarshal array into Go value of type asmSecret"),
        ('{"password": ["hunter2"]}', "json: cannot unmarshal array into Go struct field .password of type string"),
    ],
)
def test_a_secret_that_holds_no_user_is_told_without_its_text(text: str, error: str) -> None:
    """Neither in the reason nor in the exception's causes."""
    with pytest.raises(ResourceFailed) as caught:
        parse_account(text)
    assert str(caught.value) == f"failed to parse asmSecretData for the gMSA AD user: {error}"
    assert caught.value.__cause__ is None


# -- calls -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", grpc.NAMES[1:])
def test_a_call_is_tried_three_times_where_that_may_help(status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spec 05 §10.3: five statuses, pauses of one and two seconds with up to a fifth more, 20 s for each attempt."""
    pauses, given = [], []

    def call(path: str, method: str, request: bytes, seconds: float, who: str) -> bytes:
        given.append(seconds)
        raise grpc.GrpcError(status, "so it is")

    monkeypatch.setattr(grpc, "call", call)
    with pytest.raises(FetcherFailed) as caught:
        Fetcher("/fetcher.sock", pauses.append).delete("1") if status != "NOT_FOUND" else Fetcher("/s").add(["{}"])
    word = {"CANCELLED": "Canceled", "UNAVAILABLE": "Unavailable", "DEADLINE_EXCEEDED": "DeadlineExceeded"}
    if status in word:
        assert str(caught.value) == f"rpc error: code = {word[status]} desc = so it is"
    repeated = status in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "INTERNAL")
    assert len(given) == (3 if repeated else 1) and set(given) == {20.0}
    assert [base <= pause <= base * 1.2 for base, pause in zip((1.0, 2.0), pauses, strict=False)] == [True] * len(
        pauses
    )
    assert len(pauses) == len(given) - 1


def test_a_lease_that_is_gone_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cleanup may be repeated after a crash."""

    asked: list[bytes] = []

    def call(_socket: str, method: str, request: bytes, *_: Any) -> bytes:
        asked.append(request)
        raise grpc.GrpcError("NOT_FOUND", f"{method}: no such lease")

    monkeypatch.setattr(grpc, "call", call)
    fetcher = Fetcher("/fetcher.sock")
    fetcher.delete("1")
    assert asked == [protobuf.text(1, "1")], "asked once, and its answer is no failure"
    with pytest.raises(FetcherFailed, match="no such lease"):
        fetcher.add(["{}"])  # of any other call it is one


def test_without_a_fetcher_the_option_is_named() -> None:
    """Not retried: nothing will change."""
    with pytest.raises(FetcherFailed) as caught:
        Fetcher("").add(["{}"])
    assert "CREDENTIALS_FETCHER_HOST_DIR is not set" in str(caught.value)


def test_the_engine_asks_the_fetcher_that_its_environment_names() -> None:
    """CREDENTIALS_FETCHER_HOST_DIR, which the service writes; the switch for tests is off."""
    found = kind.from_config(load({"CREDENTIALS_FETCHER_HOST_DIR": "/run/cf.sock"}))
    assert (found._fetcher.socket_path, found._made_up) == ("/run/cf.sock", False)
    skip = "ZZZ_SKIP_CREDENTIALS_FETCHER_INVOCATION_CHECK_NOT_SUPPORTED_IN_PRODUCTION"
    assert kind.from_config(load({skip: "true"}))._made_up


def test_what_is_no_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three in the morning: the socket leads to something else."""
    monkeypatch.setattr(grpc, "call", lambda *_: b"\x0a\xff")
    with pytest.raises(FetcherFailed, match="code = Internal desc = the credentials fetcher's answer cannot be read"):
        Fetcher("/fetcher.sock").add(["{}"])
