"""Docker as the command uses it: is it there, the sample image, logs of a task's containers, tidying up."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from docker import APIClient
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from requests.exceptions import RequestException

from common.docker import client as docker_client
from common.docker import host, message_of
from services.local.tool.settings import Problem

Json = dict[str, Any]
TASK_LABEL, NAME_LABEL = "com.amazonaws.ecs.task-arn", "com.amazonaws.ecs.container-name"
SAMPLE_IMAGE = "ecs-local/busybox:1"
SAMPLE_LABEL = "ecs-local.busybox"
CALL_SECONDS = 10.0
DOCKERD_SECONDS = 60.0
FAILURES = (DockerException, RequestException)


def connect(timeout_seconds: float = CALL_SECONDS) -> APIClient:
    """A client that speaks the daemon's own API version. Raises Problem when no daemon answers."""
    try:
        return docker_client("auto", timeout_seconds)
    except FAILURES as error:
        path = host().removeprefix("unix://")
        if host().startswith("unix://") and os.path.exists(path) and not os.access(path, os.R_OK | os.W_OK):
            raise Problem(f"This user may not use Docker ({path}). Join the group 'docker', or run as root.") from None
        raise Problem(f"No Docker Engine answers at {host()}: {error}") from None


def ensure_engine(log: Path) -> tuple[APIClient, subprocess.Popen[bytes] | None]:
    """A client of the engine that answers, and the dockerd started for it if none did."""
    try:
        return connect(), None
    except Problem as problem:
        dockerd = shutil.which("dockerd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        if "may not use" in str(problem) or os.environ.get("DOCKER_HOST"):
            raise
        if not dockerd or os.geteuid() != 0:
            raise Problem(
                f"{problem}\nStart Docker (systemctl start docker), or install it (apt-get install "
                "docker.io), or run this as root so that it can start dockerd itself."
            ) from None
    with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as out:
        process = subprocess.Popen([dockerd], stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
    end = time.monotonic() + DOCKERD_SECONDS
    try:
        while time.monotonic() < end and process.poll() is None:
            try:
                return connect(), process
            except Problem:
                time.sleep(0.3)
    except BaseException:  # Ctrl-C while waiting: what was started must not stay
        stop_engine(process)
        raise
    stop_engine(process)
    raise Problem(f"dockerd was started but does not answer; see {log}.")


def stop_engine(process: subprocess.Popen[bytes]) -> None:
    """End the dockerd that ensure_engine started."""
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(5)


# -- the sample image ---------------------------------------------------------------------------


def build_sample_image(docker: APIClient) -> bool:
    """Make SAMPLE_IMAGE from this machine's static busybox, no registry needed. False when it is already there.

    Raises Problem when there is no static busybox.
    """
    binary = shutil.which("busybox", path="/bin:/usr/bin:/sbin:/usr/sbin:/usr/local/bin")
    body = Path(binary).read_bytes() if binary else b""
    if not body or not is_static(body):
        raise Problem(
            "A statically linked busybox is needed for the sample image. Install it: "
            "apt-get install busybox-static (Debian, Ubuntu) or dnf install busybox (Fedora)."
        )
    digest = hashlib.sha256(body).hexdigest()
    try:
        if (docker.inspect_image(SAMPLE_IMAGE)["Config"].get("Labels") or {}).get(SAMPLE_LABEL) == digest:
            return False
    except ImageNotFound:
        pass  # built below
    applets = subprocess.run([str(binary), "--list"], capture_output=True, text=True, timeout=10, check=True)
    repository, tag = SAMPLE_IMAGE.split(":")
    docker.import_image_from_data(
        image_tar(body, applets.stdout.split()),
        repository=repository,
        tag=tag,
        changes=['CMD ["sh"]', "ENV PATH=/bin", f"LABEL {SAMPLE_LABEL}={digest}"],
    )
    return True


def image_tar(busybox: bytes, applets: Iterable[str]) -> bytes:
    """A root file system: busybox, a link per applet, and the few files that programs expect."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, mode in (("bin", 0o755), ("etc", 0o755), ("www", 0o755), ("tmp", 0o1777), ("root", 0o700)):
            directory = tarfile.TarInfo(name)
            directory.type, directory.mode = tarfile.DIRTYPE, mode
            tar.addfile(directory)
        for name, content, mode in (
            ("bin/busybox", busybox, 0o755),
            ("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n", 0o644),
            ("etc/group", b"root:x:0:\n", 0o644),
        ):
            file = tarfile.TarInfo(name)
            file.size, file.mode = len(content), mode
            tar.addfile(file, io.BytesIO(content))
        for applet in sorted(set(applets) - {"busybox"}):
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    return buffer.getvalue()


def is_static(elf: bytes) -> bool:
    """Whether a 64-bit ELF program asks for no interpreter (elf(5): no PT_INTERP program header)."""
    if elf[:5] != b"\x7fELF\x02":
        return False
    order = "<" if elf[5] == 1 else ">"
    (offset,) = struct.unpack_from(order + "Q", elf, 32)
    size, count = struct.unpack_from(order + "HH", elf, 54)
    return all(struct.unpack_from(order + "I", elf, offset + i * size)[0] != 3 for i in range(count))


# -- containers of tasks ------------------------------------------------------------------------


def containers_of(docker: APIClient, task_arn: str) -> list[Json]:
    """The task's own containers (not the agent's helpers), oldest first, as Docker lists them."""
    found: list[Json] = docker.containers(all=True, filters={"label": f"{TASK_LABEL}={task_arn}"})
    return sorted(
        (c for c in found if not c["Labels"].get(NAME_LABEL, "~").startswith("~")), key=lambda c: c["Created"]
    )


def read_log(docker: APIClient, container_id: str) -> str:
    """What a container has written so far. Raises Problem when its log driver keeps nothing to read."""
    try:
        return bytes(docker.logs(container_id)).decode(errors="replace")
    except (APIError, NotFound) as error:
        raise Problem(f"The log cannot be read: {message_of(error)}") from None


def stream_logs(docker: APIClient, containers: list[Json], follow: bool, prefixed: bool) -> None:
    """Print the logs of containers, side by side when following; Ctrl-C ends it."""
    lock = threading.Lock()

    def one(container: Json) -> None:
        prefix = f"{container['Labels'][NAME_LABEL]} | " if prefixed else ""
        reader = connect(timeout_seconds=24 * 3600) if follow else docker  # a silent container is no failure
        try:
            rest = b""
            for chunk in reader.logs(container["Id"], stream=True, follow=follow):
                *lines, rest = (rest + chunk).split(b"\n")
                with lock:
                    for line in lines:
                        print(prefix + line.decode(errors="replace"), flush=True)
            if rest:
                print(prefix + rest.decode(errors="replace"), flush=True)
        except FAILURES as error:
            print(f"{prefix}(the log cannot be read: {message_of(error)})", file=sys.stderr)

    if not follow:
        for container in containers:
            one(container)
        return
    threads = [threading.Thread(target=one, args=(c,), daemon=True) for c in containers]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(0.5)


def remove_containers(docker: APIClient, task_arns: Iterable[str]) -> int:
    """Remove every container of the tasks, also the agent's helpers among them; returns how many."""
    removed = 0
    for arn in task_arns:
        for container in docker.containers(all=True, filters={"label": f"{TASK_LABEL}={arn}"}):
            try:
                docker.remove_container(container["Id"], force=True, v=True)
                removed += 1
            except NotFound:
                continue  # the agent's own clean-up was faster
            except APIError as error:
                if error.status_code != 409:  # its removal is already in progress
                    raise
    return removed
