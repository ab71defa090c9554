"""Metrics of a Service Connect proxy: Prometheus text in, wrappers of the telemetry backend out (spec 07 §8.2).

The parser is our own: the usual one renames counters and does not join histogram series that are written without the
suffix `_bucket`, both of which the reference takes as they come (spec 07 §20, trap 14).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from services.telemetry.core.numbers import LARGEST, number

DIRECTIONS = {"ingress": "1", "egress": "2"}
LABEL = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"')
LINE = re.compile(r"([A-Za-z_:][A-Za-z0-9_:]*)\s*(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?\s*$")
SUFFIXES = ("_bucket", "_sum", "_count")

Labels = tuple[tuple[str, str], ...]


@dataclass
class Holder:
    """The last scrape of one task, and whether it has been published."""

    wrappers: list[dict[str, Any]] = field(default_factory=list)
    sent: bool = False

    def replace(self, wrappers: list[dict[str, Any]]) -> None:
        """A scrape succeeded."""
        self.wrappers, self.sent = wrappers, False

    def take(self) -> list[dict[str, Any]]:
        """What has not been published yet."""
        fresh, self.sent = ([] if self.sent else self.wrappers), True
        return fresh


@dataclass
class Series:
    """One series of a family: a value, or the buckets of a histogram in the order of their bounds."""

    family: str
    kind: str
    labels: Labels
    value: float = math.nan
    buckets: list[tuple[float, float]] = field(default_factory=list)


def parse(text: str) -> list[Series]:
    """The series of Prometheus text format 0.0.4; lines that are none are skipped."""
    kinds: dict[str, str] = {}
    found: dict[tuple[str, Labels], Series] = {}
    for line in text.splitlines():
        if line.startswith("#"):
            words = line.split()
            if len(words) >= 4 and words[1] == "TYPE":
                kinds[words[2]] = words[3]
            continue
        match = LINE.match(line.strip())
        if match:
            _add(found, kinds, match[1], dict(_labels(match[2] or "")), match[3])
    return list(found.values())


def _labels(text: str) -> Iterator[tuple[str, str]]:
    for name, value in LABEL.findall(text):
        yield name, re.sub(r"\\(.)", lambda m: {"n": "\n"}.get(m[1], m[1]), value)


def _add(
    found: dict[tuple[str, Labels], Series], kinds: dict[str, str], name: str, labels: dict[str, str], value: str
) -> None:
    family = name
    if name not in kinds:
        family = next((name.removesuffix(s) for s in SUFFIXES if name.endswith(s)), name)
    kind = kinds.get(family, "untyped")
    bound = labels.pop("le", None) if kind == "histogram" else None
    if kind == "histogram" and bound is None:
        return  # _sum and _count
    key = (family, tuple(sorted(labels.items())))
    series = found.setdefault(key, Series(family, kind, key[1]))
    try:
        if bound is None:
            series.value = float(value)
        else:
            series.buckets.append((float(bound), float(value)))
    except ValueError:
        return  # neither a number nor Inf or NaN: the series stays without a value and is dropped


def wrappers(text: str) -> list[dict[str, Any]]:
    """GeneralMetricsWrapper per set of dimensions. A value that JSON cannot hold leaves its metric out."""
    grouped: dict[Labels, dict[str, Any]] = {}
    for series in parse(text):
        metric = _metric(series)
        if metric is None:
            continue
        labels = dict(series.labels)
        direction = DIRECTIONS.get(labels.pop("Direction", ""), "")
        key = tuple(sorted(labels.items()))
        if key not in grouped:
            wrapper: dict[str, Any] = {"dimensions": [{"key": k, "value": v} for k, v in key]} if key else {}
            grouped[key] = wrapper | {"generalMetrics": [], "metricType": direction}
        grouped[key]["generalMetrics"].append(metric)
    return list(grouped.values())


def _metric(series: Series) -> dict[str, Any] | None:
    if series.kind in ("counter", "gauge"):
        if not math.isfinite(series.value):
            return None
        return {"metricCounts": [1], "metricName": series.family, "metricValues": [number(series.value)]}
    if series.kind != "histogram":
        return None
    values, counts, before = [], [], 0
    for bound, count in sorted(series.buckets):
        if not math.isfinite(bound) or not math.isfinite(count):
            continue
        delta, before = min(int(count) - before, LARGEST), int(count)
        if delta > 0:
            values.append(number(bound))
            counts.append(delta)
    return {"metricCounts": counts, "metricName": series.family, "metricValues": values} if counts else None
