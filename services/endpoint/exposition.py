"""The Prometheus text format 0.0.4, as far as counters and gauges need it.

Prometheus documentation, "Exposition formats": a HELP and a TYPE line for each name, then one line for each set of
labels; backslashes and line ends are escaped in both, quotation marks in label values too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Sample = tuple[Mapping[str, str], float]
NO_LABELS: Mapping[str, str] = {}


def counter(name: str, meaning: str, samples: Iterable[Sample]) -> str:
    """A number that only grows while this process lives; its name ends in `_total`."""
    return _family(name, "counter", meaning, samples)


def gauge(name: str, meaning: str, samples: Iterable[Sample]) -> str:
    """A number that goes up and down."""
    return _family(name, "gauge", meaning, samples)


def _family(name: str, kind: str, meaning: str, samples: Iterable[Sample]) -> str:
    """The lines of one name; nothing at all when there is no sample, so that "unknown" is never taken for 0."""
    lines = [f"{name}{_labels(labels)} {_number(value)}\n" for labels, value in samples]
    if not lines:
        return ""
    help_text = meaning.replace("\\", r"\\").replace("\n", r"\n")
    return f"# HELP {name} {help_text}\n# TYPE {name} {kind}\n{''.join(lines)}"


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{key}="{_escaped(value)}"' for key, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.6g}"
