"""How secrets, the log router's parts and environment files come into a create request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from common.model.agent import DockerFacts
from common.model.status import ContainerStatus
from common.model.task import Container, EnvironmentFile, Firelens, Network, Resource, Secret, Task, Volume
from services.engine.core.prepare import set_up
from services.engine.docker import request
from services.engine.docker.draft import Draft, Refused, World
from services.engine.docker.ports import PortPicker
from services.engine.docker.settings import Settings
from services.engine.resources.environment_files import EnvironmentFiles
from services.engine.resources.firelens import Firelens as FirelensKind
from services.engine.resources.registry import Registry
from services.engine.resources.secret_values import NotFetched, SecretValues
from services.engine.resources.secrets_manager import AsmSecrets, RegistryCredentials
from services.engine.resources.ssm import SsmSecrets

ARN = "arn:aws:ecs:us-west-2:123456789012:task/default/0123456789abcdef0123456789abcdef"
ID = ARN.rsplit("/", 1)[-1]


class Bench:
    """The kinds with their values filled in by hand, and the requests that they lead to."""

    def __init__(self, tmp: Path) -> None:
        self.values = SecretValues()
        self.registry = Registry(
            SsmSecrets(self.values), AsmSecrets(self.values), FirelensKind(self.values), EnvironmentFiles()
        )
        self.settings = Settings(data_dir=str(tmp))

    def draft(self, task: Task, name: str = "app") -> Draft:
        container = task.container(name)
        assert container is not None
        facts = DockerFacts(server_version="20.10.24", default_api_version="1.21", usable_api_versions=("1.21",))
        world = World(
            self.settings, facts, PortPicker((40001, 40100), lambda port, protocol: True), "us-west-2", "default",
            bridge_ip=lambda task, c: "172.17.0.9",
        )  # fmt: skip
        return request.build(task, container, world, self.registry, {})

    def environment(self, task: Task, name: str = "app") -> dict[str, str]:
        config: dict[str, Any] = self.draft(task, name).config
        return dict(entry.split("=", 1) for entry in config.get("Env", []))

    def file(self, task: Task, name: str, content: bytes) -> EnvironmentFile:
        place = Path(self.settings.data_dir) / "envfiles" / "default" / ID / "b" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        return EnvironmentFile(value=f"arn:aws:s3:::b/{name}", type="s3")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def secret(name: str, value_from: str = "/p", provider: str = "ssm", **fields: Any) -> Secret:
    chosen = {"type": "ENVIRONMENT_VARIABLE", "region": "us-west-2"}
    return Secret(name=name, value_from=value_from, provider=provider, **{**chosen, **fields})


def task_of(*containers: Container, kinds: tuple[str, ...] = ()) -> Task:
    detail = {"cluster": "default", "container": "app"}
    resources = tuple(Resource(kind=kind.partition("_")[0], name=kind, detail=detail) for kind in kinds)
    return Task(arn=ARN, family="web", version="7", containers=containers, resources=resources)


def test_the_secret_beats_the_definition_and_both_beat_files(bench: Bench) -> None:
    """Conformance cases R8, R9 and R10; a file's AWS_REGION beats the agent's."""
    container = Container(
        name="app", environment={"DB": "definition", "OWN": "definition"}, secrets=(secret("DB"), secret("MORE", "/q"))
    )
    first = bench.file(task_of(container), "1.env", b"DB=file\nOWN=file\nMORE=file\nA=1\nA=2\nAWS_REGION=eu-x\n")
    second = bench.file(task_of(container), "2.env", b"A=3\nB=4\n")
    container = replace(container, environment_files=(first, second))
    bench.values.keep(ARN, "ssm", {"/p_us-west-2": "secret", "/q_us-west-2": "second"})
    found = bench.environment(task_of(container, kinds=("envfile_app", "ssmsecret")))
    assert found == {"DB": "secret", "OWN": "definition", "MORE": "second", "A": "2", "B": "4", "AWS_REGION": "eu-x"}


def test_a_value_under_another_name_leaves_the_variable_empty(bench: Bench) -> None:
    """Conformance case R7: SSM answers without the version selector."""
    bench.values.keep(ARN, "ssm", {"/a_us-west-2": "value"})
    container = Container(name="app", secrets=(secret("V", "/a:3"),))
    assert bench.environment(task_of(container, kinds=("ssmsecret",)))["V"] == ""


def test_of_two_secrets_with_one_name_the_later_one_counts(bench: Bench) -> None:
    """The order of the definition decides, not the provider."""
    bench.values.keep(ARN, "ssm", {"/p_us-west-2": "from ssm"})
    bench.values.keep(ARN, "asm", {"arn:x_us-west-2": "from asm"})
    container = Container(name="app", secrets=(secret("V", "arn:x", "asm"), secret("V")))
    assert bench.environment(task_of(container, kinds=("ssmsecret", "asmsecret")))["V"] == "from ssm"


@pytest.mark.parametrize(("provider", "kind", "word"), [("ssm", "ssmsecret", "SSM"), ("asm", "asmsecret", "ASM")])
def test_a_container_is_never_made_without_its_secrets(bench: Bench, provider: str, kind: str, word: str) -> None:
    """Values that are not in memory (a restart at the wrong moment) are an error, not an empty variable."""
    container = Container(name="app", secrets=(secret("V", provider=provider),))
    with pytest.raises(Refused) as caught:
        bench.draft(task_of(container, kinds=(kind,)))
    assert str(caught.value) == f"DockerClientConfigError: task secret data: unable to fetch {word} Secrets resource"


@pytest.mark.parametrize("kinds", [(), ("ssmsecret",)])
def test_a_secret_of_an_unknown_provider_is_an_empty_variable(bench: Bench, kinds: tuple[str, ...]) -> None:
    """Spec 05 §6.1, whether the task has other secrets or none, and over the value of the definition."""
    bench.values.keep(ARN, "ssm", {})
    container = Container(name="app", environment={"V": "definition"}, secrets=(secret("V", provider="vault"),))
    assert bench.environment(task_of(container, kinds=kinds))["V"] == ""


def test_what_was_fetched_for_a_forgotten_task_is_gone() -> None:
    """A task of another instance has no cleanup; its secrets and passwords must not outlive it in memory."""
    registry, values, auths = Registry(), SecretValues(), RegistryCredentials()
    for kind in (SsmSecrets(values), AsmSecrets(values), auths):
        registry.add(kind)
    for arn in (ARN, ARN + "2"):
        values.keep(arn, "ssm", {"/p_us-west-2": "t0p"})
        values.keep(arn, "asm", {"/p_us-west-2": "t0p"})
        auths.keep(arn, {"parameter": {"username": "u", "password": "p"}})
    task, other = (Task(arn=arn) for arn in (ARN, ARN + "2"))
    registry.forget(task)
    assert registry.asm_auth(task, "parameter") is None
    for provider in ("ssm", "asm"):
        with pytest.raises(NotFetched):
            values.of(task.arn, secret("V", provider=provider))
        assert values.of(other.arn, secret("V", provider=provider)) == "t0p"
    assert registry.asm_auth(other, "parameter") == {"username": "u", "password": "p"}


def test_a_log_driver_secret_is_a_log_option(bench: Bench) -> None:
    """Empty values are left out, and so is everything when the definition names no driver."""
    wanted = (secret("token", type="", target="LOG_DRIVER"), secret("none", "/n", type="", target="LOG_DRIVER"))
    bench.values.keep(ARN, "ssm", {"/p_us-west-2": "t0p"})
    splunk = Container(name="app", secrets=wanted, docker_host_config='{"LogConfig":{"Type":"splunk"}}')
    draft = bench.draft(task_of(splunk, kinds=("ssmsecret",)))
    assert draft.host["LogConfig"] == {"Type": "splunk", "Config": {"token": "t0p"}}
    plain = bench.draft(task_of(replace(splunk, docker_host_config=None), kinds=("ssmsecret",)))
    assert "LogConfig" not in plain.host


def firelens_task(kind: str = "fluentbit", options: dict[str, str] | None = None) -> Task:
    token = secret("apikey", type="", target="LOG_DRIVER")
    log_config = {"LogConfig": {"Type": "awsfirelens", "Config": {"Name": "http", "@type": "http"}}}
    return task_of(
        Container(name="router", firelens=Firelens(type=kind, options=options or {})),
        Container(name="app", secrets=(token,), docker_host_config=json.dumps(log_config)),
        kinds=("firelens", "ssmsecret"),
    )


def test_the_router_gets_the_secret_options_of_the_others(bench: Bench) -> None:
    """Conformance case R40; the container that logs does not get them."""
    bench.values.keep(ARN, "ssm", {"/p_us-west-2": "t0p"})
    task = firelens_task("fluentd")
    found = bench.environment(task, "router")
    assert (found["apikey_1"], found["FLUENT_UID"]) == ("t0p", "0")
    app = bench.draft(task)
    assert "t0p" not in json.dumps(app.body)
    assert app.host["LogConfig"]["Type"] == "fluentd"


def test_the_router_is_not_made_without_the_secret_options(bench: Bench) -> None:
    """Spec 05 §9.4."""
    with pytest.raises(Refused) as caught:
        bench.draft(firelens_task(), "router")
    assert str(caught.value) == (
        "DockerClientConfigError: unable to generate config to create firelens container: missing secret value for "
        "secret apikey"
    )


@pytest.mark.parametrize(
    ("kind", "main", "external"),
    [
        ("fluentd", "/fluentd/etc/fluent.conf", "/fluentd/etc/external.conf"),
        ("fluentbit", "/fluent-bit/etc/fluent-bit.conf", "/fluent-bit/etc/external.conf"),
    ],
)
def test_the_routers_binds_are_configuration_socket_and_s3_file(
    bench: Bench, kind: str, main: str, external: str
) -> None:
    """Spec 05 §9.4, in this order."""
    bench.values.keep(ARN, "ssm", {})
    base = f"/var/lib/ecs/data/firelens/{ID}"
    binds = [f"{base}/config/fluent.conf:{main}", f"{base}/socket/:/var/run/"]
    assert bench.draft(firelens_task(kind), "router").host["Binds"] == binds
    from_s3 = firelens_task(kind, {"config-file-type": "s3", "config-file-value": "arn:aws:s3:::b/k"})
    expected = [*binds, f"{base}/config/external.conf:{external}"]
    assert bench.draft(from_s3, "router").host["Binds"] == expected


def test_the_router_waits_for_the_secrets_of_those_that_log_through_it(bench: Bench) -> None:
    """The dependency of spec 05 §1.5, through the resource's own note of the router."""
    task = replace(firelens_task(), resources=())
    resources = bench.registry.resources_for(task, _host(bench))
    ready = set_up(task, resources, limits_enabled=False)
    router = ready.container("router")
    assert router is not None
    waits = router.transition_dependencies[int(ContainerStatus.CREATED)].resources
    assert {d.target for d in waits} == {"ssmsecret", "firelens"}


