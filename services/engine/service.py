"""The engine as a process: wait for Docker, take up the saved tasks, serve commands until told to stop."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import gevent

from common.backoff import Backoff
from common.bus import Bus
from common.clock import SystemClock
from common.config import Config
from common.errors import Temporary
from common.model.agent import DockerFacts
from common.process import Context
from services.engine.engine import Engine, HandsLike
from services.engine.restore import restore

STOP_SECONDS = 2.0

MakeHands = Callable[[Config, Bus], HandsLike]


def real_hands(config: Config, bus: Bus) -> HandsLike:
    """The hands that touch Docker and the host."""
    from services.engine.docker import Hands
    from services.engine.resources import credential_specs
    from services.engine.resources.registry import Registry, standard

    return Hands(config, bus, registry=Registry(*standard(credential_specs.from_config(config))))


def serve(context: Context, make_hands: MakeHands = real_hands) -> int:
    """Run until `context.stopping` is set. The containers run on after it."""
    context.not_ready("waiting for Docker")
    hands = make_hands(context.config, context.bus)
    facts = _facts(context, hands)
    if facts is None:
        return 0
    engine = Engine(context.config, context.bus, hands, facts, SystemClock(), context.stopping.is_set)
    engine.facts = engine.records.publish_facts(engine.facts)
    hands.on_pull_began = engine.pull_began
    count = restore(engine)
    engine.start(partial(_host_is_prepared, context, f"{count} tasks taken up"))
    loading = gevent.spawn(engine.load_images)
    context.stopping.wait()
    loading.kill(block=False)
    engine.stop(STOP_SECONDS)
    return 0


def _host_is_prepared(context: Context, detail: str) -> None:
    """Wait for what a container needs as soon as it is started, one of a saved task too: the way to its credentials."""
    if context.wait_for_rules() and context.wait_for_endpoint():
        context.ready(detail)


def _facts(context: Context, hands: HandsLike) -> DockerFacts | None:
    """What Docker is like, as soon as it tells; None when the engine is told to stop first."""
    backoff = Backoff(1.0, 30.0, 2.0)
    while not context.stopping.is_set():
        hands.wait_until_docker_answers(context.stopping)
        try:
            return None if context.stopping.is_set() else hands.facts()
        except Temporary as error:
            context.not_ready(f"waiting for Docker: {error}")
            context.stopping.wait(backoff.delay())
    return None
