"""Group managed service accounts: the kind `credentialspec`, one resource for all credential specs of a task.

The specs are read (credential_spec_sources.py), the credentials fetcher makes Kerberos tickets for them
(credentials_fetcher.py), and a container finds its tickets in a directory that is bound into it. What is kept are
the ids of the leases and the directories; users and passwords are asked for each time and live as long as the call.

An instance that has joined the domain gets one lease for all specs of the task; each domainless spec has its own. All
of them are given back at the cleanup, and at once when one of them could not be had. ECS agent behaviour, spec 05 §10.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from common.config import Config
from common.logs import fields
from common.model.agent import Credentials
from common.model.task import Resource, Task
from common.wire.gojson import Pairs
from services.engine.core.prepare import RENEWED
from services.engine.docker.overlay import BadOverlay
from services.engine.resources import aws, go_json
from services.engine.resources.credential_spec_sources import (
    DOMAINLESS,
    JOINED,
    Spec,
    is_file,
    name_for,
    names_in,
    read_all,
)
from services.engine.resources.credentials_fetcher import Account, Fetcher, FetcherFailed, Lease
from services.engine.resources.kind import Host, ResourceFailed
from services.engine.resources.secrets_manager import client_in

if TYPE_CHECKING:
    from services.engine.docker.draft import Draft

log = logging.getLogger(__name__)

KIND = NAME = "credentialspec"
TICKETS_IN_CONTAINER = "/var/credentials-fetcher/krbdir"
LEASES, TICKETS = "leases", "tickets"  # in Resource.detail: ids; name of the spec -> directory
MADE_UP_LEASE, MADE_UP_TICKETS = "12345", "/tmp/tgt"

T = TypeVar("T")
Made = tuple[Lease, dict[str, str]]  # a lease, and the directories of its tickets by spec


def assigned(paths: Iterable[str], specs: Sequence[Spec]) -> dict[str, str]:
    """Which directory belongs to which spec: its account occurs in the path, in any case.

    Of several specs the one whose account is the directory's name, then one without a directory, then the first.
    """
    found: dict[str, str] = {}
    for path in paths:
        folded = path.casefold()
        last = folded.rstrip("/").rpartition("/")[2]
        fitting = [s for s in specs if s.names_an_account and s.account.casefold() in folded]
        if fitting:
            best = min(fitting, key=lambda s: (s.account.casefold() != last, s.name in found))
            found[best.name] = path
    return found


def parse_account(text: str) -> Account:
    """User, password and domain in a secret's JSON, whose keys match in any case. Raises ResourceFailed."""
    prefix = "failed to parse asmSecretData for the gMSA AD user: "
    try:
        document = go_json.decode(text)
        if document is not None and not isinstance(document, Pairs):
            raise BadOverlay(f"json: cannot unmarshal {go_json.kind_of(document)} into Go value of type asmSecret")
        found = {"username": "", "password": "", "domainname": ""}
        for key, value in document or ():
            name = key.casefold()
            if name in found and value is not None:
                if not isinstance(value, str):
                    kind = go_json.kind_of(value)
                    raise BadOverlay(f"json: cannot unmarshal {kind} into Go struct field .{name} of type string")
                found[name] = value
    except BadOverlay as error:
        raise ResourceFailed(f"{prefix}{error}") from None  # the cause holds the secret's text
    return Account(found["username"], found["password"], found["domainname"])


def from_config(config: Config) -> CredentialSpecs:
    """The kind with the credentials fetcher of a loaded configuration."""
    made_up = config["ZZZ_SKIP_CREDENTIALS_FETCHER_INVOCATION_CHECK_NOT_SUPPORTED_IN_PRODUCTION"]
    return CredentialSpecs(Fetcher(config["CREDENTIALS_FETCHER_HOST_DIR"] or ""), bool(made_up))


