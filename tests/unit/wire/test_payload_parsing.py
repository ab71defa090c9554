"""parse_task: what passes, what is refused, and in which words (spec 02 §2.4-2.9, §11)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.model.status import TaskStatus
from common.model.task import Proxy, Volume
from common.wire.invalid import PREFIX
from common.wire.messages import TASK
from common.wire.payload import InvalidTask, parse_task, role_credentials

ARN = "arn:aws:ecs:us-west-2:123456789012:task/default/11111111111111111111111111111111"


def task(**members: Any) -> dict[str, Any]:
    """A minimal valid task."""
    return {"arn": ARN, "desiredStatus": "RUNNING", **members}


def container(**members: Any) -> dict[str, Any]:
    """A task of one container with these members."""
    return task(containers=[{"name": "c", **members}])


def first(member: dict[str, Any]) -> Any:
    """The first container of the parsed task."""
    return parse_task(member).containers[0]


ENI = {
    "ec2Id": "eni-1",
    "macAddress": "02:7b:64:49:b1:40",
    "ipv4Addresses": [{"privateAddress": "10.0.1.26"}, {"primary": True, "privateAddress": "10.0.1.25"}],
    "subnetGatewayIpv4Address": "10.0.1.1/24",
}


def eni(**changes: Any) -> dict[str, Any]:
    """A task with one interface; a change to None removes the member."""
    value = {k: v for k, v in {**ENI, **changes}.items() if v is not None}
    return task(networkMode="awsvpc", elasticNetworkInterfaces=[value])


def connect(config: Any, mode: str = "bridge", name: str = "c") -> dict[str, Any]:
    """A Service Connect task."""
    text = config if isinstance(config, str) else json.dumps(config)
    properties = [{"name": "ServiceConnectConfig", "value": text}, {"name": "ContainerName", "value": name}]
    attachment = {"attachmentType": "serviceconnectdetail", "attachmentProperties": properties}
    return task(networkMode=mode, containers=[{"name": "c"}], attachments=[attachment])


def volume_attachment(type_: str, **properties: str) -> dict[str, Any]:
    """A task with an attachment that is a volume."""
    pairs = [{"name": name, "value": value} for name, value in properties.items()]
    return task(attachments=[{"attachmentType": type_, "attachmentProperties": pairs}], volumes=[{"name": "data"}])


SC = "service connect config validation failed: "
SC_UNREADABLE = (
    "error parsing service connect config value from the service connect attachment: failed to unmarshal service "
    "connect attachment property value: "
)
OVERRIDES = "Multiple error:\n\t0: Could not unmarshal ContainerOverrides in any supported way"

REFUSED = [
    (task(desiredStatus="PAUSED"), "Unrecognized TaskStatus"),
    (task(desiredStatus=""), "Unrecognized TaskStatus"),
    (task(desiredStatus="running"), "Unrecognized TaskStatus"),
    (task(desiredStatus="PULLED"), "Unrecognized TaskStatus"),
    (container(portMappings=[{"protocol": "sctp"}]), 'TransportProtocol must be "tcp" or "udp"; Got "sctp"'),
    (container(portMappings=[{"protocol": "TCP"}]), 'TransportProtocol must be "tcp" or "udp"; Got "TCP"'),
    (container(portMappings=[{"protocol": ""}]), 'TransportProtocol must be "tcp" or "udp"; Got ""'),
    (container(portMappings=[{"hostPort": 65536}]), "hostPort of container 'c' must be from 0 to 65535; Got 65536"),
    (container(cpu=-1), "cpu of container 'c' must not be negative; Got -1"),
    (container(stopTimeout=-1), "stopTimeout of container 'c' must not be negative; Got -1"),
    (container(overrides='{"command":["a"],"cpu":1}'), OVERRIDES),
    (container(overrides="{nope"), OVERRIDES),
    (container(overrides=""), OVERRIDES),
    (container(overrides='"x"'), OVERRIDES),
    (container(overrides='{"command":"a"}'), OVERRIDES),
    (task(containers=[None]), "the list of containers has a null element"),
    (task(cpu="1"), "cpu is not a number"),
    (task(memory=5.0), "memory is not an integer"),
    (task(volumes=[{"name": "v"}]), "invalid volume: empty volume configuration"),
    (task(volumes=[{"host": {}}]), "invalid Volume; must include a name"),
    (task(volumes=[{"name": "v", "type": "ebs"}]), 'unrecognized volume type: "ebs"'),
    (task(volumes=[{"name": "v", "type": ""}]), 'unrecognized volume type: ""'),
    (task(volumes=[{"name": "v", "type": "efs"}]), "invalid volume: empty volume configuration"),
    (task(volumes=[{"name": "v", "type": "s3files"}]), "invalid volume: empty s3files volume configuration"),
    (task(roleCredentials={"roleArn": "r"}), "CredentialsId is empty"),
    (task(arn="", executionRoleCredentials={"credentialsId": "x"}), "task ARN is empty"),
    (eni(macAddress=None), "eni message validation: empty eni mac address in the message"),
    (eni(ec2Id=None), "eni message validation: empty eni id in the message"),
    (eni(ipv4Addresses=None), "eni message validation: no ipv4 addresses in the message"),
    (eni(subnetGatewayIpv4Address=None), "eni message validation: no subnet gateway ipv4 address in the message"),
    (
        eni(subnetGatewayIpv4Address="10.0.1.1"),
        "eni message validation: invalid subnet gateway ipv4 address 10.0.1.1",
    ),
    (
        eni(ipv4Addresses=None, ipv6Addresses=[{"address": "fd00::2"}]),
        "eni message validation: no subnet gateway ipv6 address in the message",
    ),
    (
        eni(ipv4Addresses=None, ipv6Addresses=[{"address": "fd00::2"}], subnetGatewayIpv6Address="a/b/c"),
        "eni message validation: invalid subnet gateway ipv6 address a/b/c",
    ),
    (eni(interfaceAssociationProtocol=""), "invalid interface association protocol: "),
    (eni(interfaceAssociationProtocol="veth"), "invalid interface association protocol: veth"),
    (eni(interfaceAssociationProtocol="vlan"), "vlan interface properties missing"),
    (task(proxyConfiguration={"type": "OTHER"}), "agent does not support proxy type other than app mesh"),
    (task(proxyConfiguration={}), "agent does not support proxy type other than app mesh"),
    (
        volume_attachment("amazonebs", volumeId="v", volumeName="data"),
        "unable to parse and validate EBS volume: missing sourceVolumeHostPath in the EBS config",
    ),
    (
        volume_attachment("amazonebs", volumeId="", volumeName="data", sourceVolumeHostPath="/x"),
        "unable to parse and validate EBS volume: failed to parse task ebs attachment, encountered empty value for "
        "property: volumeId",
    ),
    (
        volume_attachment("amazonebs", volumeId="v", volumeName="data", sourceVolumeHostPath="/x", more=""),
        "unable to parse and validate EBS volume: failed to parse task ebs attachment, encountered empty value for "
        "property: more",
    ),
    (
        volume_attachment("s3files", volumeName="data"),
        "unable to parse and validate S3 Files volume: missing volumeId in the S3 Files config",
    ),
    (
        task(attachments=[{"attachmentType": "serviceconnectdetail"}]),
        "error parsing service connect config value from the service connect attachment: missing service connect "
        "config required key(s) in the attachment: found service connect config key: false, found service connect "
        "container name key: false",
    ),
    *((connect(config), SC_UNREADABLE) for config in ("{", "[]", "0", '""', "false")),
    *(
        (connect({"ingressConfig": [{"listenerName": "l", member: number}]}), SC_UNREADABLE)
        for member in ("listenerPort", "interceptPort", "hostPort")
        for number in (-1, 65536)
    ),
    (connect({"egressConfig": {"listenerName": "e", "listenerPort": 65536}}), SC_UNREADABLE),
    (connect({}, name="other"), SC + "service connect container name=other does not exist in the task"),
    (connect({"egressConfig": {}}), SC + "missing listener name in the egress config"),
    *(
        (
            connect({"egressConfig": {"listenerName": "e", "vip": {member: cidr}}}),
            SC + f"CIDR={cidr} is not a valid {v}",
        )
        for member, v, cidr in [
            ("ipv4Cidr", "IPv4 CIDR", "x"),
            ("ipv4Cidr", "IPv4 CIDR", "10.0.0.0"),
            ("ipv4Cidr", "IPv4 CIDR", "10.0.0.0/255.0.0.0"),
            ("ipv4Cidr", "IPv4 CIDR", "fd00::/8"),
            ("ipv6Cidr", "IPv6 CIDR", "fe80::1%eth0/64"),
        ]
    ),
    *(
        (
            connect({"dnsConfig": [{"hostName": "h", "address": bad}]}),
            SC + f"hostname=h, address={bad} in the DNS config is not valid: address={bad} is not a valid IP address",
        )
        for bad in ("nope", "fe80::1%eth0")
    ),
    (
        connect({"ingressConfig": [{"listenerName": "l"}]}, mode="host"),
        SC + "service connect does not support for host newtork mode",
    ),
    (
        connect({"ingressConfig": [{"listenerName": "l", "interceptPort": 0}]}, mode="awsvpc"),
        SC
        + "intercept port=0 in the ingress config is not valid: port=0 is not a valid port. A valid port ranges from "
        "1 through 65535",
    ),
    (
        connect({"ingressConfig": [{"listenerName": n, "listenerPort": 80} for n in "ab"]}),
        SC + "listener port collision detected in the ingress config with listener port=80, and listener name=b",
    ),
    (
        connect({"ingressConfig": [{"listenerName": n, "hostPort": 80} for n in "ab"]}),
        SC + "host port collision detected in the ingress config with host port=80, and listener name=b",
    ),
    ("not an object", "the message is not an object"),
    (None, "the message is not an object"),
]


@pytest.mark.parametrize(("member", "text"), REFUSED)
def test_a_task_that_cannot_run_is_refused_in_the_reference_s_words(member, text):
    """The text goes onto the wire behind the misspelt prefix."""
    with pytest.raises(InvalidTask) as caught:
        parse_task(member)
    assert caught.value.text.startswith(text)
    assert caught.value.reason == PREFIX + caught.value.text


def test_the_lines_of_a_bad_override_are_those_of_the_reference():
    """Line feed and one tab before each number (spec 03 §1.1)."""
    with pytest.raises(InvalidTask) as caught:
        parse_task(container(overrides='{"cpu":1}'))
    assert caught.value.text == (
        "Multiple error:\n\t0: Could not unmarshal ContainerOverrides in any supported way\n\t1: json: cannot "
        "unmarshal string into Go value of type container.ContainerOverridesCopy\n\t2: Multiple error:\n\t0: Error "
        "unmarshalling ContainerOverrides\n\t1: Unrecognized key: cpu"
    )


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("{nope", "invalid character 'n' looking for beginning of object key string"),
        ("", "unexpected end of JSON input"),
        ("[1]", "json: cannot unmarshal array into Go value of type container.ContainerOverridesCopy"),
        ("7", "json: cannot unmarshal number into Go value of type container.ContainerOverridesCopy"),
    ],
)
def test_an_override_that_is_no_object_is_told_in_the_decoder_s_words(overrides, words):
    """Entry 2 is the JSON error alone (spec 03 §1.1)."""
    with pytest.raises(InvalidTask) as caught:
        parse_task(container(overrides=overrides))
    assert caught.value.text.endswith(f"\n\t2: {words}")


@pytest.mark.parametrize(
    ("overrides", "command"),
    [
        ('{"command":["a","b"]}', ("a", "b")),
        ('{"Command":["a"]}', ("a",)),
        ('{"command":[]}', ()),
        ('{"command":null}', ("x",)),
        ("{}", ("x",)),
        ("null", ("x",)),
    ],
)
def test_the_command_override_replaces_the_command_only(overrides, command):
    """An empty list is an override, null is none."""
    parsed = first(container(overrides=overrides, command=["x"], entryPoint=["e"]))
    assert (parsed.command, parsed.entry_point) == (command, ("e",))


@pytest.mark.parametrize(
    ("word", "status"),
    [("NONE", 0), ("UNKNOWN", 0), ("MANIFEST_PULLED", 1), ("CREATED", 3), ("RUNNING", 4), ("STOPPED", 5), ("DEAD", 5)],
)
def test_desired_statuses_by_name(word, status):
    """Old names count; an absent one is NONE."""
    assert parse_task(task(desiredStatus=word)).desired == status
    assert parse_task({"arn": ARN}).desired == TaskStatus.NONE


def test_member_names_match_in_any_case_and_null_is_absent():
    """As the reference's decoder does it."""
    parsed = parse_task({"ARN": ARN, "desiredstatus": "RUNNING", "Family": None, "CONTAINERS": [{"NAME": "c"}]})
    assert (parsed.arn, parsed.family, parsed.containers[0].name) == (ARN, "", "c")


