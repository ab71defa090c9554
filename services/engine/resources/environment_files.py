"""Environment files from Amazon S3: the kind `envfile`, one resource per container (spec 05 §8).

The files of a task lie under <data dir>/envfiles/<cluster>/<task id>/<bucket>/<key> until the task is cleaned up; the
variables are read from there when the container is created and are never part of a document.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from common.model.agent import Credentials
from common.model.task import Resource, Task
from services.engine.resources import aws, files, s3
from services.engine.resources.kind import Host, ResourceFailed

if TYPE_CHECKING:
    from services.engine.docker.draft import Draft

KIND = "envfile"
LINE_BYTES = 65535  # the longest line, without its newline
DIRECTORY_MODE = 0o777  # as the umask leaves it; the files themselves are 0600
INITIALIZE = "unable to initialize envfile resource directory, error: "
_ESCAPED = re.compile("[\udc80-\udcff]")


class LineTooLong(ValueError):
    """A line of an environment file is longer than the agent accepts."""


def parse(content: bytes) -> Iterator[tuple[str, str]]:
    """The variables of a file, line by line: NAME=value, nothing trimmed, unquoted or expanded. Raises LineTooLong."""
    for line in content.split(b"\n"):
        if len(line) > LINE_BYTES:
            raise LineTooLong("bufio.Scanner: token too long")
        line = line.removesuffix(b"\r")
        name, equals, value = line.partition(b"=")
        if equals and name and not line.startswith(b"#"):
            yield _text(name), _text(value)


def _text(value: bytes) -> str:
    """UTF-8; each byte that is not becomes the replacement character, as on the way through Docker's JSON."""
    return _ESCAPED.sub("\ufffd", value.decode("utf-8", "surrogateescape"))


def place_of(wanted: s3.Object) -> str:
    """Where the object lies below the task's directory. Raises ResourceFailed for a path that leads out of it."""
    place = os.path.normpath(f"{wanted.bucket}/{wanted.key}")
    if place.startswith(("/", "../")) or place in (".", "..") or "\0" in place:
        bucket, key = json.dumps(wanted.bucket), json.dumps(wanted.key)
        raise ResourceFailed(f"{INITIALIZE}invalid path: bucket {bucket} key {key} escapes envfile resource directory")
    return place


class EnvironmentFiles:
    """The kind `envfile`."""

    name = KIND

    def prepare(self, task: Task, host: Host) -> list[Resource]:
        """One resource for each container with environment files."""
        # The directory's cluster is kept, so that the removal finds what the download made.
        cluster = files.cluster_name(host.cluster)
        return [
            Resource(
                kind=KIND,
                name=f"{KIND}_{c.name}",
                needs_execution_credentials=True,
                detail={"container": c.name, "cluster": cluster},
            )
            for c in task.containers
            if c.environment_files
        ]

    def create(self, task: Task, resource: Resource, host: Host) -> dict[str, Any]:
        """Download the container's files, all at once; the errors are joined."""
        role = aws.execution_role(task, host)
        if role is None:
            raise ResourceFailed("environment file resource: unable to find execution role credentials")
        container = task.container(str(resource.detail.get("container") or ""))
        directory = _directory(task, resource, host.settings.data_dir)
        arns = [file.value for file in container.environment_files] if container else []
        failures = aws.in_parallel([partial(_settled, arn, directory, role, host) for arn in arns])
        if any(failures):
            raise ResourceFailed(";".join(failure for failure in failures if failure))
        return {}

    def cleanup(self, task: Task, resource: Resource, host: Host) -> None:
        """Remove the task's directory."""
        directory = _directory(task, resource, host.settings.data_dir)
        try:
            files.remove(directory)
        except OSError as error:
            raise ResourceFailed(files.said("remove", directory, error)) from error

    def amend(self, draft: Draft, resource: Resource) -> None:
        """The variables that nothing else has set; the first file that has one wins. Raises Refused."""
        from services.engine.docker.draft import Refused

        if resource.detail.get("container") != draft.container.name:
            return
        try:
            for name, value in self._variables(draft, resource):
                draft.environment.setdefault(name, value)
        except (ResourceFailed, LineTooLong) as error:
            text = f"resource cannot be initialized for task {draft.task.arn}: {error}"
            raise Refused("ResourceInitializationError", text) from error

    def _variables(self, draft: Draft, resource: Resource) -> Iterator[tuple[str, str]]:
        directory = _directory(draft.task, resource, draft.world.settings.data_dir)
        for file in draft.container.environment_files:
            path = os.path.join(directory, place_of(_object(file.value)))
            try:
                with open(path, "rb") as opened:
                    content = opened.read()
            except OSError as error:
                raise ResourceFailed(files.said("open", path, error)) from error
            # A name that is given twice in a file has its last value.
            yield from dict(parse(content)).items()


def _directory(task: Task, resource: Resource, data_dir: str) -> str:
    try:
        cluster = str(resource.detail.get("cluster") or "default")
        return files.task_directory(os.path.join(data_dir, "envfiles"), cluster, task.id)
    except ValueError as error:
        raise ResourceFailed(f"{INITIALIZE}{error}") from error


def _object(arn: str) -> s3.Object:
    try:
        return s3.parse_arn(arn)
    except ValueError as error:
        prefix = "unable to parse bucket and key from s3 ARN specified in environmentFile "
        raise ResourceFailed(f"{prefix}{arn}, error: {error}") from error


def _settled(arn: str, directory: str, role: Credentials, host: Host) -> str:
    """Download one file: "", or what went wrong."""
    try:
        _download(_object(arn), directory, role, host)
    except ResourceFailed as failure:
        return str(failure)
    return ""


def _download(wanted: s3.Object, directory: str, role: Credentials, host: Host) -> None:
    try:
        client = s3.client_for(wanted.bucket, role, host)
    except aws.AwsError as error:
        what = f"unable to initialize s3 client for bucket {wanted.bucket}, error: {error}"
        raise ResourceFailed(what) from error
    path = os.path.join(directory, place_of(wanted))
    try:
        os.makedirs(os.path.dirname(path), DIRECTORY_MODE, exist_ok=True)
    except OSError as error:
        cause = files.said("mkdir", os.path.dirname(path), error)
        what = f"unable to create envfiles directory with bucket {wanted.bucket}: {cause}"
        raise ResourceFailed(f"{INITIALIZE}{what}") from error
    prefix = f"unable to download env file with key {wanted.key} from bucket {wanted.bucket}, error: "
    try:
        with files.Writer(directory, "tmp_env") as writer:
            s3.download(client, wanted, writer)
            writer.finish(path, files.RENAME_ATTEMPTS)
    except aws.AwsError as error:
        raise ResourceFailed(f"{prefix}{error}") from error
    except OSError as error:
        raise ResourceFailed(f"{prefix}{files.said('write', path, error)}") from error
