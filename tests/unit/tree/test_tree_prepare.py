"""What is settled before the first program starts: user data, the log of the configuration, values for programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from common.config import load

ROOT = Path(__file__).parents[3]
SECTION = '{"ECSAgentConfiguration":{"Cluster":"of-user-data","DataDir":"/elsewhere"}}'
# In a process of its own: what asks for user data is forked, and logging is that of a whole process.
SCRIPT = """
import json, os, sys
from common.tree import run, user_data
user_data.EC2_MARKS = ()
environ = json.loads(sys.argv[1])
try:
    run_dir, found = run.prepare(environ)
    run.keep_user_data(run_dir, found)
except run.CannotStart as error:
    sys.exit(run.cannot_start(environ, error))
finally:
    print("MODULES", "urllib3" in sys.modules)
print("ENVIRON", json.dumps(environ))
"""


class Metadata(BaseHTTPRequestHandler):
    """An instance metadata service with a token and user data."""

    status, body = 200, SECTION
    asked: list[str]

    def _answer(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
        put = self.command == "PUT"
        self.send_response(200 if put else self.status)
        body = b"token" if put else self.body.encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = _answer

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


@pytest.fixture
def metadata() -> Iterator[type[Metadata]]:
    """A service; its class has what it answers and what it was asked."""
    handler = type("Handler", (Metadata,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    handler.url = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
    yield handler
    server.shutdown()
    server.server_close()


def prepare(tmp_path: Path, **environ: str) -> tuple[subprocess.CompletedProcess[str], dict[str, str]]:
    """Prepare a tree; what it printed, and the environment that its programs would get."""
    given = {"ECS_RUN_DIR": str(tmp_path / "run"), "AWS_DEFAULT_REGION": "us-west-2", **environ}
    if "ECS_DATADIR" not in given:
        given["ECS_AGENT_CONFIG_FILE_PATH"] = str(tmp_path / "config.json")
        (tmp_path / "config.json").write_text(json.dumps({"DataDir": str(tmp_path / "data")}))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(given)], cwd=ROOT, capture_output=True, text=True, timeout=60,
        check=False, env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stderr == ""
    lines = [line for line in done.stdout.splitlines() if line.startswith("ENVIRON ")]
    assert "MODULES False" in done.stdout, "the tree's process must not load what gevent patches"
    return done, json.loads(lines[0].partition(" ")[2]) if lines else {}


def endpoint(metadata: Any) -> dict[str, str]:
    """The variable that leads to the service."""
    return {"AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata.url}


def test_user_data_are_a_source_of_the_configuration_of_every_program(tmp_path, metadata):
    """Spec 01 §3.1: below the file, above the defaults; asked for once, and kept from everybody else."""
    done, environ = prepare(tmp_path, **endpoint(metadata))
    assert metadata.asked == ["PUT /latest/api/token", "GET /latest/user-data"]
    assert (tmp_path / "run" / "user-data").stat().st_mode & 0o777 == 0o600
    config = load(environ)
    assert (config["ECS_CLUSTER"], config.source("ECS_CLUSTER")) == ("of-user-data", "user data")
    assert config["ECS_DATADIR"] == str(tmp_path / "data")
    assert "level=" not in done.stdout


@pytest.mark.parametrize(
    ("environ", "asked"),
    [
        ({"ECS_EXTERNAL": "true"}, 0),
        ({"ECS_LOCAL_CONTROL_PLANE": "true"}, 0),
        ({"ECS_TREE_BLACKHOLE_EC2_METADATA": "true"}, 0),
        ({"AWS_EC2_METADATA_DISABLED": "True"}, 0),
        ({}, 2),
    ],
)
def test_user_data_are_not_asked_for_where_there_is_nobody_to_ask(tmp_path, metadata, environ, asked):
    """External instances, local mode, the flag; what an earlier start left behind goes all the same."""
    metadata.status = 404
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "user-data").write_text(SECTION)
    done, after = prepare(tmp_path, **environ, **endpoint(metadata))
    assert len(metadata.asked) == asked
    assert not (tmp_path / "run" / "user-data").exists()
    assert load(after)["ECS_CLUSTER"] == "" and "user data" not in done.stdout


@pytest.mark.parametrize(("url", "status", "reason"), [("", 403, "HTTP status 403"), ("http://127.0.0.1:9", 0, "111")])
def test_user_data_that_cannot_be_had_are_warned_about(tmp_path, metadata, url, status, reason):
    """The agent starts without them, after one attempt where nobody answers and this is no EC2 instance."""
    metadata.status = status
    done, environ = prepare(tmp_path, AWS_EC2_METADATA_SERVICE_ENDPOINT=url or metadata.url)
    (line,) = (line for line in done.stdout.splitlines() if "level=" in line)
    assert line.startswith("level=warn") and 'msg="user data: cannot be fetched' in line and reason in line
    assert environ["ECS_RUN_DIR"] == str(tmp_path / "run")


def test_what_is_wrong_with_the_configuration_is_in_the_log_as_it_was_asked_for(tmp_path):
    """Spec 01 §9: format and levels of both sinks; what is fatal is an error, and the last line is critical."""
    log = tmp_path / "logs" / "agent.log"
    done, _ = prepare(
        tmp_path, ECS_LOCAL_CONTROL_PLANE="true", ECS_LOG_OUTPUT_FORMAT="json", ECS_LOGFILE=str(log),
        ECS_LOGLEVEL_ON_INSTANCE="error", ECS_CGROUP_CPU_PERIOD="1h", ECS_INSTANCE_ATTRIBUTES="{",
    )  # fmt: skip
    assert done.returncode == 1
    out = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert sorted(entry["level"] for entry in out) == ["critical", "error", "warn"]
    assert out[-1]["msg"].startswith("Error loading config: Multiple error:\n\t0: Multiple error:\n\t0: Invalid format")
    file = [json.loads(line) for line in log.read_text().splitlines()]
    assert file == [entry for entry in out if entry["level"] != "warn"]


def test_an_error_of_the_configuration_reaches_the_log_of_ecs_init_too(tmp_path):
    """With the status and the words that `ecs-init start` has for every failure."""
    init = tmp_path / "init.log"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps({"ECS_INSTANCE_ATTRIBUTES": "{", "ECS_TREE_INIT_LOG": str(init),
                                                   "AWS_EC2_METADATA_DISABLED": "true"})],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "ECS_TREE_INIT_LOG": str(init)},
    )  # fmt: skip
    assert done.returncode == 255
    assert done.stdout.count("level=critical") == 1
    assert "level=error" in init.read_text()
    assert "level=critical" in init.read_text() and "could not start Agent: Error loading config" in init.read_text()


@pytest.mark.parametrize(
    ("environ", "kept"),
    [
        ({}, False),
        ({"ECS_CHECKPOINT": "true"}, True),
        ({"ECS_DATADIR": "data"}, True),
        ({"ECS_DATADIR": "data", "ECS_CHECKPOINT": "false"}, False),
    ],
)
def test_the_environment_of_the_service_decides_about_checkpoints(tmp_path, environ, kept):
    """Spec 01 §2.2: the data directory that the tree tells its programs is not the user's word on checkpoints."""
    chosen = {name: str(tmp_path / value) if name == "ECS_DATADIR" else value for name, value in environ.items()}
    _, after = prepare(tmp_path, AWS_EC2_METADATA_DISABLED="true", **chosen)
    assert load(after)["ECS_CHECKPOINT"] is kept


def test_the_family_of_the_instance_is_found_out_once(tmp_path):
    """A program that starts again while a route is missing must not change its mind."""
    _, after = prepare(tmp_path, AWS_EC2_METADATA_DISABLED="true")
    assert after["ECS_INSTANCE_IP_COMPATIBILITY"] in ("ipv4", "ipv6")
    found = load(after, read=lambda path: None)
    assert found["ECS_INSTANCE_IP_COMPATIBILITY"] == after["ECS_INSTANCE_IP_COMPATIBILITY"]
