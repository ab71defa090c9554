"""The listener's own answers, without a socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.local.listener import listen
from services.local.server import Server, _application

TARGET = "AmazonEC2ContainerServiceV20141113."


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Not started."""
    made = Server(tmp_path / "local", listen(0), "us-east-1")
    yield made
    made._listener.close()
    made._store.close()


def test_a_full_disk_is_an_error_of_the_server_that_says_so(server: Server) -> None:
    """ServerException with status 500, the file's path and what to do; afterwards everything goes on."""
    client = _application(server).test_client()
    limit = server._store._db.execute("PRAGMA page_count").fetchone()[0]
    server._store._db.execute(f"PRAGMA max_page_count={limit}")
    for number in range(200):
        body = json.dumps({"clusterName": f"c{number}", "tags": [{"key": "k", "value": "v" * 200}]})
        answer = client.post("/", data=body, headers={"X-Amz-Target": TARGET + "CreateCluster"})
        if answer.status_code != 200:
            break
    assert answer.status_code == 500
    found = json.loads(answer.data)
    assert found["__type"] == "ServerException" and "control-plane.db cannot be written" in found["message"]
    server._store._db.execute("PRAGMA max_page_count=100000")
    answer = client.post("/", data=body, headers={"X-Amz-Target": TARGET + "CreateCluster"})
    assert answer.status_code == 200
    assert answer.headers["x-amzn-RequestId"]


def test_a_body_that_is_too_large_is_refused(server: Server) -> None:
    """No client needs 16 MiB."""
    client = _application(server).test_client()
    answer = client.post("/", data=b"x" * (17 << 20), headers={"X-Amz-Target": TARGET + "ListClusters"})
    assert answer.status_code == 413 and "16 MiB" in json.loads(answer.data)["message"]
