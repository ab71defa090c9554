"""The process `images`: a cycle every ECS_IMAGE_CLEANUP_INTERVAL, the first after one whole interval.

Off when ECS_DISABLE_IMAGE_CLEANUP is true or images are kept on purpose (`prefer-cached`); it then waits for the end
of the tree (ECS agent behaviour, spec 08 §3). The Docker SDK is imported when the first cycle begins: for most of its
life this process only sleeps.
"""

from __future__ import annotations

from common.clock import SystemClock
from common.process import Context


def why_off(context: Context) -> str:
    """The reason why nothing is cleaned, or an empty text."""
    if context.config["ECS_DISABLE_IMAGE_CLEANUP"]:
        return "image cleanup is off: ECS_DISABLE_IMAGE_CLEANUP is true"
    if context.config["ECS_IMAGE_PULL_BEHAVIOR"] == "prefer-cached":
        return "image cleanup is off: ECS_IMAGE_PULL_BEHAVIOR is prefer-cached"
    return ""


def serve(context: Context) -> int | None:
    """Run cycles until the tree stops."""
    reason = why_off(context)
    if reason:
        context.ready(reason)
        context.stopping.wait()
        return 0
    interval = float(context.config["ECS_IMAGE_CLEANUP_INTERVAL"])
    context.ready(f"next cycle in {interval:.0f} s")
    while not context.stopping.wait(interval):
        run_cycle(context)
    return 0


def run_cycle(context: Context) -> None:
    """One cycle; a fault ends the cycle, not the process."""
    from services.images.cycle import Cycle, docker_clients, limits_of

    untracked = bool(context.config["ECS_ENABLE_UNTRACKED_IMAGE_CLEANUP"])
    try:
        Cycle(context.bus, limits_of(context.config), SystemClock(), docker_clients(), untracked).run()
    except Exception:
        context.log.error("the image cleanup cycle failed; the next one is tried as usual", exc_info=True)
