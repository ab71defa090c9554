"""Bodies of the ECS API calls, byte for byte (spec 02 §8.5, §10)."""

from __future__ import annotations

import pytest

from common.model.messages import ContainerChanged, ManagedAgentChanged, TaskChanged
from common.model.status import ContainerStatus, TaskStatus
from common.model.task import PortBinding
from common.wire import ecs, jsontext

ARN = "arn:aws:ecs:us-west-2:123456789012:task/default/11111111111111111111111111111111"
DEFAULT = ecs.BindingRules()
ALL = ecs.BindingRules(exclude_ipv6=False)
BOTH = (
    PortBinding(container_port=80, host_port=32768, bind_ip="0.0.0.0"),
    PortBinding(container_port=80, host_port=32768, bind_ip="::"),
)


def body(task: TaskChanged, *containers: ContainerChanged, rules: ecs.BindingRules = DEFAULT) -> str:
    """The body as it goes onto the wire."""
    return jsontext.dumps(ecs.submit_task("default", task, containers, (), rules))


def changed(name: str = "c", status: ContainerStatus = ContainerStatus.RUNNING, **facts: object) -> ContainerChanged:
    """A container's change."""
    return ContainerChanged(arn=ARN, name=name, status=status, **facts)  # type: ignore[arg-type]


def test_the_report_of_a_stopped_task_is_the_documented_one():
    """The fourth example of the specification (§10.4), literally."""
    proxy, app = "9c0f" * 16, "a1b2" * 16
    digest_1, digest_2 = "sha256:" + "1" * 64, "sha256:" + "2" * 64
    text = body(
        TaskChanged(
            arn=ARN, status=TaskStatus.STOPPED, execution_stopped_at=1781525131.004, pull_started_at=1781524801.412,
            pull_stopped_at=1781524852.09,
        ),
        changed("app", ContainerStatus.STOPPED, exit_code=0, image_digest=digest_2, runtime_id=app),
        changed(
            "proxy", ContainerStatus.STOPPED, exit_code=137, image_digest=digest_1, runtime_id=proxy,
            port_bindings=BOTH, single_ports=(80,),
        ),
    )  # fmt: skip
    assert text == (
        '{"cluster":"default","containers":[{"containerName":"app","exitCode":0,"imageDigest":"' + digest_2 + '",'
        '"runtimeId":"' + app + '","status":"STOPPED"},{"containerName":"proxy","exitCode":137,"imageDigest":"'
        + digest_1 + '","networkBindings":[{"bindIP":"0.0.0.0","containerPort":80,"hostPort":32768,"protocol":"tcp"}],'
        '"runtimeId":"' + proxy + '","status":"STOPPED"}],"executionStoppedAt":1781525131.004,"pullStartedAt":'
        '1781524801.412,"pullStoppedAt":1781524852.09,"reason":"","status":"STOPPED","task":"' + ARN + '"}'
    )  # fmt: skip


def test_half_a_character_in_a_reason_is_replaced():
    """A payload's overrides may name one; a body that is no UTF-8 could never be sent."""
    text = body(TaskChanged(arn=ARN, status=TaskStatus.STOPPED, reason="Unrecognized key: \ud800"))
    assert '"reason":"Unrecognized key: \ufffd"' in text
    assert text.encode()


def test_a_report_without_containers_has_no_such_member():
    """The rejection of an invalid task, literally (§4.4)."""
    reason = "UnrecogniedTaskError: Error loading task - Unrecognized TaskStatus"
    assert body(TaskChanged(arn=ARN, status=TaskStatus.STOPPED, reason=reason)) == (
        f'{{"cluster":"default","reason":"{reason}","status":"STOPPED","task":"{ARN}"}}'
    )


@pytest.mark.parametrize(
    ("status", "word"),
    [(0, "PENDING"), (1, "PENDING"), (3, "PENDING"), (4, "RUNNING"), (5, "STOPPED")],
)
def test_statuses_in_words(status, word):
    """Everything before RUNNING is PENDING."""
    assert f'"status":"{word}"' in body(TaskChanged(arn=ARN, status=TaskStatus(status)))


def test_a_manifest_pull_is_pending_with_its_digest():
    """The only thing such an entry tells."""
    text = body(
        TaskChanged(arn=ARN, status=TaskStatus.MANIFEST_PULLED),
        changed(status=ContainerStatus.MANIFEST_PULLED, image_digest="sha256:1"),
    )
    assert '[{"containerName":"c","imageDigest":"sha256:1","status":"PENDING"}]' in text


