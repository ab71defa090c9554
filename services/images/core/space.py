"""How much disk space a removal gave back.

Docker's size of an image counts layers that other images share, so it would be too much. What a removal really gave
back follows from its answer: it names the chain ids of the layers that are gone, and the image's history has the size
of each. Where the two cannot be matched, only a removal of all layers counts: the figure is never too high.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass
class Gone:
    """What was removed. `images` counts images or, of several-tag images, tags; `space_bytes` is at least what went."""

    images: int = 0
    containers: int = 0
    space_bytes: int = 0

    def add(self, other: Gone) -> None:
        """Count `other` as well."""
        self.images += other.images
        self.containers += other.containers
        self.space_bytes += other.space_bytes


def chain_ids(layers: Sequence[str]) -> list[str]:
    """The chain id of each layer, from the diff ids of an image, lowest first (OCI image specification, "ChainID")."""
    found: list[str] = []
    for layer in layers:
        chain = f"{found[-1]} {layer}" if found else ""
        found.append(f"sha256:{hashlib.sha256(chain.encode()).hexdigest()}" if found else layer)
    return found


def layer_sizes(layers: Sequence[str], history_newest_first: Sequence[int]) -> dict[str, int]:
    """Bytes by chain id; empty when the history does not say which entry belongs to which layer."""
    sizes = [size for size in reversed(history_newest_first) if size]
    if len(sizes) != len(layers):
        return {}
    return dict(zip(chain_ids(layers), sizes, strict=True))


def given_back(
    layers: Sequence[str], sizes: Mapping[str, int], total_bytes: int, answer: Iterable[Mapping[str, str]]
) -> int:
    """Bytes that a removal gave back, from the answer of `DELETE /images/...`."""
    deleted = {record["Deleted"] for record in answer if "Deleted" in record}
    if sizes:
        return sum(size for chain, size in sizes.items() if chain in deleted)
    return total_bytes if layers and deleted.issuperset(chain_ids(layers)) else 0
