"""The small parts of the engine's hands: texts, references, registry credentials, ports, facts, cgroup limits."""

from __future__ import annotations

import base64
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.durations import go_duration
from common.errors import NamedError
from common.model.agent import Credentials
from common.model.task import Container, RegistryAuth, Task
from services.engine.core.effects import SetupError
from services.engine.docker import facts, reference, texts
from services.engine.docker.api import ApiError, Canceller
from services.engine.docker.auth import StaticAuths, header
from services.engine.docker.ecr import EcrError, EcrTokens
from services.engine.docker.ports import NoPorts, PortPicker, is_free, kernel_range
from services.engine.docker.pull import Attempts, Backoff, Failed
from services.engine.resources import cgroup, slices
from services.engine.resources.volume import printed

# -- texts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"), (0.1, "100ms"), (1.5, "1.5s"), (30, "30s"), (60, "1m0s"), (150, "2m30s"), (180, "3m0s"),
        (7200, "2h0m0s"), (60.000412, "1m0.000412s"), (3661, "1h1m1s"), (-1, "-1s"),
    ],
)  # fmt: skip
def test_durations_read_like_go(seconds: float, text: str) -> None:
    """Trap 2 of spec 03."""
    assert go_duration(seconds) == text


@given(st.integers(0, 10**7))
def test_whole_seconds_survive_being_printed(seconds: int) -> None:
    """The printed parts add up to the number."""
    rest, total = go_duration(seconds), 0
    for unit, scale in (("h", 3600), ("m", 60), ("s", 1)):
        number, found, tail = rest.partition(unit)
        if found:
            total, rest = total + int(number) * scale, tail
    assert (total, rest) == (seconds, "")


def test_an_error_of_the_daemon_reads_like_the_reference_client() -> None:
    """With a message, and without one (spec 03 §6.4)."""
    assert str(ApiError(404, "Not Found", " no such thing \n", "u")) == "Error response from daemon: no such thing"
    assert str(ApiError(500, "Internal Server Error", "", "http://x/v1.21/info")) == (
        "request returned Internal Server Error for API route and version http://x/v1.21/info, check if the server "
        "supports the requested API version"
    )


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        (
            "Error response from daemon: denied: User: arn:aws:sts::1:assumed-role/R/x is not authorized to perform: "
            "ecr:BatchGetImage on resource: r",
            "The task can’t pull the image. Check that the role has the permissions to pull images from the registry. ",
        ),
        ("net/http: request canceled while waiting for connection", "The task can’t pull the image. Check your "
         "network configuration. "),
        ("something else", ""),
    ],
)  # fmt: skip
def test_pull_errors_get_advice_where_the_cause_is_known(text: str, advice: str) -> None:
    """Conformance case 50; manifest errors stay as they are."""
    assert texts.extended(NamedError("CannotPullContainerError", text)).text == advice + text
    assert texts.extended(NamedError("CannotPullImageManifestError", text)).text == text


# -- references ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "target", "normal"),
    [
        ("busybox", ("busybox", "latest"), "docker.io/library/busybox"),
        ("busybox:1", ("busybox", "1"), "docker.io/library/busybox"),
        ("docker.io/library/busybox", ("busybox", "latest"), "docker.io/library/busybox"),
        ("index.docker.io/a/b", ("a/b", "latest"), "docker.io/a/b"),
        ("my.reg:5000/app", ("my.reg:5000/app", "latest"), "my.reg:5000/app"),
        ("localhost/app:x", ("localhost/app", "x"), "localhost/app"),
        (f"a/b@sha256:{'0' * 64}", ("a/b", f"sha256:{'0' * 64}"), "docker.io/a/b"),
        (f"a/b:t@sha256:{'0' * 64}", ("a/b", f"sha256:{'0' * 64}"), "docker.io/a/b"),
    ],
)
def test_references_split_as_docker_splits_them(image: str, target: tuple[str, str], normal: str) -> None:
    """Conformance case 48: what POST /images/create gets, and the name by which digests are compared."""
    assert reference.pull_target(image) == target
    assert reference.normalised(image) == normal


@pytest.mark.parametrize("image", ["Upper/case", "a b", "-x", "a//b", "busybox:", "x@sha256:1", "a:" + "t" * 129])
def test_what_is_no_reference_is_refused(image: str) -> None:
    """Before Docker is asked."""
    with pytest.raises(reference.InvalidReference):
        reference.pull_target(image)