def test_texts_are_cut_by_bytes_and_never_through_a_character():
    """1024 for reasons, 255 for ids."""
    assert ecs.cut("a" * 2000, 1024) == "a" * 1024
    assert ecs.cut("é" * 600, 1023) == "é" * 511
    assert ecs.cut("ok", 1024) == "ok"
    built = ecs.submit_task(
        "default", TaskChanged(arn=ARN, status=TaskStatus.RUNNING, reason="r" * 2000),
        [changed(reason="€" * 600, runtime_id="i" * 300)], (), DEFAULT,
    )  # fmt: skip
    assert len(built["reason"]) == 1024
    assert len(built["containers"][0]["reason"].encode()) == 1023
    assert len(built["containers"][0]["runtimeId"]) == 255


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1781524801.412, "1781524801.412"), (1781524801.4129, "1781524801.412"), (1781524801.0, "1781524801"),
     (1781524852.09, "1781524852.09"), (1781524801.0004, "1781524801")],
)  # fmt: skip
def test_times_have_milliseconds_and_no_empty_fraction(seconds, text):
    """Truncated, not rounded, and not damaged by binary fractions."""
    assert jsontext.dumps(ecs.timestamp(seconds)) == text


def test_bindings_follow_the_exclusions():
    """IPv6 is left out by default; with no exclusion an empty list is written, with one it is absent."""
    bound = changed(port_bindings=BOTH, single_ports=(80,))
    assert [b["bindIP"] for b in ecs.network_bindings(bound, DEFAULT)] == ["0.0.0.0"]
    assert [b["bindIP"] for b in ecs.network_bindings(bound, ALL)] == ["0.0.0.0", "::"]
    only_v6 = ecs.BindingRules(exclude_ipv6=False, exclude_ipv4=True)
    assert [b["bindIP"] for b in ecs.network_bindings(bound, only_v6)] == ["::"]
    running = TaskChanged(arn=ARN, status=TaskStatus.RUNNING)
    assert "networkBindings" not in body(running, changed())
    assert '"networkBindings":[]' in body(running, changed(), rules=ALL)


def test_a_range_is_one_binding_per_protocol_and_address():
    """Single ports first; the ports of the range are not listed one by one."""
    bindings = [
        PortBinding(container_port=21 + n, host_port=60001 + n, protocol="udp", bind_ip=ip)
        for n in range(2)
        for ip in ("0.0.0.0", "::")
    ]
    change = changed(port_bindings=(*bindings, *BOTH), single_ports=(80,), port_ranges={"21-22": "60001-60002"})
    listed = list(ecs.network_bindings(change, ALL))
    assert [b.get("containerPort") for b in listed] == [80, 80, None, None]
    assert listed[3] == {
        "bindIP": "::", "containerPortRange": "21-22", "hostPortRange": "60001-60002", "protocol": "udp",
    }  # fmt: skip


def test_too_many_bindings_do_not_hold_up_the_report():
    """ECS would refuse more than 100; the report goes without them."""
    many = tuple(PortBinding(container_port=n, host_port=n, bind_ip="0.0.0.0") for n in range(1, 102))
    change = changed(port_bindings=many, single_ports=tuple(range(1, 102)), port_ranges={"1-101": "1-101"})
    assert list(ecs.network_bindings(change, DEFAULT)) == []


def test_managed_agents_always_have_a_reason():
    """Even an empty one."""
    change = ManagedAgentChanged(arn=ARN, container_name="app", name="ExecuteCommandAgent", status="RUNNING")
    built = ecs.submit_task("default", TaskChanged(arn=ARN, status=TaskStatus.RUNNING), (), [change], DEFAULT)
    assert jsontext.dumps(built["managedAgents"]) == (
        '[{"containerName":"app","managedAgentName":"ExecuteCommandAgent","reason":"","status":"RUNNING"}]'
    )


def test_the_body_of_a_registration():
    """Optional members are absent, an empty list of GPUs is not, a zero is left out."""
    built = ecs.register_instance("default", "token", "", "", [ecs.attribute("a")], ecs.resources(0, 1, [22], []))
    assert jsontext.dumps(built) == (
        '{"cluster":"default","clientToken":"token","instanceIdentityDocument":"",'
        '"instanceIdentityDocumentSignature":"","attributes":[{"name":"a"}],"totalResources":[{"name":"CPU","type":'
        '"INTEGER"},{"name":"MEMORY","type":"INTEGER","integerValue":1},{"name":"PORTS","type":"STRINGSET",'
        '"stringSetValue":["22"]},{"name":"PORTS_UDP","type":"STRINGSET","stringSetValue":[]}]}'
    )
    again = ecs.register_instance("default", "t", "d", "s", [], [], "arn:i", {"k": "v"}, [])
    assert again["containerInstanceArn"] == "arn:i"
    assert again["tags"] == [{"key": "k", "value": "v"}]
    assert again["platformDevices"] == []
