"""A stand-in for the process tree: the real control plane, and an agent that runs containers the simplest way.

Run as a program with the environment that `ecs-local` gives to `ecs-agent`. It knows dependsOn START and HEALTHY and
nothing else of the real agent's work; it exists so that the command line can be tested without the other services.
"""

from gevent import monkey

monkey.patch_all()

import json  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402

import docker  # noqa: E402
import gevent  # noqa: E402
import gevent.event  # noqa: E402

from services.local.listener import listen  # noqa: E402
from services.local.server import Server  # noqa: E402
from tests.process.local.harness import FakeAgent, Json, Plane  # noqa: E402

TASK, NAME = "com.amazonaws.ecs.task-arn", "com.amazonaws.ecs.container-name"


class DockerAgent(FakeAgent):
    """Runs and stops what it is told to."""

    def _on_message(self, ws: object, text: str) -> None:
        super()._on_message(ws, text)  # type: ignore[arg-type]
        frame = json.loads(text)
        for task in frame["message"].get("tasks", []) if frame["type"] == "PayloadMessage" else []:
            gevent.spawn(self._run if task["desiredStatus"] == "RUNNING" else self._stop, task)

    def _run(self, task: Json) -> None:
        client = docker.APIClient(version="auto", timeout=30)
        for container in task["containers"]:
            for need in container.get("dependsOn", []):
                self._await_healthy(client, task["arn"], need["containerName"])
            mappings = {p["containerPort"]: p["hostPort"] for p in container["portMappings"]}
            config = json.loads(container["dockerConfig"]["config"])
            made = client.create_container(
                container["image"], container["command"], entrypoint=container.get("entryPoint"),
                ports=list(mappings), labels={TASK: task["arn"], NAME: container["name"]},
                healthcheck=_lower(config.get("Healthcheck")),
                host_config=client.create_host_config(port_bindings=mappings))  # fmt: skip
            client.start(made["Id"])
            self.report(task["arn"], "PENDING", {"containerName": container["name"], "status": "RUNNING",
                                                 "runtimeId": made["Id"]})  # fmt: skip
        self.report(task["arn"], "RUNNING")

    def _await_healthy(self, client: docker.APIClient, arn: str, name: str) -> None:
        label = [f"{TASK}={arn}", f"{NAME}={name}"]
        for _ in range(200):
            found = client.containers(filters={"label": label, "health": "healthy"})
            if found:
                return
            time.sleep(0.1)

    def _stop(self, task: Json) -> None:
        client = docker.APIClient(version="auto", timeout=30)
        entries = []
        for container in client.containers(all=True, filters={"label": f"{TASK}={task['arn']}"}):
            client.stop(container["Id"], timeout=1)
            code = client.inspect_container(container["Id"])["State"]["ExitCode"]
            entries.append({"containerName": container["Labels"][NAME], "status": "STOPPED", "exitCode": code})
        self.report(task["arn"], "STOPPED", *entries)


def _lower(probe: Json | None) -> Json | None:
    """The Engine API's names as docker-py wants them."""
    return {k.lower() if k != "StartPeriod" else "start_period": v for k, v in probe.items()} if probe else None


def main() -> None:
    """Until SIGTERM."""
    stop = gevent.event.Event()
    gevent.signal_handler(signal.SIGTERM, stop.set)
    print("fake tree starts", flush=True)
    if os.environ.get("FAKE_TREE_FAILS"):
        sys.exit("fake tree: cannot start, as asked")
    server = Server(Path(os.environ["ECS_DATADIR"]) / "local", listen(int(os.environ["ECS_LOCAL_PORT"])), "us-east-1")
    server.start()
    plane = Plane(Path())
    plane.port = server.port
    DockerAgent(plane).connect()
    stop.wait()
    server.stop()


if __name__ == "__main__":
    main()