def test_the_digest_of_the_own_repository_is_chosen() -> None:
    """Spec 03 §6.3, and the looser rule after a pull (spec 08 §2.3)."""
    digests = ["other/busybox@sha256:1", "docker.io/library/busybox@sha256:2", "host:5000/app@sha256:3"]
    assert reference.matching_digest("busybox:1", digests) == "sha256:2"
    assert reference.matching_digest("busybox", digests[:1]) == ""
    assert reference.loose_digest("host:5000/else:1", digests) == "sha256:3"
    assert reference.loose_digest("nothing", digests) == ""


@given(st.text(max_size=30))
def test_any_text_is_a_reference_or_is_refused(text: str) -> None:
    """Garbage from a payload must not surprise."""
    try:
        name, tag = reference.pull_target(text)
    except reference.InvalidReference:
        return
    assert name and tag


# -- registry credentials --------------------------------------------------------------------------


def test_the_longest_matching_registry_entry_counts() -> None:
    """Conformance case 49."""
    data = {"example.tld": {"username": "one"}, "https://example.tld/user2": {"username": "two"}}
    auths = StaticAuths("docker", json.dumps(data))
    assert auths.for_image("example.tld/user2/image")["username"] == "two"
    assert auths.for_image("example.tld/my/image")["username"] == "one"
    assert auths.for_image("registry.tld/image") == {}


def test_docker_hub_has_one_entry_under_its_old_name() -> None:
    """All of Docker Hub's names look for index.docker.io/v1/ and nothing else."""
    auth = base64.b64encode(b"user:pass:word").decode()
    data = {"https://index.docker.io/v1/": {"auth": auth}, "docker.io": {"auth": auth}, "bad": {"auth": "bm8="}}
    auths = StaticAuths("dockercfg", json.dumps(data))
    for image in ("busybox", "docker.io/a/b", "registry-1.docker.io/a/b"):
        assert auths.for_image(image)["password"] == "pass:word"
    assert auths.for_image("bad/x") == auths.for_image("busybox")
    assert StaticAuths("docker", "{}").for_image("busybox") == {}


@pytest.mark.parametrize(
    ("type_", "data"),
    [
        ("docker", "nope"),
        ("other", "{}"),
        ("docker", "[]"),
        ("docker", "null"),
        ("", "{}"),
        ("docker", '{"docker.io": {"username": "u"}, "index.docker.io/v1/": {"username": "u", "password": 12345}}'),
        ("docker", '{"index.docker.io/v1/": {"username": "u", "password": "p"}, "quay.io": "token"}'),
        ("dockercfg", '{"index.docker.io/v1/": {"auth": "dTpw"}, "quay.io": ["auth"]}'),
    ],
)
def test_unusable_credentials_mean_anonymous_pulls(type_: str, data: str) -> None:
    """A warning, never a failure; and the header is sent all the same."""
    assert StaticAuths(type_, data).for_image("busybox") == {}
    assert header({}) == {"X-Registry-Auth": "e30="}


def test_a_token_of_ecr_is_asked_for_once_per_who_and_where() -> None:
    """Cached by role and registry, dropped half an hour before its end (spec 03 §6.4)."""
    asked: list[tuple[str, str]] = []
    life = timedelta(hours=12)

    def fetch(wanted: RegistryAuth, region: str, role: Credentials | None) -> list[dict[str, Any]]:
        asked.append((region, role.credentials_id if role else ""))
        token = base64.b64encode(b"AWS:secret").decode()
        return [{"authorizationToken": token, "proxyEndpoint": "https://1.ecr", "expiresAt": datetime.now(UTC) + life}]

    tokens = EcrTokens(lambda: "us-west-2", fetch)
    wanted = RegistryAuth(type="ecr", registry_id="1")
    role = Credentials(credentials_id="c", task_arn="a", role_type="TaskExecution")
    for _ in range(3):
        auth = tokens.for_registry(wanted, role)
    assert auth == {"username": "AWS", "password": "secret", "serveraddress": "https://1.ecr"}
    tokens.for_registry(wanted, None)
    assert asked == [("us-west-2", "c"), ("us-west-2", "")]
    life = timedelta(minutes=20)
    other = RegistryAuth(type="ecr", registry_id="2")
    tokens.for_registry(other, role)
    tokens.for_registry(other, role)
    assert len(asked) == 4
    with pytest.raises(EcrError, match=r"unexpected number of results in AuthorizationData \(0\)"):
        EcrTokens(lambda: "r", lambda *_: []).for_registry(wanted, None)


