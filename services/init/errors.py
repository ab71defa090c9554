"""Failures of the netfilter manager, as sentences for the operator."""

from __future__ import annotations

from common.errors import AgentError


class NetfilterError(AgentError):
    """A rule, a kernel setting or the route could not be read or changed; worth another attempt."""


class NotPossibleHere(NetfilterError):
    """This process cannot change rules at all: a tool or a privilege is missing."""


class SysctlError(NetfilterError):
    """A kernel setting could not be read or written."""


class RouteError(NetfilterError):
    """The route of the task endpoint could not be read or changed."""
