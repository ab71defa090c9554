"""`ecs-agent -ecs-attributes`: the table alone, and the pipe from the engine's facts to it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from common.model.agent import DockerFacts
from common.tree import cli

ROOT = Path(__file__).parents[3]
FACTS = DockerFacts(
    server_version="25.0.8",
    usable_api_versions=tuple(f"1.{n}" for n in range(24, 45)),
    volume_plugins=("local", "vieux/sshfs:latest"),
    task_limits_enabled=True,
)


def listing(given: bytes, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the module as `ecs-agent` does."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-P", "-m", "services.acs", "--attributes"], input=given.decode(), text=True, timeout=30,
        capture_output=True, env={**kept, "PYTHONPATH": str(ROOT), "AWS_DEFAULT_REGION": "us-west-2", **environment},
    )  # fmt: skip


def test_one_line_per_capability_follows_from_facts_and_configuration():
    """Name, tab, value; what only a registration adds (ecs.os-type and the like) is not there."""
    done = listing(msgspec.json.encode(FACTS), ECS_DISABLE_PRIVILEGED="true", ECS_INSTANCE_ATTRIBUTES='{"mine":"1"}')
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert all(line.count("\t") == 1 for line in lines)
    names = [line.partition("\t")[0] for line in lines]
    assert names[0] == "ecs.capability.private-registry-authentication.secretsmanager"
    assert "com.amazonaws.ecs.capability.docker-remote-api.1.17" in names  # a lowest of 1.24 stands for all older ones
    assert {"ecs.capability.task-cpu-mem-limit", "ecs.capability.docker-plugin.vieux/sshfs"} <= set(names)
    assert "com.amazonaws.ecs.capability.privileged-container" not in names
    assert "mine" not in names and not any(name.startswith("ecs.os-") for name in names)


def test_every_capability_is_told_with_its_condition_on_stderr():
    """For the person who asks why ECS places no task here; scripts read the standard output alone."""
    done = listing(msgspec.json.encode(FACTS), ECS_SELINUX_CAPABLE="true", ECS_EXTERNAL="true")
    told = {name: (here, when) for here, name, when in (line.split(None, 2) for line in done.stderr.splitlines())}
    assert told["com.amazonaws.ecs.capability.selinux"] == ("yes", "ECS_SELINUX_CAPABLE is true")
    assert told["com.amazonaws.ecs.capability.apparmor"] == ("no", "ECS_APPARMOR_CAPABLE is true")
    assert told["ecs.capability.task-eia"] == ("no", "always; not outside of EC2")
    assert told["com.amazonaws.ecs.capability.docker-remote-api.<version>"][0] == "yes"
    offered = {line.partition("\t")[0] for line in done.stdout.splitlines()}
    assert {name for name, (here, _) in told.items() if here == "yes" and "<" not in name} <= offered
    assert not {name for name, (here, _) in told.items() if here == "no"} & offered


def test_options_of_the_table_follow_the_environment():
    """A capability appears with its option, and external mode leaves out what only EC2 has."""
    plain = listing(msgspec.json.encode(FACTS)).stdout
    assert "com.amazonaws.ecs.capability.privileged-container\t\n" in plain
    external = listing(msgspec.json.encode(FACTS), ECS_EXTERNAL="true").stdout
    assert "ecs.capability.external\t\n" in external
    assert "ecs.capability.aws-appmesh\t\n" in plain and "aws-appmesh" not in external


@pytest.mark.parametrize("given", [b"", b"no json", b'{"server_version": 5}'])
def test_facts_that_cannot_be_read_are_an_error_on_stderr(given):
    """Status 1 and nothing on stdout, which scripts read."""
    done = listing(given)
    assert (done.returncode, done.stdout) == (1, "")
    assert "the facts about Docker on the standard input cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_flag_pipes_the_engine_s_facts_into_the_table(tmp_path, monkeypatch, capfd):
    """A stand-in for the engine, the real table; an engine that fails is told with its own words."""
    package = tmp_path / "services" / "engine"
    package.mkdir(parents=True)
    script = package / "__main__.py"
    (package / "__init__.py").touch()
    # Everything but the engine is the real thing.
    (tmp_path / "services" / "__init__.py").write_text(f"__path__.append({str(ROOT / 'services')!r})\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
    script.write_text(f"import sys\nassert sys.argv[1:] == ['--facts']\nprint({msgspec.json.encode(FACTS).decode()!r})")
    assert cli.main(["-ecs-attributes"]) == 0
    assert "ecs.capability.full-sync\t\n" in capfd.readouterr().out
    script.write_text("import sys\nsys.exit('Docker does not answer')")
    assert cli.main(["-ecs-attributes"]) == 1
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "Docker does not answer\n")