def test_a_line_that_is_too_long_is_the_containers_error(bench: Bench) -> None:
    """Conformance case R54, and the same for a file that is gone."""
    container = Container(name="app")
    file = bench.file(task_of(container), "long.env", b"A=" + b"x" * 65534)
    task = task_of(replace(container, environment_files=(file,)), kinds=("envfile_app",))
    with pytest.raises(Refused) as caught:
        bench.draft(task)
    prefix = f"ResourceInitializationError: resource cannot be initialized for task {ARN}: "
    assert str(caught.value) == f"{prefix}bufio.Scanner: token too long"
    missing = EnvironmentFile(value="arn:aws:s3:::b/gone.env")
    with pytest.raises(Refused, match=r"gone\.env: no such file or directory"):
        bench.draft(task_of(replace(container, environment_files=(missing,)), kinds=("envfile_app",)))


def test_values_are_in_no_document_and_no_text(bench: Bench) -> None:
    """Neither the resources nor the stores show what they hold."""
    bench.values.keep(ARN, "ssm", {"/p_us-west-2": "t0p"})
    task = firelens_task()
    resources = bench.registry.resources_for(task, _host(bench))
    assert "t0p" not in repr((bench.values, bench.registry, resources, task))


def _host(bench: Bench) -> Any:
    from services.engine.resources.kind import Host

    return Host(bench.settings, DockerFacts(), None, cluster="default")  # type: ignore[arg-type]


