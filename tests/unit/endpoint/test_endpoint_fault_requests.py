"""Fault requests: what is valid, and the words for what is not (spec 06 §17.2)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.endpoint.faultrequests import BLACKHOLE, LATENCY, LOSS, Invalid, is_ipv6, parse

CANNOT = "json: cannot unmarshal "


@pytest.mark.parametrize(
    ("fault", "body", "text"),
    [
        (BLACKHOLE, b"", "required request body is missing"),
        (BLACKHOLE, b"  \n", "required request body is missing"),
        (BLACKHOLE, b"null", "required parameter Port is missing"),
        (BLACKHOLE, b"{}", "required parameter Port is missing"),
        (BLACKHOLE, b"[]", "json: cannot unmarshal array into Go value of type types.NetworkBlackholePortRequest"),
        (LATENCY, b'"x"', "json: cannot unmarshal string into Go value of type types.NetworkLatencyRequest"),
        (LOSS, b"5", "json: cannot unmarshal number into Go value of type types.NetworkPacketLossRequest"),
        (BLACKHOLE, b'{"Port":', "unexpected EOF"),
        (BLACKHOLE, b"xyz", "invalid character 'x' looking for beginning of value"),
        (BLACKHOLE, b'{"Port":1,}', "invalid character '}' looking for beginning of object key string"),
        (BLACKHOLE, b'{"Port" 1}', "invalid character '1' after object key"),
        (BLACKHOLE, b'{"Port":1 "x"}', "invalid character '\"' after object key:value pair"),
        (BLACKHOLE, b'{"Port":[1 2]}', "invalid character '2' after array element"),
        (BLACKHOLE, b'{"Port":tru1}', "invalid character '1' in literal true (expecting 'e')"),
        (BLACKHOLE, "é".encode(), "invalid character 'Ã' looking for beginning of value"),
        (BLACKHOLE, "\ufeff{}".encode(), "invalid character 'ï' looking for beginning of value"),
        (BLACKHOLE, b"\xff", "invalid character 'ÿ' looking for beginning of value"),
        (BLACKHOLE, b"\x80", "invalid character '\\u0080' looking for beginning of value"),
        (BLACKHOLE, b"\x0b", "invalid character '\\v' looking for beginning of value"),
        (BLACKHOLE, b"\x00", "invalid character '\\x00' looking for beginning of value"),
        (BLACKHOLE, b"\\", "invalid character '\\\\' looking for beginning of value"),
        (BLACKHOLE, b"'", "invalid character '\\'' looking for beginning of value"),
        (BLACKHOLE, '{"Port":8٣}'.encode(), "invalid character 'Ù' after object key:value pair"),
        (
            BLACKHOLE,
            b'{"Port":0,"TrafficType":"x","Protocol":"\\ud83d\xff\xe2\x82"}',
            "invalid value \ufffd\ufffd\ufffd\ufffd for parameter Protocol",
        ),
        (
            BLACKHOLE,
            b'{"Port":"1"}',
            "json: cannot unmarshal string into Go struct field NetworkBlackholePortRequest.Port of type uint16",
        ),
        (
            BLACKHOLE,
            b'{"Port":true}',
            "json: cannot unmarshal bool into Go struct field NetworkBlackholePortRequest.Port of type uint16",
        ),
        (
            BLACKHOLE,
            b'{"Port":70000}',
            "json: cannot unmarshal number 70000 into Go struct field NetworkBlackholePortRequest.Port of type uint16",
        ),
        (
            LOSS,
            b'{"LossPercent":-1}',
            "json: cannot unmarshal number -1 into Go struct field NetworkPacketLossRequest.LossPercent of type uint64",
        ),
        (
            LOSS,
            b'{"LossPercent":1.5}',
            CANNOT + "number 1.5 into Go struct field NetworkPacketLossRequest.LossPercent of type uint64",
        ),
        (
            LATENCY,
            b'{"DelayMilliseconds":-1,"JitterMilliseconds":0,"Sources":["10.9.9.9"]}',
            CANNOT + "number -1 into Go struct field NetworkLatencyRequest.DelayMilliseconds of type uint64",
        ),
        (
            LATENCY,
            b'{"Sources":"10.9.9.9"}',
            "json: cannot unmarshal string into Go struct field NetworkLatencyRequest.Sources of type []*string",
        ),
        (
            LATENCY,
            b'{"Sources":{"a":"b"}}',
            "json: cannot unmarshal object into Go struct field NetworkLatencyRequest.Sources of type []*string",
        ),
        (BLACKHOLE, b'{"Port":0}', "required parameter Protocol is missing"),
        (BLACKHOLE, b'{"Port":0,"Protocol":"tcp","TrafficType":""}', "required parameter TrafficType is missing"),
        (BLACKHOLE, b'{"Port":0,"Protocol":"TCP","TrafficType":"x"}', "invalid value TCP for parameter Protocol"),
        (BLACKHOLE, b'{"Port":0,"Protocol":"udp","TrafficType":"x"}', "invalid value x for parameter TrafficType"),
        (
            BLACKHOLE,
            b'{"Port":0,"Protocol":"udp","TrafficType":"egress","SourcesToFilter":["a"]}',
            "invalid value a for parameter SourcesToFilter",
        ),
        (LATENCY, b'{"DelayMilliseconds":1}', "required parameter JitterMilliseconds is missing"),
        (
            LATENCY,
            b'{"DelayMilliseconds":0,"JitterMilliseconds":0}',
            "required either DelayMilliseconds or JitterMilliseconds to be non-zero",
        ),
        (LATENCY, b'{"DelayMilliseconds":1,"JitterMilliseconds":0}', "required parameter Sources is missing"),
        (
            LATENCY,
            b'{"DelayMilliseconds":1,"JitterMilliseconds":0,"Sources":[]}',
            "required parameter Sources is missing",
        ),
        (
            LATENCY,
            b'{"DelayMilliseconds":1,"JitterMilliseconds":0,"Sources":[null]}',
            "invalid value  for parameter Sources",
        ),
        (
            LATENCY,
            b'{"DelayMilliseconds":1,"JitterMilliseconds":0,"Sources":["::1"],"FlowsPercent":101}',
            "invalid value 101 for parameter flowsPercent",
        ),
        (LOSS, b'{"LossPercent":0}', "invalid value 0 for parameter LossPercent"),
        (LOSS, b'{"LossPercent":18446744073709551615}', "invalid value -1 for parameter LossPercent"),
    ],
)
def test_a_request_that_is_not_valid_is_told_why(fault, body, text):
    """The table of §17.2 and cases 63, 68 and 94."""
    with pytest.raises(Invalid) as caught:
        parse(fault, body)
    assert str(caught.value) == text


@given(st.sampled_from([BLACKHOLE, LATENCY, LOSS]), st.binary(max_size=50))
def test_parsing_raises_nothing_but_invalid(fault, data):
    """Whatever is posted."""
    try:
        parse(fault, data)
    except Invalid:
        pass  # becomes a 400


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.2.3.4", False),
        ("1.2.3.4/20", False),
        ("::1", True),
        ("8:3::/48", True),
        ("::ffff:1.2.3.4", False),
        ("1.2.3.4/255.255.0.0", None),
        ("fe80::1%eth0", None),
        ("01.2.3.4", None),
        (" 1.2.3.4", None),
        ("1.2.3.4/", None),
        ("1.2.3.4/33", None),
        ("::/129", None),
        ("x", None),
        ("", None),
        ("1.2.3.4/+8", None),
    ],
)
def test_addresses_have_the_references_syntax(text, expected):
    """Trap 39: no netmask form, no zone, no leading zeros, IPv4-mapped is IPv4."""
    assert is_ipv6(text) is expected
