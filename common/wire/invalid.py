"""The error of a task that cannot be run, as ECS gets to see it."""

from __future__ import annotations

from common.errors import Permanent

# The misspelt word is what the reference sends; control planes may look for it (spec 02 §4.4).
PREFIX = "UnrecogniedTaskError: Error loading task - "


class InvalidTask(Permanent):
    """The payload's task cannot be run. `text` says why, in the words of spec 02 §2 where it defines them."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    @property
    def reason(self) -> str:
        """The reason of the STOPPED report that answers the task."""
        return PREFIX + self.text
