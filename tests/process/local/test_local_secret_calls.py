"""The SDK's own clients of SSM and Secrets Manager against the control plane's listener."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from tests.process.local.harness import KEYS, Plane


@pytest.fixture
def secrets(tmp_path: Path) -> Iterator[tuple[Plane, Path]]:
    """A control plane with a secrets file, and the file."""
    made, file = Plane(tmp_path / "local"), tmp_path / "secrets.json"
    file.write_text(json.dumps({"/shop/url": "https://one", "db": {"user": "u"}}))
    made.environment["LOCAL_SECRETS"] = str(file)
    made.start()
    yield made, file
    made.close()


def client(plane: Plane, service: str) -> Any:
    """A boto3 client of the control plane."""
    return boto3.client(service, endpoint_url=plane.url, **KEYS)


def test_the_sdk_reads_parameters_secrets_and_errors(secrets: tuple[Plane, Path]) -> None:
    """Shapes and error codes are what the SDK expects; nothing of it is in the state file."""
    plane, file = secrets
    answer = client(plane, "ssm").get_parameters(Names=["/shop/url", "/none"], WithDecryption=True)
    assert [(p["Name"], p["Value"]) for p in answer["Parameters"]] == [("/shop/url", "https://one")]
    assert answer["InvalidParameters"] == ["/none"]
    manager = client(plane, "secretsmanager")
    assert json.loads(manager.get_secret_value(SecretId="db")["SecretString"]) == {"user": "u"}
    with pytest.raises(manager.exceptions.ResourceNotFoundException):
        manager.get_secret_value(SecretId="nosuch")
    file.write_text("{")
    with pytest.raises(ClientError, match=r"secrets\.json:1:2: not valid JSON") as caught:
        manager.get_secret_value(SecretId="db")
    assert caught.value.response["Error"]["Code"] == "InvalidSecretsFile"
    stored = b"".join(p.read_bytes() for p in plane.directory.iterdir())
    assert b"https://one" not in stored and b"/shop/url" not in stored
