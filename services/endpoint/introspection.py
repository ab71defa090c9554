"""The introspection server on port 51678: for operators on the instance (spec 06 §3). A WSGI application."""

from __future__ import annotations

import html
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from common import logs
from common.version import COMMIT, VERSION
from services.endpoint import diagnostics, paths
from services.endpoint.counts import INTROSPECTION, Counts
from services.endpoint.encode import encode
from services.endpoint.follow import Source
from services.endpoint.metadata import Finder
from services.endpoint.metrics import Metrics
from services.endpoint.reply import HTML, PLAIN, TEXT, NotYet, Reply, document, status_line
from services.endpoint.shapes import NO_TASK, introspection_task, introspection_tasks
from services.endpoint.view import TaskEntry

log = logging.getLogger(__name__)

COMMANDS = ("/v1/metadata", "/v1/tasks", "/license")
SHORT_ID = 12  # up to this length a Docker id is a prefix
SEPARATOR = "\n" + "=" * 80 + "\n"
LICENSE_FILES = (("LICENSE",), ("NOTICE",), ("THIRD-PARTY", "THIRD_PARTY"))
LICENSE_FOLDERS = (Path.cwd(), Path(__file__).resolve().parents[2])

StartResponse = Callable[[str, list[tuple[str, str]]], Any]


class Introspection:
    """The application; `profiling` is ECS_ENABLE_RUNTIME_STATS. Without `metrics` there is no /metrics."""

    def __init__(self, source: Source, profiling: bool = False, folders: Iterable[Path] = LICENSE_FOLDERS,
                 metrics: Metrics | None = None, counts: Counts | None = None) -> None:  # fmt: skip
        self.counts = counts or Counts()
        self.source, self.view, self.finder = source, source.view, Finder(source)
        self.folders = tuple(folders)
        self.routes: dict[str, Callable[[Mapping[str, Any]], Reply]] = {
            "/v1/metadata": self._metadata, "/v1/tasks": self._tasks, "/license": self._license,
        }  # fmt: skip
        if metrics is not None:
            self.routes["/metrics"] = metrics.page  # not in the root's list, which is the reference's to the letter
        commands: tuple[str, ...] = COMMANDS
        if profiling:
            self.routes |= diagnostics.ROUTES
            commands += diagnostics.COMMANDS
        self.root = Reply(200, encode({"AvailableCommands": list(commands)}), TEXT)
        self.profiling = profiling

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request; every path has an answer, and every method is the same."""
        try:
            reply = self._answer(environ)
        except Exception:
            log.exception("an introspection request could not be answered; the client gets an empty 500")
            reply = Reply(500, b"", "", (("Connection", "close"),))
        self.counts.answered(INTROSPECTION, self._group(environ["PATH_INFO"], reply.status), reply.status)
        headers = [("Content-Type", reply.content_type)] if reply.content_type else []
        start_response(status_line(reply.status), [*headers, *reply.headers])
        return (reply.body,)

    def _answer(self, environ: Mapping[str, Any]) -> Reply:
        path = environ["PATH_INFO"]
        if log.isEnabledFor(logging.DEBUG):
            peer = f"{environ['REMOTE_ADDR']}:{environ['REMOTE_PORT']}"
            log.debug("Handling http request", **logs.fields(method=environ["REQUEST_METHOD"], **{"from": peer}))
        if path == "*":
            return Reply(400, b"", "", (("Connection", "close"),))
        clean = paths.cleaned(path)
        if self.profiling and clean == "/debug/pprof":
            clean += "/"
        if clean != path:
            return _moved(environ["REQUEST_METHOD"], paths.location(clean, environ["QUERY_STRING"]))
        handler = self.routes.get(path)
        if handler is None and self.profiling and path.startswith("/debug/pprof/"):
            handler = diagnostics.index
        try:
            return handler(environ) if handler else self.root
        except NotYet:
            return document(NO_TASK, 503)

    def _group(self, path: str, status: int) -> str:
        """The class of routes for /metrics."""
        if status == 301:
            return "redirect"
        if path not in self.routes:
            return "commands"
        return "debug" if path.startswith("/debug/") else path.rpartition("/")[2]

    # -- /v1 ---------------------------------------------------------------------------------------

    def _metadata(self, _environ: Mapping[str, Any]) -> Reply:
        instance = self.view.instance
        return document({
            "Cluster": instance.cluster,
            "ContainerInstanceArn": instance.arn or None,
            "Version": f"Amazon ECS Agent - v{VERSION} ({COMMIT})",
        })  # fmt: skip

    def _tasks(self, environ: Mapping[str, Any]) -> Reply:
        query = environ["QUERY_STRING"]
        if not query:
            return self._all_tasks()
        pairs = paths.first_values(query)
        docker_id, arn = pairs.get("dockerid"), pairs.get("taskarn")
        if docker_id is not None and arn is not None:
            return document(NO_TASK, 400)
        if arn is not None:
            return self._by_arn(arn)
        return self._all_tasks() if docker_id is None else self._by_docker_id(docker_id)

    def _all_tasks(self) -> Reply:
        if self.view.introspection_answer is None:
            tasks = [entry.task for entry in self.view.tasks.values()]
            self.view.introspection_answer = document(introspection_tasks(tasks))
        return self.view.introspection_answer

    def _by_arn(self, arn: str) -> Reply:
        entry = self.view.tasks.get(arn)
        if entry is None and arn and self.source.look_for_task(arn):
            entry = self.view.tasks.get(arn)
        if entry is None and not self.source.complete:
            raise NotYet
        return _one(entry) if entry else document(NO_TASK, 404)

    def _by_docker_id(self, docker_id: str) -> Reply:
        if len(docker_id) > SHORT_ID:
            member = self.finder.docker(docker_id)
            return _one(member.entry) if member else document(NO_TASK, 404)
        found = [member for id_, member in self.view.by_docker.items() if id_.startswith(docker_id)]
        if len(found) == 1:
            return _one(found[0].entry)
        if not found and not self.source.complete:
            raise NotYet
        return document(NO_TASK, 400 if found else 404)

    # -- /license ------------------------------------------------------------------------------------

    def _license(self, _environ: Mapping[str, Any]) -> Reply:
        texts = []
        for names in LICENSE_FILES:
            text = next((t for name in names if (t := self._text_of(name)) is not None), None)
            if text is not None:
                texts.append(text)
        if not texts:
            log.error("no licence text (LICENSE) in %s", " or ".join(str(f) for f in self.folders))
            return Reply(500, b"", PLAIN)
        return Reply(200, SEPARATOR.join(texts).encode(), PLAIN)

    def _text_of(self, name: str) -> str | None:
        for folder in self.folders:
            try:
                return (folder / name).read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue  # the next folder may have it
        return None


def _one(entry: TaskEntry) -> Reply:
    return entry.answer("introspection", lambda: document(introspection_task(entry.task)))


def _moved(method: str, where: str) -> Reply:
    headers = (("Location", where),)
    if method not in ("GET", "HEAD"):
        return Reply(301, b"", "", headers)
    link = html.escape(where).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")
    body = f'<a href="{link}">Moved Permanently</a>.\n\n'
    return Reply(301, body.encode(), HTML, headers)
