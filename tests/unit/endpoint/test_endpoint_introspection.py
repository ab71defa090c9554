"""Introspection: commands, look-ups, licence, redirects (spec 06 §3)."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from common.model.task import Container
from services.endpoint.paths import first_values

D = "ab" * 32
E = "11111111-2222-4333-8444-555555555555"
ARN = "arn:aws:ecs:us-west-2:111122223333:task/c/0a1b"


@pytest.mark.parametrize("path", ["/", "/no/such/path", "/v1/tasks/", "/debug/pprof/"])
def test_introspection_answers_every_unknown_path_with_its_commands(world, path):
    """Case 1: there is no 404."""
    answer = world.look(path, method="POST")
    assert (answer.status, answer.header("Content-Type")) == (200, "text/plain; charset=utf-8")
    assert answer.body == b'{"AvailableCommands":["/v1/metadata","/v1/tasks","/license"]}'


def test_introspection_tells_who_the_agent_is(world):
    """Installers read the ARN."""
    answer = world.look("/v1/metadata")
    assert list(answer.json) == ["Cluster", "ContainerInstanceArn", "Version"]
    assert answer.json["Version"].startswith("Amazon ECS Agent - v1.105.1 (")


def test_introspection_finds_tasks_by_arn_and_docker_id(world, task, container):
    """Cases 2, 6, 7, 8 and 9."""
    none = b'{"Arn":"","KnownStatus":"","Family":"","Version":"","Containers":null}'
    assert world.look("/v1/tasks").body == b'{"Tasks":[]}'
    world.view.set_task(task())
    assert world.look("/v1/tasks").json["Tasks"][0]["Arn"] == ARN
    for query in (f"taskarn={ARN}", f"dockerid={D}", f"dockerid={D[:12]}", "dockerid=", "dockerid=ab&dockerid=zz"):
        assert world.look(f"/v1/tasks?{query}").json["Arn"] == ARN, query
    for query, status in (
        (f"dockerid={D[:13]}", 404),
        ("dockerid=zz", 404),
        ("taskarn=nope", 404),
        ("taskarn=", 404),
        ("dockerid=x&taskarn=y", 400),
    ):
        answer = world.look(f"/v1/tasks?{query}")
        assert (answer.status, answer.body) == (status, none), query
    world.view.set_task(task(containers=(container(), container(name="b", docker_id="abc"))))
    assert world.look("/v1/tasks?dockerid=ab").status == 400
    assert world.look("/v1/tasks?TASKARN=x").json["Tasks"]


def test_a_container_without_an_id_is_known_by_its_docker_name(world, task):
    """The name is reserved before the container is created."""
    world.view.set_task(task(containers=(Container(name="a", docker_name="ecs-web-3-a-ff"),)))
    assert world.look("/v1/tasks?dockerid=ecs-web-3-a-ff").json["Arn"] == ARN


def test_internal_tasks_are_not_listed_but_found(world, task):
    """The relay and managed daemons are the agent's own."""
    world.view.set_task(task(is_internal=True))
    assert world.look("/v1/tasks").body == b'{"Tasks":[]}'
    assert world.look(f"/v1/tasks?taskarn={ARN}").status == 200


def test_introspection_redirects_with_a_page(world):
    """Spec 06 §1.4."""
    answer = world.look("//v1/tasks?a=1&b=2")
    assert (answer.status, answer.header("Location")) == (301, "/v1/tasks?a=1&b=2")
    assert answer.body == b'<a href="/v1/tasks?a=1&amp;b=2">Moved Permanently</a>.\n\n'
    assert world.look("//v1/tasks", method="POST").body == b""
    assert world.look("//v1/tasks?").header("Location") == "/v1/tasks"
    assert (world.look("*").status, world.look("*").header("Connection")) == (400, "close")
    assert b'href="/x?&#39;&#34;&lt;"' in world.look("//x?'\"<").body


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", {}),
        ("a=1&a=2&b", {"a": "1", "b": ""}),
        ("A=1&a=2", {"A": "1", "a": "2"}),
        ("a=%zz&a=2&b=1;c=2&%=x", {"a": "2"}),
        ("a=x+y%20z%2B&&=&a%62=1", {"a": "x y z+", "": "", "ab": "1"}),
        ("a=%ff&b=\xc3\xa9", {"a": "\ufffd", "b": "é"}),
    ],
)
def test_queries_are_read_like_the_reference_reads_them(query, found):
    """The first value of a key counts, case matters, and a malformed pair is as if it were not there."""
    assert first_values(query) == found


def test_the_licence_texts_are_joined(world, tmp_path: Path):
    """W1: the reference answers 500 because of a file name."""
    assert world.look("/license").status == 500
    (tmp_path / "LICENSE").write_text("ours")
    (tmp_path / "THIRD_PARTY").write_text("theirs")
    answer = world.look("/license")
    assert (answer.status, answer.header("Content-Type")) == (200, "text/plain")
    assert answer.body.decode() == "ours\n" + "=" * 80 + "\ntheirs"


def test_a_broken_introspection_handler_gives_an_empty_500_and_closes(world, monkeypatch):
    """The reference catches panics there."""
    monkeypatch.setitem(world.introspection.routes, "/v1/metadata", lambda environ: 1 / 0)
    answer = world.look("/v1/metadata")
    assert (answer.status, answer.body, answer.header("Connection")) == (500, b"", "close")


def test_a_request_that_succeeds_is_no_line_in_the_log(world, task, caplog):
    """One task that polls its metadata would fill the log; a debug line is there for who asks for it."""
    world.view.set_task(task())
    with caplog.at_level(logging.INFO):
        assert world.look("/v1/tasks").status == world.get(f"/v4/{E}/task").status == 200
    assert caplog.records == []
    with caplog.at_level(logging.DEBUG):
        world.look("/v1/tasks")
    assert [r.getMessage() for r in caplog.records] == ["Handling http request"]
