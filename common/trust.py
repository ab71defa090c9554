"""How certificates of AWS endpoints are checked: one answer for every client (ECS agent behaviour, spec 01 §4)."""

from __future__ import annotations

import os
from collections.abc import Mapping

INSECURE = "ECS_TREE_ACCEPT_INSECURE_CERT"  # what `ecs-agent -k` leaves in the environment of the tree


def verification(ca_bundle: str = "", environ: Mapping[str, str] = os.environ) -> bool | str:
    """How certificates are checked: False with -k, else the path of a further CA bundle, else True (spec 01 §4)."""
    if environ.get(INSECURE, "").lower() == "true":
        return False
    return ca_bundle or True