class CredentialSpecs:
    """The kind `credentialspec`. `made_up`: the fetcher is never called, the tickets lie in /tmp/tgt (for tests)."""

    name = KIND

    def __init__(self, fetcher: Fetcher, made_up: bool = False) -> None:
        self._fetcher, self._made_up = fetcher, made_up

    def prepare(self, task: Task, host: Host) -> list[Resource]:
        """One resource for all credential specs of the task."""
        names = names_in(task)
        if not names:
            return []
        detail = {
            "containers": [c.name for c in task.containers if name_for(c)],
            RENEWED: any(name.startswith(DOMAINLESS) for name in names),
        }
        needs_role = not all(map(is_file, names))
        return [Resource(kind=KIND, name=NAME, needs_execution_credentials=needs_role, detail=detail)]

    def create(self, task: Task, resource: Resource, host: Host) -> dict[str, Any]:
        """Get the tickets, or renew those that are there: the execution role has new credentials then."""
        if LEASES in resource.detail:
            self._renew(task, host)
            return {}
        specs, role = self._read(task, names_in(task), host)
        if self._made_up:
            return {LEASES: [MADE_UP_LEASE], TICKETS: {s.name: MADE_UP_TICKETS for s in specs if s.names_an_account}}
        made = self._make(task, specs, role, host)
        tickets = {name: path for _, found in made for name, path in found.items()}
        return {LEASES: [lease.id for lease, _ in made if lease.id], TICKETS: tickets}

    def cleanup(self, task: Task, resource: Resource, host: Host) -> None:
        """Give every lease back."""
        if self._made_up:
            return
        failures = self._give_back(str(id_) for id_ in resource.detail.get(LEASES) or ())
        if failures:
            raise ResourceFailed(";".join(failures))

    def amend(self, draft: Draft, resource: Resource) -> None:
        """The container's tickets; Docker knows nothing of the security options that name specs. Raises Refused."""
        from services.engine.docker.draft import Refused

        name = name_for(draft.container)
        if not name:
            return
        if TICKETS not in resource.detail:
            raise Refused("DockerClientConfigError", "unable to fetch task resource credentialspec")
        directory = resource.detail[TICKETS].get(name)
        if not directory:
            raise Refused("DockerClientConfigError", "unable to fetch valid credentialspec mapping")
        draft.bind(f"{directory}:{TICKETS_IN_CONTAINER}:ro")
        options = draft.host.get("SecurityOpt") or ()
        draft.host["SecurityOpt"] = [o for o in options if not str(o).startswith(JOINED)]

    # -- leases ------------------------------------------------------------------------------

    def _read(self, task: Task, names: Sequence[str], host: Host) -> tuple[list[Spec], Credentials | None]:
        """The specs, and the execution role if anything needs it."""
        needs_role = any(name.startswith(DOMAINLESS) or not is_file(name) for name in names)
        role = aws.execution_role(task, host) if needs_role else None
        return read_all(names, role, host), role

    def _make(self, task: Task, specs: Sequence[Spec], role: Credentials | None, host: Host) -> list[Made]:
        """All leases, or none. Raises ResourceFailed."""
        joined = [s for s in specs if not s.is_domainless]
        calls = [partial(self._join, joined)] if joined else []
        calls += [partial(self._log_in, s, role, host) for s in specs if s.is_domainless and s.names_an_account]
        settled = aws.in_parallel([partial(_settled, call) for call in calls])
        made = [found for found in settled if not isinstance(found, ResourceFailed)]
        failure = next((found for found in settled if isinstance(found, ResourceFailed)), None)
        if failure is None:
            return made
        for left in self._give_back(lease.id for lease, _ in made):
            log.error("tickets of a task that does not run are left: %s", left, **fields(task=task.arn))
        raise failure

    def _join(self, specs: Sequence[Spec]) -> Made:
        lease = self._fetcher.add([s.content for s in specs])
        return lease, assigned(lease.paths, specs)

    def _log_in(self, spec: Spec, role: Credentials | None, host: Host) -> Made:
        lease = self._fetcher.add_domainless(spec.content, account_of(spec.secret_arn, role, host))
        return lease, {spec.name: lease.paths[0]} if lease.paths else {}

    def _give_back(self, ids: Iterable[str]) -> list[str]:
        """What went wrong, a sentence for each lease that is left."""
        wanted = [id_ for id_ in ids if id_]
        settled = aws.in_parallel([partial(_settled, partial(self._fetcher.delete, id_)) for id_ in wanted])
        found = zip(wanted, settled, strict=True)
        return [f"lease {id_}: {failure}" for id_, failure in found if isinstance(failure, ResourceFailed)]

    # -- renewal -----------------------------------------------------------------------------

    def _renew(self, task: Task, host: Host) -> None:
        """Each user's tickets once. What fails is logged; the next credentials bring the next attempt."""
        if self._made_up:
            return
        try:
            specs, role = self._read(task, [n for n in names_in(task) if n.startswith(DOMAINLESS)], host)
        except ResourceFailed as failure:
            _not_renewed(task, str(failure))
            return
        arns = dict.fromkeys(s.secret_arn for s in specs if s.names_an_account)
        settled = aws.in_parallel([partial(_settled, partial(self._renew_one, arn, role, host)) for arn in arns])
        for found in settled:
            if isinstance(found, ResourceFailed):
                _not_renewed(task, str(found))
            else:
                log.info("Kerberos tickets are renewed: %s", ", ".join(found) or "none", **fields(task=task.arn))

    def _renew_one(self, arn: str, role: Credentials | None, host: Host) -> list[str]:
        return self._fetcher.renew(account_of(arn, role, host))


def _not_renewed(task: Task, why: str) -> None:
    log.error(
        "Kerberos tickets of the task are not renewed, which is tried again with the next credentials of its execution "
        "role: %s", why, **fields(task=task.arn),
    )  # fmt: skip


def account_of(arn: str, role: Credentials | None, host: Host) -> Account:
    """The user in a secret. Raises ResourceFailed."""
    prefix = f"failed to retrieve credentials for domainless gMSA user {arn}: "
    if role is None:
        raise ResourceFailed(f"{prefix}unable to find execution role credentials")
    client = client_in(host.region, role)
    try:
        with aws.deadline(aws.CALL_SECONDS):
            answer = client.call("get_secret_value", SecretId=arn)
    except aws.AwsError as error:
        raise ResourceFailed(f"{prefix}{error}") from error
    return parse_account(str(answer.get("SecretString") or ""))


def _settled(call: Callable[[], T]) -> T | ResourceFailed:
    """What the call returns, or how it failed."""
    try:
        return call()
    except FetcherFailed as failure:
        return ResourceFailed(str(failure))
    except ResourceFailed as failure:
        return failure
