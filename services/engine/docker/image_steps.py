"""The image steps of a container: MANIFEST_PULLED and PULLED, with the pull behaviours (spec 03 §6.3, §6.4).

Decides whether a registry is asked at all, with whose credentials, and under which reference; `pull.Registry` does the
asking. What a failure means for container and task is the core's business.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial

from common.errors import NamedError
from common.model.agent import Credentials
from common.model.status import ContainerStatus, ContainerType, TaskStatus
from common.model.task import Container, RegistryAuth, Task
from common.serviceconnect import proxy_name
from services.engine.core.effects import Action, Outcome
from services.engine.docker import auth, reference
from services.engine.docker.api import Canceller, DockerCallError
from services.engine.docker.draft import at_least
from services.engine.docker.ecr import EcrError, EcrTokens
from services.engine.docker.images import ImageInspector
from services.engine.docker.pull import MANIFEST_ERROR, PULL_ERROR, Failed, Registry
from services.engine.docker.settings import Settings

log = logging.getLogger(__name__)

ECR_ERROR = "CannotPullECRContainerError"
DISTRIBUTION_SINCE = "1.35"

FindCredentials = Callable[[str], Credentials | None]
AsmAuth = Callable[[Task, str], auth.Auth | None]


class Cancellers:
    """The operations in flight that a stop of their task ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._active: dict[tuple[str, str], set[Canceller]] = {}

    def begin(self, arn: str, name: str) -> Canceller:
        """An operation for a container begins."""
        canceller = Canceller()
        with self._lock:
            self._active.setdefault((arn, name), set()).add(canceller)
        return canceller

    def end(self, arn: str, name: str, canceller: Canceller) -> None:
        """It is over."""
        with self._lock:
            left = self._active.get((arn, name), set())
            left.discard(canceller)
            if not left:
                self._active.pop((arn, name), None)

    def cancel(self, arn: str, name: str = "") -> None:
        """End the operations of a container, or of all containers of a task."""
        with self._lock:
            wanted = [c for key, cs in self._active.items() if key[0] == arn and name in ("", key[1]) for c in cs]
        for canceller in wanted:
            canceller.cancel()