def test_only_known_members_get_into_the_task():
    """A payload cannot write the agent's own state."""
    parsed = parse_task({**container(), "KnownStatus": "STOPPED", "revision": 9, "emitted": 5, "admitted": True})
    assert (parsed.known, parsed.revision, parsed.emitted, parsed.admitted) == (TaskStatus.NONE, 0, 0, False)
    injected = first(container(docker_id="x", exit_code=3, type="CNI_PAUSE", RuntimeID="y"))
    assert (injected.docker_id, injected.exit_code, injected.is_internal) == ("", None, False)


def test_absent_members_have_the_reference_s_defaults():
    """essential is false, protocol tcp, network mode bridge; lists and maps are empty."""
    parsed = parse_task(container(portMappings=[{"containerPort": 80}], environment={"A": None}))
    only = parsed.containers[0]
    assert (only.essential, only.port_mappings[0].protocol, parsed.network_mode) == (False, "tcp", "bridge")
    assert only.environment == {"A": ""}
    assert parse_task(task(networkMode="")).network_mode == "bridge"


def test_an_unknown_network_mode_is_none_at_all(caplog):
    """Spec 04 §1: left empty, with a warning, so that nothing that depends on a mode applies."""
    assert parse_task(task(networkMode="weird")).network_mode == ""
    assert "unknown network mode 'weird'" in caplog.text
    assert parse_task(task(overrides="{nope")).arn == ARN