# -- attempts --------------------------------------------------------------------------------------


def attempts(count: int, seconds: float, canceller: Canceller | None = None) -> Attempts:
    late = NamedError("DockerTimeoutError", "too late")
    return Attempts(count, seconds, Backoff(0.001, 0.001, 1.0, 0.0), lambda _: late, canceller or Canceller())


def failing(name: str, calls: list[int]) -> Any:
    def attempt(end: float) -> None:
        calls.append(1)
        raise Failed(NamedError(name, "x"))

    return attempt


def test_attempts_are_counted_and_end_at_once_when_final() -> None:
    """`CannotPullECRContainerError` says: do not retry."""
    for name, wanted in (("CannotPullContainerError", 4), ("CannotPullECRContainerError", 1)):
        calls: list[int] = []
        with pytest.raises(Failed) as caught:
            attempts(4, 10).run(failing(name, calls))
        assert (len(calls), caught.value.error.name) == (wanted, name)


def test_the_deadline_covers_all_attempts() -> None:
    """It is the time-out that is reported then, not the last failure."""
    calls: list[int] = []
    with pytest.raises(Failed) as caught:
        attempts(10**6, 0.05).run(failing("CannotPullContainerError", calls))
    assert caught.value.error.name == "DockerTimeoutError"


def test_a_cancelled_operation_does_not_wait_for_its_next_attempt() -> None:
    """The pause between attempts ends at once."""
    canceller = Canceller()
    canceller.cancel()
    began = time.monotonic()
    with pytest.raises(Failed):
        attempts(5, 60, canceller).run(failing("CannotPullContainerError", []))
    assert time.monotonic() - began < 30


# -- ports -----------------------------------------------------------------------------------------


def test_the_picker_goes_on_where_it_stopped() -> None:
    """Conformance case 42."""
    picker = PortPicker((40001, 40080), lambda port, protocol: True, cursor=40000)
    firsts = [picker.pick(count, "tcp") for count in (10, 30, 20)]
    assert firsts == [40001, 40011, 40041] and picker.cursor == 40060


def test_the_picker_searches_the_whole_range_before_it_gives_up() -> None:
    """A better search than the reference's, which may miss free ports below its cursor."""
    free = {40001, 40002, 40005}
    picker = PortPicker((40001, 40005), lambda port, protocol: port in free, cursor=40004)
    assert [picker.pick(1, "tcp"), picker.pick(2, "tcp")] == [40005, 40001]
    with pytest.raises(NoPorts, match=r"^3 contiguous host ports are unavailable$"):
        picker.pick(3, "tcp")
    with pytest.raises(NoPorts, match=r"^a host port is unavailable$"):
        PortPicker((1, 2), lambda port, protocol: False).pick(1, "udp")


@given(st.lists(st.tuples(st.integers(1, 4), st.booleans(), st.integers(0, 7)), max_size=30))
def test_no_port_is_held_twice(requests: list[tuple[int, bool, int]]) -> None:
    """Whatever comes and goes, live holders never share a port of one protocol."""
    picker = PortPicker((100, 120), lambda port, protocol: True)
    held: dict[str, set[tuple[int, str]]] = {}
    for number, (count, udp, leaving) in enumerate(requests):
        protocol = "udp" if udp else "tcp"
        picker.release(str(leaving))
        held.pop(str(leaving), None)
        try:
            first = picker.pick(count, protocol, str(number))
        except NoPorts:
            continue
        mine = {(first + offset, protocol) for offset in range(count)}
        assert not mine & set().union(*held.values(), set())
        assert all(100 <= port <= 120 for port, _ in mine)
        held[str(number)] = mine


def test_a_listening_port_is_not_free() -> None:
    """The kernel is asked, on all addresses."""
    import socket

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        assert not is_free(server.getsockname()[1], "tcp")
        assert is_free(server.getsockname()[1], "udp")


def test_the_kernels_range_is_the_default(tmp_path: Path) -> None:
    """With the reference's fallback when it cannot be read."""
    path = tmp_path / "range"
    path.write_text("32768\t60999\n")
    assert kernel_range(str(path)) == (32768, 60999)
    assert kernel_range(str(tmp_path / "none")) == (49153, 65535)


