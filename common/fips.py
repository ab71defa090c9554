"""Whether this host runs in FIPS mode (spec 01 §5)."""

from __future__ import annotations

FLAG = "/proc/sys/crypto/fips_enabled"


def is_on(path: str = FLAG) -> bool:
    """What the kernel says; a kernel without the flag is not in FIPS mode."""
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip() == "1"
    except OSError:
        return False