def test_volumes_of_every_kind():
    """host by default; an attachment replaces the placeholder of its name and stands last."""
    assert parse_task(task(volumes=[{"name": "v", "host": {}}])).volumes == (Volume(name="v"),)
    assert parse_task(task(volumes=[{"name": "v", "host": {"sourcePath": "/a"}}])).volumes[0].host_path == "/a"
    docker = {"scope": "shared", "autoprovision": True, "driver": "local", "driverOpts": {}, "labels": {"a": "b"}}
    parsed = parse_task(task(volumes=[{"name": "v", "type": "docker", "dockerVolumeConfiguration": docker}]))
    assert parsed.volumes[0].configuration == {k: v for k, v in docker.items() if k != "driverOpts"}
    properties = {"volumeId": "vol-1", "volumeName": "data", "sourceVolumeHostPath": "p"}
    attached = parse_task(volume_attachment("amazonebs", **properties))
    assert attached.volumes == (Volume(name="data", type="amazonebs", configuration=properties),)
    assert attached.attachments[0].properties == properties


def test_interfaces_have_their_primary_address_first():
    """And the search list is what the wire calls domainName."""
    (parsed,) = parse_task(eni(domainName=["a.internal"], privateDnsName="host")).interfaces
    assert parsed.ipv4_addresses == ("10.0.1.25", "10.0.1.26")
    assert (parsed.domain_name_search, parsed.association_protocol) == (("a.internal",), "default")