# -- facts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lowest", "highest", "default", "newest"),
    [("1.12", "1.41", "1.21", "1.41"), ("1.24", "1.50", "1.24", "1.44"), ("1.44", "1.52", "1.44", "1.44"),
     ("1.46", "1.60", "1.46", "1.46"), ("1.12", "1.20", "1.17", "1.20")],
)  # fmt: skip
def test_the_default_version_is_as_old_as_the_daemon_allows(
    lowest: str, highest: str, default: str, newest: str
) -> None:
    """1.21, 1.24 on Docker 25, 1.44 on Docker 29; a newer daemon's own lowest (spec 03 §6.1, W15)."""
    usable = facts.usable_versions(lowest, highest)
    assert (facts.default_version(usable), usable[-1]) == (default, newest)


def test_legacy_volume_plugins_are_found_by_their_files(tmp_path: Path) -> None:
    """Sockets, .spec and .json, also in directories of their own (spec 01 §6.5)."""
    sockets, specs = tmp_path / "run", tmp_path / "etc"
    files = ("run/fancy.sock", "run/deep/deep.sock", "etc/a.spec", "etc/b.json", "etc/c.txt")
    for path in (tmp_path / name for name in files):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert facts._legacy_plugins((str(sockets), str(specs))) == ["deep", "fancy", "a", "b"]


# -- cgroups ---------------------------------------------------------------------------------------


def limits(**fields: Any) -> cgroup.Limits:
    containers = fields.pop("containers", (Container(name="a", cpu_shares=1), Container(name="b", cpu_shares=364544)))
    return cgroup.limits_of(Task(arn="a/b", containers=containers, **fields), 0.1, 0)


def test_a_task_with_cpu_has_a_quota_and_else_shares() -> None:
    """Conformance cases 34 and 35; the division is the reference's double arithmetic (trap 27)."""
    assert (limits(cpu=0.25).quota_us, limits(cpu=0.25).period_us, limits(cpu=0.25).shares) == (25000, 100000, 0)
    assert limits(cpu=0.7).quota_us == int(0.7 * 100000)
    assert (limits().shares, limits().quota_us) == (262144, 0)


def test_a_container_may_not_have_more_memory_than_its_task() -> None:
    """Conformance case 36."""
    with pytest.raises(SetupError) as caught:
        limits(memory_mib=512, containers=(Container(name="a", memory_mib=1024),))
    assert str(caught.value) == (
        "cgroup resource: unable to build resource spec for task: task memory spec builder: container memory "
        "limit(1024) greater than task memory limit(512)"
    )


def test_slices_nest_where_an_id_has_hyphens() -> None:
    """systemd opens a level for each hyphen (trap 28)."""
    assert slices.path_of("abc", "/r") == "/r/ecstasks.slice/ecstasks-abc.slice"
    assert slices.path_of("a-b", "/r") == "/r/ecstasks.slice/ecstasks-a.slice/ecstasks-a-b.slice"


def test_systemd_gets_the_limits_as_properties() -> None:
    """CPUQuotaPerSecUSec is rounded up to 10 ms; CPUWeight comes from the shares (spec 03 §9)."""
    made = slices.unit_arguments("x", cgroup.Limits(quota_us=25001, period_us=100000, memory_bytes=5, processes=7))
    assert made[:5] == ["StartTransientUnit", "ssa(sv)a(sa(sv))", "ecstasks-x.slice", "replace", "10"]
    text = " ".join(made)
    assert "CPUQuotaPerSecUSec t 260000" in text and "MemoryMax t 5" in text and "TasksMax t 7" in text
    assert "CPUWeight t 10000" in " ".join(slices.unit_arguments("x", cgroup.Limits(shares=262144)))
    assert slices.quota_per_second_us(25000, 100000) == 250000


def test_a_unified_tree_without_systemd_gets_the_same_end_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files that the kernel would act on, here in an ordinary directory."""
    monkeypatch.setattr(slices, "has_systemd", lambda: False)
    (tmp_path / "ecstasks.slice").mkdir()
    slices.create("x", cgroup.Limits(quota_us=50000, period_us=100000, memory_bytes=9, processes=3), str(tmp_path))
    made = tmp_path / "ecstasks.slice" / "ecstasks-x.slice"
    found = {path.name: path.read_text() for path in made.iterdir()}
    assert found == {"cpu.max": "50000 100000", "memory.max": "9", "pids.max": "3"}
    assert (tmp_path / "ecstasks.slice" / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"


def test_maps_are_printed_sorted() -> None:
    """As they appear in set-up errors."""
    assert (printed({"b": "2", "a": "1"}), printed({})) == ("map[a:1 b:2]", "map[]")
