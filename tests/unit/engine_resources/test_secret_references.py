"""What a reference to a secret means, and what the container gets for it."""

from __future__ import annotations

import base64
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.engine.resources import go_json
from services.engine.resources.kind import ResourceFailed
from services.engine.resources.secrets_manager import BAD_ARN, Reference, parse_auth, parse_reference, value_of

ARN = "arn:aws:secretsmanager:us-west-2:123456789012:secret:s-AbC"


@pytest.mark.parametrize(
    ("value_from", "meant"),
    [
        (ARN, {"SecretId": ARN}),
        (f"{ARN}:user::", {"SecretId": ARN}),
        (f"{ARN}::AWSPREVIOUS:", {"SecretId": ARN, "VersionStage": "AWSPREVIOUS"}),
        (f"{ARN}:::v-1", {"SecretId": ARN, "VersionId": "v-1"}),
        (f"{ARN}:k:S:v-1", {"SecretId": ARN, "VersionStage": "S", "VersionId": "v-1"}),
    ],
)
def test_stage_and_id_are_asked_for_only_when_they_are_given(value_from: str, meant: dict[str, str]) -> None:
    """Conformance case R16: two parts are sent verbatim, five as ARN, key, stage and id."""
    assert parse_reference(value_from).arguments == meant


def test_the_third_part_is_the_json_key() -> None:
    """It is not sent; the agent takes the key out of the answer."""
    assert parse_reference(f"{ARN}:user::") == Reference(ARN, json_key="user")


@pytest.mark.parametrize(
    ("value_from", "said"),
    [
        ("my/secret", "arn: invalid prefix"),
        ("arn:aws:secretsmanager", "arn: not enough sections"),
        (f"{ARN}:key", BAD_ARN),
        (f"{ARN}:a:b:c:d", BAD_ARN),
        ("arn:aws:secretsmanager:us-west-2:123456789012:secret", BAD_ARN),
    ],
)
def test_what_is_no_reference_is_told_in_the_words_of_the_wire(value_from: str, said: str) -> None:
    """Conformance cases R17 and R52."""
    with pytest.raises(ValueError) as caught:
        parse_reference(value_from)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ('"x y"', "x y"), ("true", "true"), ("false", "false"), ("null", "<nil>"),
        ("5", "5"), ("5.50", "5.5"), ("200000", "200000"), ("2000000", "2e+06"), ("1234567", "1.234567e+06"),
        ("123456789", "1.23456789e+08"), ("999999", "999999"), ("999999.5", "999999.5"), ("0.0001", "0.0001"),
        ("0.00001", "1e-05"), ("-0.0", "-0"), ("0", "0"), ("-12.25", "-12.25"), ("1e21", "1e+21"), ("1e-320", "1e-320"),
        ("1e100", "1e+100"), ("100000", "100000"), ("1000000", "1e+06"), ("0.00012", "0.00012"),
        ('{"b": 1, "a": [true, null, "q"], "c": {}}', "map[a:[true <nil> q] b:1 c:map[]]"), ("[]", "[]"),
    ],
)  # fmt: skip
def test_a_json_value_is_printed_as_the_reference_prints_it(text: str, printed: str) -> None:
    """Conformance cases R14 and R15, and the whole table of spec 05 §6.3."""
    assert value_of({"SecretString": f'{{"k": {text}}}'}, "k") == printed


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_printed_number_is_the_same_number(value: float) -> None:
    """The shortest digits are enough, plain between 1e-4 and 1e6, with a two digit exponent outside."""
    text = go_json.printed(value)
    assert float(text) == value and math.copysign(1, float(text)) == math.copysign(1, value)
    plain = value == 0 or 1e-4 <= abs(value) < 1e6
    assert ("e" in text) is not plain
    assert plain or len(text.partition("e")[2]) >= 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a":"1"}', "retrieved secret from Secrets Manager did not contain json key b"),
        ("null", "retrieved secret from Secrets Manager did not contain json key b"),
        ("[1]", "json: cannot unmarshal array into Go value of type map[string]interface {}"),
        ("plain", "invalid character 'p' looking for beginning of value"),
        ('{"b": NaN}', "invalid character 'N' looking for beginning of value"),
        ("", "unexpected end of JSON input"),
        ('{"b": 1e999}', "json: cannot unmarshal number 1e999 into Go value of type float64"),
    ],
)
def test_a_json_key_that_cannot_be_had_is_told(text: str, said: str) -> None:
    """Conformance case R51; NaN is not JSON (trap 5)."""
    with pytest.raises(ResourceFailed) as caught:
        value_of({"SecretString": text}, "b")
    assert str(caught.value) == said


def test_a_binary_secret_is_empty_and_has_no_json_key() -> None:
    """Without a key the variable is empty; with one the reference crashes and this agent tells."""
    answer = {"ARN": ARN, "SecretBinary": base64.b64encode(b"x")}
    assert value_of(answer, "") == ""
    with pytest.raises(ResourceFailed, match="is binary and has no json key k"):
        value_of(answer, "k")


def test_registry_credentials_match_their_keys_in_any_case() -> None:
    """Conformance case R19."""
    assert parse_auth('{"Username":"u","PASSWORD":"p","email":1}') == {"username": "u", "password": "p"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "asm fetching authorization data: empty secrets value"),
        ("u:p", "asm fetching authorization data: unable to unmarshal secret value, invalid schema"),
        ("[]", "asm fetching authorization data: unable to unmarshal secret value, invalid schema"),
        ('{"username":1}', "asm fetching authorization data: unable to unmarshal secret value, invalid schema"),
        ('{"password":"p"}', "asm fetching username: AuthorizationData is malformed, empty field"),
        ('{"username":"u"}', "asm fetching password: AuthorizationData is malformed, empty field"),
        ("null", "asm fetching username: AuthorizationData is malformed, empty field"),
    ],
)
def test_malformed_registry_credentials_are_told(text: str, said: str) -> None:
    """Conformance case R20 and the table of spec 05 §7."""
    with pytest.raises(ResourceFailed) as caught:
        parse_auth(text)
    assert str(caught.value) == said
    assert "u:p" not in str(caught.value)