def test_the_proxy_never_sees_the_metadata_addresses():
    """They are added to the ignored addresses once, in the reference's order."""
    value = {"type": "APPMESH", "containerName": "envoy", "properties": {"EgressIgnoredIPs": "169.254.169.254,1.2.3.4"}}
    assert parse_task(task(proxyConfiguration=value)).proxy == Proxy(
        container_name="envoy", properties={"EgressIgnoredIPs": "169.254.169.254,1.2.3.4,169.254.170.2"}
    )


def test_role_credentials_are_named_in_the_task_and_returned_apart():
    """The task document never holds a secret."""
    member = TASK(
        task(
            roleCredentials={"credentialsId": "t", "secretAccessKey": "hidden", "expiration": "soon"},
            executionRoleCredentials={"credentialsId": "e"},
        )
    )
    parsed = parse_task(member)
    assert (parsed.credentials_id, parsed.execution_credentials_id) == ("t", "e")
    roles = role_credentials(member)
    assert [(r.credentials_id, r.role_type, r.expiration) for r in roles] == [
        ("t", "TaskApplication", "soon"),
        ("e", "TaskExecution", ""),
    ]
    assert "hidden" not in repr(roles) + repr(parsed)


def test_of_several_faults_ecs_hears_the_first_of_the_reference_s_order():
    """Task role, interfaces, proxy, execution role (spec 02 §4.2)."""
    faults = {
        "roleCredentials": ({}, "CredentialsId is empty"),
        "elasticNetworkInterfaces": ([{}], "eni message validation: no ipv4 addresses in the message"),
        "proxyConfiguration": ({"type": "X"}, "agent does not support proxy type other than app mesh"),
        "executionRoleCredentials": ({}, "CredentialsId is empty"),
    }
    left = dict(faults)
    for name, (_, text) in faults.items():
        with pytest.raises(InvalidTask) as caught:
            parse_task(task(**{n: value for n, (value, _) in left.items()}))
        assert caught.value.reason.endswith(text)
        del left[name]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(
    ["arn", "desiredStatus", "containers", "volumes", "attachments", "elasticNetworkInterfaces", "proxyConfiguration",
     "roleCredentials", "name", "type", "overrides", "portMappings", "protocol", "attachmentType", "networkMode",
     "attachmentProperties", "value", "host", "dockerVolumeConfiguration", "cpu", "memory"]
)  # fmt: skip
TASK_LIKE = st.recursive(
    st.none() | st.integers() | st.sampled_from(["RUNNING", "tcp", "amazonebs", "serviceconnectdetail", "{}", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=6),
    max_leaves=25,
)


@settings(max_examples=300, deadline=None)
@given(JSON | TASK_LIKE | st.dictionaries(NAMES, TASK_LIKE | JSON, max_size=8))
def test_parsing_raises_nothing_but_invalid_task(value):
    """Whatever the control plane sends, the agent answers or refuses; it does not fail."""
    try:
        parse_task(value)
    except InvalidTask as error:
        assert error.text


def test_of_several_ebs_attachments_only_the_first_places_a_volume_without_a_type():
    """Spec 02 §2.7; the second volume stays one of the host, which lacks its path."""
    properties = [{"name": n, "value": "x"} for n in ("volumeId", "sourceVolumeHostPath", "deviceName", "fileSystem")]
    attachments = [
        {"attachmentArn": f"arn:{name}", "attachmentType": "amazonebs",
         "attachmentProperties": [*properties, {"name": "volumeName", "value": name}]} for name in ("v1", "v2")
    ]  # fmt: skip
    task = {"arn": "t", "attachments": attachments}
    assert [v.name for v in parse_task({**task, "volumes": [{"name": "v1"}]}).volumes] == ["v1", "v2"]
    with pytest.raises(InvalidTask, match="invalid volume: empty volume configuration"):
        parse_task({**task, "volumes": [{"name": "v1"}, {"name": "v2"}]})


def test_a_tasks_memory_below_zero_is_none():
    """It is signed on the wire; the containers' own is not (spec 03 §1.2)."""
    assert parse_task({"arn": "t", "memory": -1}).memory_mib == 0
