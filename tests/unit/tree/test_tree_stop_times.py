"""How long each program has to end in order: in supervisord.conf, in the programs, and for who waits for the tree."""

from __future__ import annotations

import logging
from collections import defaultdict
from configparser import RawConfigParser
from pathlib import Path

import gevent
import pytest

from common import process
from common.config import load
from common.process import stop_seconds
from common.process_names import SERVICES, STORES
from common.tree.supervision import STAGE
from services.acs import service as acs
from services.endpoint import service as endpoint
from services.engine import service as engine
from services.init import launch
from services.local.tool import tree


def programs() -> dict[str, dict[str, str]]:
    """The options of each program."""
    parser = RawConfigParser()
    parser.read(Path(__file__).parents[3] / "supervisord.conf")
    return {s.partition(":")[2]: dict(parser[s]) for s in parser.sections() if s.startswith("program:")}


@pytest.mark.parametrize("name", SERVICES)
def test_a_program_ends_itself_before_the_supervisor_kills_it(name: str):
    """Its own end by force says why and writes out its log; SIGKILL does not."""
    assert stop_seconds(name) + 0.5 <= float(programs()[name]["stopwaitsecs"])


def test_a_stop_signal_sets_the_time_of_its_program_once(monkeypatch: pytest.MonkeyPatch):
    """A second signal gives no second chance."""
    planned: list[float] = []
    monkeypatch.setattr(gevent, "spawn_later", lambda seconds, *_: planned.append(seconds))
    context = process.Context("endpoint", load({}), "/nowhere", logging.getLogger("endpoint"))
    process._stop(context)
    process._stop(context)
    assert context.stopping.is_set() and planned == [stop_seconds("endpoint")]


def test_what_a_program_does_at_its_end_fits_into_its_time():
    """Half a second at least is left for what follows: the last lines of the audit log, the last commit."""
    assert stop_seconds("endpoint") >= endpoint.DRAIN_SECONDS + endpoint.WORKERS_END_SECONDS + 0.5
    assert stop_seconds("endpoint-2") == stop_seconds("endpoint"), "a further worker ends with the first"
    assert stop_seconds("engine") >= engine.STOP_SECONDS + 0.5
    assert stop_seconds("acs") >= acs.STOP_SECONDS + 0.5


def test_whoever_stops_the_tree_waits_for_all_its_stages():
    """A tree that is killed before its last stage leaves the rules of `init` behind."""
    stages: dict[int, float] = defaultdict(float)
    found = programs()
    assert sorted(found) == sorted((*SERVICES, *STORES))
    for options in found.values():
        stage = int(options["priority"]) // STAGE
        stages[stage] = max(stages[stage], float(options["stopwaitsecs"]))
    assert sum(stages.values()) == 56, "the comments that name this number"
    assert sum(stages.values()) < min(launch.STOP_SECONDS, tree.STOP_SECONDS)
