"""The two kinds of failure, and the named errors that ECS sees.

A Temporary failure is worth another attempt, a Permanent one is not. NamedError carries the name that goes onto the
wire in front of its text, "<Name>: <text>" (ECS agent behaviour, spec 03 §8.6).
"""

from __future__ import annotations

from msgspec import Struct


class AgentError(Exception):
    """Base of every error that this product raises on purpose. The text says what was wrong, where, and what to do."""


class Temporary(AgentError):
    """May succeed later. `after` is the suggested delay in seconds."""

    def __init__(self, text: str, after: float = 1.0) -> None:
        super().__init__(text)
        self.after = after


class Permanent(AgentError):
    """Trying again would not help."""


class Terminal(AgentError):
    """The whole service must end and must not be restarted: exit status 5."""

    exit_status = 5


class NamedError(Struct, frozen=True):
    """An error as it is stored with a container and shown to ECS: `name` and `text` of "<name>: <text>"."""

    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.name or 'UnknownError'}: {self.text}"
