"""When images came to this host, as far as that can be known.

Docker remembers when an image was built and when it was tagged by hand, but a pull sets neither. An image that was not
there at the last look came after it; for those of the first look nothing is known.
"""

from __future__ import annotations

from collections.abc import Collection


class Arrivals:
    """The earliest possible time of arrival (Unix seconds, 0 = not known) of the images of the last look."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._looked_at = 0.0

    def __len__(self) -> int:
        return len(self._since)

    def look(self, image_ids: Collection[str], now: float) -> None:
        """These images are there now."""
        self._since = {id_: self._since.get(id_, self._looked_at) for id_ in image_ids}
        self._looked_at = now

    def of(self, image_id: str) -> float:
        """When the image came, at the earliest."""
        return self._since.get(image_id, self._looked_at)
