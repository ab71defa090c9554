"""Secrets and parameters from a file: who is meant by a name, what is refused and how the file's faults are told."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from services.local.core.errors import ApiError
from services.local.secrets import SecretsFile

Json = dict[str, Any]
ARN = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:"
ENTRIES: Json = {
    "/shop/url": "https://one",
    "arn:aws:ssm:eu-west-1:123456789012:parameter/token": "two",
    "db": {"user": "u", "password": "p"},
    "db:AWSPREVIOUS": "old",
    ARN + "api-AbCdEf": "three",
    "my-secret": "four",
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with entries of all kinds."""
    path = tmp_path / "secrets.json"
    path.write_text(json.dumps(ENTRIES))
    return path


def parameters(file: Path, *names: str) -> Json:
    """GetParameters."""
    return SecretsFile(file).call("AmazonSSM.GetParameters", {"Names": list(names), "WithDecryption": True})


def secret(file: Path, id_: str, **more: str) -> str:
    """The value that GetSecretValue gives."""
    return str(SecretsFile(file).call("secretsmanager.GetSecretValue", {"SecretId": id_, **more})["SecretString"])


def error(file: Path | None, target: str = "AmazonSSM.GetParameters", **body: Any) -> ApiError:
    """The error of a call."""
    with pytest.raises(ApiError) as caught:
        SecretsFile(file).call(target, body)
    return caught.value


def test_parameters_are_found_by_name_and_by_arn(file: Path) -> None:
    """Under the name that was asked for, by which the agent looks them up; what is not there is named."""
    url = "arn:aws:ssm:eu-west-1:123456789012:parameter/shop/url"
    found = parameters(file, "/shop/url", "token", url, "nosuch")
    assert {p["Name"]: p["Value"] for p in found["Parameters"]} == {
        "/shop/url": "https://one",
        "token": "two",
        url: "https://one",
    }
    assert found["InvalidParameters"] == ["nosuch"]


@pytest.mark.parametrize(
    ("id_", "more", "value"),
    [
        (ARN + "db-XyZ123", {}, '{"user": "u", "password": "p"}'),
        (ARN + "db", {"VersionStage": "AWSCURRENT"}, '{"user": "u", "password": "p"}'),
        (ARN + "db-XyZ123", {"VersionStage": "AWSPREVIOUS"}, "old"),
        (ARN + "api-AbCdEf", {}, "three"),
        ("api", {}, "three"),
        ("my-secret", {}, "four"),
    ],
)
def test_secrets_are_found_by_name_and_by_arn_with_its_suffix(
    file: Path, id_: str, more: dict[str, str], value: str
) -> None:
    """An object is given as its JSON text, from which the agent takes keys; a version is an entry of its own."""
    assert secret(file, id_, **more) == value


@pytest.mark.parametrize(
    ("id_", "more", "text"),
    [
        (ARN + "nosuch-AbCdEf", {}, "the specified secret."),
        ("my", {}, "the specified secret."),
        ("api", {"VersionId": "v1"}, "the specified secret value for VersionId: v1"),
        ("my-secret", {"VersionStage": "AWSPENDING"}, "the specified secret value for staging label: AWSPENDING"),
    ],
)
def test_an_unknown_secret_gets_the_error_of_the_service(file: Path, id_: str, more: dict[str, str], text: str) -> None:
    """The agent turns it into the task's stoppedReason."""
    told = error(file, "secretsmanager.GetSecretValue", SecretId=id_, **more)
    assert (told.code, told.message) == ("ResourceNotFoundException", f"Secrets Manager can't find {text}")


def test_the_file_is_read_at_each_call(file: Path) -> None:
    """The developer edits it while the tree runs."""
    file.write_text('{"/shop/url": "https://other"}')
    assert parameters(file, "/shop/url")["Parameters"][0]["Value"] == "https://other"


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ('{"a": "x",\n "b": hidden}', ":2:7: not valid JSON"),
        ('["hidden"]', ": a JSON object of name and value is needed, not a list"),
        ('{"a": "hidden",\n\n "b": 7}', ":3: the value of 'b' is a number; give a text or an object"),
        ('{"a": null}', ":1: the value of 'a' is a null"),
    ],
)
def test_what_is_wrong_with_the_file_is_told_with_its_place_and_no_value(file: Path, content: str, place: str) -> None:
    """File, line and field; the text ends up in a task's stoppedReason, where no secret belongs."""
    file.write_text(content)
    told = error(file, Names=["a"])
    assert f"{file}{place}" in told.message and "ECS_LOCAL_SECRETS_FILE" in told.message
    assert "hidden" not in told.message and told.status == 400


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    """A FIFO would never end, a directory has no text."""
    os.mkfifo(tmp_path / "fifo")
    assert "it is not a regular file" in error(tmp_path / "fifo", Names=["a"]).message
    assert "Is a directory" in error(tmp_path, Names=["a"]).message
    assert "No such file or directory" in error(tmp_path / "absent", Names=["a"]).message


def test_calls_that_are_not_offered_or_make_no_sense_are_refused(file: Path) -> None:
    """Also everything while no file is named."""
    assert "GetSecretValue" in error(file, "AmazonSSM.PutParameter").message
    assert error(file, Names=[]).code == error(file, Names=[1]).code == error(file).code == "ValidationException"
    assert error(None, Names=["a"]).code == "UnknownOperationException"