def test_a_volume_may_be_called_like_a_resource(bench: Bench) -> None:
    """Resources are found by name, and people choose the names of volumes."""
    container = Container(
        name="app", secrets=(secret("V"),), environment_files=(EnvironmentFile(value="arn:aws:s3:::b/k"),)
    )
    volumes = tuple(Volume(name=name, host_path="/srv") for name in ("ssmsecret", "envfile_app"))
    task = replace(task_of(container), volumes=volumes)
    resources = bench.registry.resources_for(task, _host(bench))
    assert [r.name for r in resources] == ["ssmsecret:ssmsecret", "envfile:envfile_app"]
    ready = set_up(task, resources, limits_enabled=False).containers[0]
    waits = ready.transition_dependencies[int(ContainerStatus.CREATED)].resources
    assert {d.target for d in waits} == {r.name for r in resources}


def test_a_known_bridge_address_is_given_to_those_that_log(bench: Bench) -> None:
    """FLUENT_HOST and FLUENT_PORT beside the socket (spec 05 §9.5)."""
    bench.values.keep(ARN, "ssm", {})
    task = firelens_task()
    containers = tuple(replace(c, networks=(Network(name="bridge", ip_address="172.17.0.9"),)) for c in task.containers)
    found = bench.environment(replace(task, containers=containers))
    assert (found["FLUENT_HOST"], found["FLUENT_PORT"]) == ("172.17.0.9", "24224")
