"""Failures of the volume plugin. The text of a PluginError is what Docker shows to the user."""

from __future__ import annotations

from common.errors import AgentError


class PluginError(AgentError):
    """A request cannot be fulfilled; Docker gets the text with status 500."""


class BadRequest(AgentError):
    """The body of a request cannot be decoded; answered with status 400."""


class StateError(AgentError):
    """The state file cannot be read, understood or written. The text names the file."""
