"""The Prometheus text format 0.0.4, as far as counters, gauges and histograms need it.

Prometheus documentation, "Exposition formats": a HELP and a TYPE line for each name, then one line for each set of
labels; backslashes and line ends are escaped in both, quotation marks in label values too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Sample = tuple[Mapping[str, str], float]
Distribution = tuple[Mapping[str, str], Sequence[int], float]  # labels, observations by bucket, their sum
NO_LABELS: Mapping[str, str] = {}


def counter(name: str, meaning: str, samples: Iterable[Sample]) -> str:
    """A number that only grows while this process lives; its name ends in `_total`."""
    return _family(name, "counter", meaning, samples)


def gauge(name: str, meaning: str, samples: Iterable[Sample]) -> str:
    """A number that goes up and down."""
    return _family(name, "gauge", meaning, samples)


def histogram(name: str, meaning: str, bounds: Sequence[float], samples: Iterable[Distribution]) -> str:
    """Observations by size; `bounds` are the upper ends of the buckets, each sample has one bucket more."""
    lines = []
    for labels, buckets, total in samples:
        below = 0
        for bound, number in zip((*(f"{b:g}" for b in bounds), "+Inf"), buckets, strict=True):
            below += number
            lines.append(f"{name}_bucket{_labels({**labels, 'le': bound})} {below}\n")
        lines.append(f"{name}_sum{_labels(labels)} {_number(total)}\n")
        lines.append(f"{name}_count{_labels(labels)} {below}\n")
    return _described(name, "histogram", meaning, lines)


def _family(name: str, kind: str, meaning: str, samples: Iterable[Sample]) -> str:
    lines = [f"{name}{_labels(labels)} {_number(value)}\n" for labels, value in samples]
    return _described(name, kind, meaning, lines)


def _described(name: str, kind: str, meaning: str, lines: list[str]) -> str:
    """The lines of one name; nothing at all when there is no sample, so that "unknown" is never taken for 0."""
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