class ImageSteps:
    """Both steps; `asm_auth` finds registry credentials that a resource kind fetched from Secrets Manager."""

    def __init__(
        self,
        registry: Registry,
        inspector: ImageInspector,
        settings: Settings,
        tokens: EcrTokens,
        find_credentials: FindCredentials,
        pull_succeeded: Callable[[str], bool],
    ) -> None:
        self._registry, self._inspector, self._settings = registry, inspector, settings
        self._tokens, self._find_credentials, self._pull_succeeded = tokens, find_credentials, pull_succeeded
        self._static = auth.StaticAuths(settings.registry_auth_type, settings.registry_auth_data)
        self.asm_auth: AsmAuth = lambda task, parameter: None
        self.on_pull_began: Callable[[str, float], None] = lambda arn, at: None

    # -- manifest ----------------------------------------------------------------------------

    def resolve_manifest(
        self, task: Task, container: Container, usable: tuple[str, ...], default: str, canceller: Canceller
    ) -> Outcome:
        """The digest of the container's image, if it can be told."""
        image = container.image
        try:
            digest = self._digest(task, container, usable, default, canceller)
        except Failed as failure:
            return Outcome(action=Action.RESOLVE_MANIFEST, target=container.name, error=failure.error)
        except reference.InvalidReference as error:
            named = NamedError(MANIFEST_ERROR, f"failed to parse image reference '{image}': {error}")
            return Outcome(action=Action.RESOLVE_MANIFEST, target=container.name, error=named)
        return Outcome(action=Action.RESOLVE_MANIFEST, target=container.name, image_digest=digest)

    def _digest(
        self, task: Task, container: Container, usable: tuple[str, ...], default: str, canceller: Canceller
    ) -> str:
        image = container.image
        if _brings_image(task, container) or container.known == ContainerStatus.STOPPED:
            return ""  # the agent brings it, or nobody waits for it any more
        if reference.split(image).digest:
            return reference.split(image).digest
        if not self._pull_required(image):
            return self._local_digest(image)
        version = DISTRIBUTION_SINCE if at_least(DISTRIBUTION_SINCE, default) else default
        if version not in usable:
            return ""
        return self._registry.digest(image, version, self._credentials(task, container), canceller)

    def _local_digest(self, image: str) -> str:
        try:
            digests = self._inspector.inspect(image).get("RepoDigests") or []
        except DockerCallError as error:
            raise Failed(NamedError(MANIFEST_ERROR, str(error))) from error
        if not digests:
            return ""
        digest = reference.matching_digest(image, digests)
        if not digest:
            raise Failed(NamedError(MANIFEST_ERROR, f"failed to find a repo digest matching '{image}'"))
        return digest

    def _pull_required(self, image: str) -> bool:
        behaviour = self._settings.pull_behavior
        if behaviour == "once":
            return not self._pull_succeeded(image)
        if behaviour == "prefer-cached":
            return not self._is_here(image)
        return True

    def _is_here(self, image: str) -> bool:
        try:
            self._inspector.inspect(image)
        except DockerCallError as error:
            log.debug("image %s is not on this host: %s", image, error)
            return False
        return True

    # -- pull --------------------------------------------------------------------------------

    def pull(self, task: Task, container: Container, canceller: Canceller) -> Outcome:
        """Bring the image to this host, as the pull behaviour says."""
        outcome = Outcome(action=Action.PULL, target=container.name)
        if _brings_image(task, container):
            return outcome
        if not self._pull_required(container.image):
            return self._found(container, outcome)
        began = time.time()
        self.on_pull_began(task.arn, began)
        error, used = self._pull(task, container, canceller)
        outcome = Outcome(
            action=Action.PULL,
            target=container.name,
            error=error,
            registry_pull_began_at=began,
            registry_pull_ended_at=time.time(),
        )
        if error is not None and not used:
            return outcome  # it ended before Docker was asked to pull (spec 08 §2.3)
        judged_now = self._settings.pull_upfront and self._settings.pull_behavior != "always"
        if error is not None and judged_now and not self._is_here(used):
            return _stopping_task(outcome) if container.essential else outcome
        return self._found(container, outcome)

    def _pull(self, task: Task, container: Container, canceller: Canceller) -> tuple[NamedError | None, str]:
        """The error, if any, and the reference that Docker was asked for ("" when it was not asked)."""
        if task.desired == TaskStatus.STOPPED:
            text = f"Task stopped before image pull could begin for task: {task.arn}"
            return NamedError("TaskStoppedBeforePullBeginError", text), ""
        used = ""
        try:
            credentials = self._credentials(task, container)
            used = self._reference(container)
            self._registry.pull(used, credentials, canceller)
            self._inspector.forget()
            if container.image_digest and not reference.split(container.image).digest:
                self._registry.tag(used, container.image, canceller)
                self._inspector.forget()
        except Failed as failure:
            return failure.error, used
        return None, used

    def _reference(self, container: Container) -> str:
        image, digest = container.image, container.image_digest or reference.split(container.image).digest
        if not digest:
            return reference.with_tag(image)
        try:
            return reference.canonical(image, digest)
        except reference.InvalidReference as error:
            text = f"failed to prepare a canonical reference with image '{image}' and digest '{digest}': {error}"
            raise Failed(NamedError(PULL_ERROR, text)) from error

    def _found(self, container: Container, outcome: Outcome) -> Outcome:
        """The outcome with the image's id and digest, by which the engine records who uses the image."""
        try:
            inspected = self._inspector.inspect(container.image)
        except DockerCallError as error:
            log.warning("image %s of container %s is not there: %s", container.image, container.name, error)
            return outcome
        digest = container.image_digest or reference.loose_digest(container.image, inspected.get("RepoDigests") or [])
        return Outcome(
            action=outcome.action,
            target=outcome.target,
            error=outcome.error,
            image_id=str(inspected.get("Id") or ""),
            image_size_bytes=int(inspected.get("Size") or 0),
            image_digest=digest,
            registry_pull_began_at=outcome.registry_pull_began_at,
            registry_pull_ended_at=outcome.registry_pull_ended_at,
        )

    # -- credentials -------------------------------------------------------------------------

    def _credentials(self, task: Task, container: Container) -> Callable[[], auth.Auth]:
        """A function that gives the registry credentials of a container; it raises Failed when ECR refuses.

        Raises Failed when this host has not got what it would need: then Docker is not asked at all.
        """
        wanted = container.registry_auth
        if wanted is not None and wanted.type == "ecr":
            return partial(self._token, wanted, self._execution_role(task) if wanted.use_execution_role else None)
        if wanted is not None and wanted.type == "asm":
            found = self.asm_auth(task, wanted.credentials_parameter)
            if found is None:
                text = "engine docker private registry credentials: not found"
                raise Failed(NamedError("CannotPullContainerAuthError", text))
            return partial(dict, found)
        return partial(self._static.for_image, container.image)

    def _execution_role(self, task: Task) -> Credentials:
        id_ = task.execution_credentials_id
        role = self._find_credentials(id_) if id_ else None
        if role is None:
            raise Failed(NamedError(ECR_ERROR, "engine ecr credentials: not found"))
        return role

    def _token(self, wanted: RegistryAuth, role: Credentials | None) -> auth.Auth:
        try:
            return self._tokens.for_registry(wanted, role)
        except EcrError as error:
            raise Failed(NamedError(ECR_ERROR, str(error))) from error


def _brings_image(task: Task, container: Container) -> bool:
    """Whether it is an image of the agent's own, which is loaded from a file (spec 03 §1.5)."""
    return container.type != ContainerType.NORMAL or container.name == proxy_name(task)


def _stopping_task(outcome: Outcome) -> Outcome:
    """An essential image that is neither pulled nor cached ends the task (spec 03 §6.4, step 8)."""
    return Outcome(
        action=outcome.action,
        target=outcome.target,
        error=outcome.error,
        registry_pull_began_at=outcome.registry_pull_began_at,
        registry_pull_ended_at=outcome.registry_pull_ended_at,
        stop_task=True,
        reason=str(outcome.error),
    )
