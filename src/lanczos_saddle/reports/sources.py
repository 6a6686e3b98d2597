"""What a report shows, read from results: JSON objects of `--json`, lines of `--record`, and records of studies.

Nothing here imports torch. What is read is not trusted: every number is checked, every text is only ever shown.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

SIGNS = ("negative", "near_zero", "positive")
"""The three counts, in the order of every table."""

TOLD = ("problem", "weights", "parameters", "seed", "dtype", "method", "preconditioner", "probes", "steps")
"""Options that may tell one record from another, in the order in which a label shows them."""

LONGEST = 80
"""Characters of a label."""

Three = tuple[tuple[int, float, int], ...]


@dataclass(frozen=True)
class Grid:
    """Counts at many thresholds, `counting.readings.Readings` as numbers."""

    thresholds: tuple[float, ...]
    alone: tuple[tuple[tuple[int, int], ...], ...]  # (n, 3, 2)
    together: tuple[tuple[tuple[int, int], ...], ...]  # (n, 3, 2)
    confidence: float


@dataclass(frozen=True)
class View:
    """One count as a report shows it; what a record does not have is None or empty."""

    label: str
    size: int  # N
    intervals: Three  # (lower, estimate, upper) of negative, near zero and positive
    threshold: float | None = None
    relative: float | None = None
    confidence: float = 0.95
    method: str = ""
    exact: tuple[int, int, int] | None = None  # the true counts, where the record has them
    grid: Grid | None = None
    eigenvalues: tuple[float, ...] = ()
    told: Mapping[str, str] = field(default_factory=dict)  # options that may tell it from others
    record: Mapping[str, Any] = field(default_factory=dict)  # the rest, as it is


def views(sources: Sequence[Any]) -> list[View]:
    """The counts of mappings and files, in their order, with labels that tell them apart.

    Raises ValueError for a file or a mapping without counts, and for numbers that are none.
    """
    found = [view for source in sources for view in _of(source)]
    if not found:
        raise ValueError("a report needs at least one record of counts; got none")
    return _distinct(found)


def _of(source: Any) -> list[View]:
    name, objects = ("counts", [source]) if isinstance(source, Mapping) else (Path(source).stem, _objects(source))
    found = [view for each in objects for view in _views(each, name)]
    if not found:
        kinds = sorted({str(each.get("kind", "an object")) for each in objects})
        raise ValueError(
            f"a report is of counts, as `lanczos-saddle count --json FILE` or --record writes them; {name} holds "
            f"{', '.join(kinds) or 'nothing'}, without counts: name such a file"
        )
    return found


def _objects(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """One JSON object, or one a line."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"a record is a text file with JSON objects; {path} cannot be read: {error}") from error
    try:
        whole = json.loads(text)
        parts = [whole]
    except (json.JSONDecodeError, RecursionError):
        parts = [_line(line, number, path) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not all(isinstance(part, dict) for part in parts):
        raise ValueError(f"a record is a JSON object, or one a line; {path} holds something else")
    return parts


def _line(line: str, number: int, path: str | os.PathLike[str]) -> Any:
    try:
        return json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"a record is a JSON object, or one a line; {path}, line {number}: {error}") from error


def _views(record: Mapping[str, Any], name: str) -> Iterator[View]:
    """All counts within a record: itself, its rows, or those of a classification."""
    result = mapping(record.get("result")) or record
    about: dict[str, Any] = {}
    for told in (*(record.get(key) for key in ("parameters", "options", "about")), result.get("about")):
        about |= mapping(told)
    if isinstance(about.get("relative_threshold"), list):  # of several rows, each of which says its tau
        del about["relative_threshold"]
    shared = {key: record.get(key) for key in ("provenance", "products", "seconds", "kind") if key in record}
    if isinstance(result.get("counts"), Mapping) and _has_counts(result["counts"]):
        inner = {**result["counts"], "verdicts": result.get("verdicts"), "problem": result.get("problem")}
        yield _view({**shared, **inner}, about, name)
    elif _has_counts(result):
        yield _view({**shared, **result}, about, name)
    for row in result.get("rows") or ():
        if isinstance(row, Mapping) and _has_counts(_spread(row)):
            above = {key: result[key] for key in ("confidence", "eigenvalues") if key in result}
            yield _view({**shared, **above, **_spread(row)}, {**about, **_row_options(row)}, name)


def _row_options(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("preconditioner", "probes", "steps") if key in row}


def _spread(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row whose intervals are a list of three, under their names."""
    three = row.get("intervals")
    if isinstance(three, list) and len(three) == 3:
        return {**row, **dict(zip(SIGNS, three, strict=True))}
    return row


def _has_counts(result: Mapping[str, Any]) -> bool:
    return all(isinstance(result.get(sign), Mapping) and {"lower", "upper"} <= set(result[sign]) for sign in SIGNS)


def _view(result: Mapping[str, Any], about: Mapping[str, Any], name: str) -> View:
    three = tuple(_interval(result[sign], sign) for sign in SIGNS)
    exact = result.get("exact") or result.get("true")
    exact = tuple(_whole(x, "exact") for x in exact) if isinstance(exact, list) and len(exact) == 3 else None
    told = {key: str(about[key]) for key in TOLD if about.get(key) not in (None, "*")}
    if result.get("method"):
        told["method"] = str(result["method"])  # what was done, where "auto" was asked
    if "epoch" in about:
        told["epoch"] = str(about["epoch"])
    size = result.get("parameters", result.get("size"))
    sums = three[0][0] + three[1][2] + three[2][0]  # the ends are complementary: so they make N
    return View(
        label=_short(str(about.get("name") or about.get("problem") or result.get("kind") or name)),
        size=_whole(size, "parameters") if isinstance(size, int) else sum(exact) if exact else sums,
        intervals=three,
        threshold=_maybe(result.get("threshold"), "threshold"),
        relative=_maybe(result.get("relative_threshold", about.get("relative_threshold")), "relative_threshold"),
        confidence=_maybe(result.get("confidence", about.get("confidence")), "confidence") or 0.95,
        method=str(result.get("method") or about.get("method") or ""),
        exact=exact,
        grid=_grid(result.get("readings")),
        eigenvalues=tuple(sorted(_real(x, "eigenvalues") for x in result.get("eigenvalues") or ())),
        told=told,
        record=result,
    )


def _distinct(found: list[View]) -> list[View]:
    """Labels with whatever tells a record from others of its name; a number where nothing does."""
    keys = [k for k in (*TOLD, "epoch") if len({view.told.get(k) for view in found}) > 1]
    taus = len({(view.threshold, view.relative) for view in found}) > 1
    out: list[View] = []
    for view in found:
        parts = [view.label, *(f"{k} {view.told[k]}" for k in keys if k in view.told and view.told[k] != view.label)]
        if taus and (view.relative or view.threshold):
            parts.append(f"tau {view.relative:g} of the largest" if view.relative else f"tau {view.threshold:.3g}")
        out.append(replace(view, label=_short(", ".join(parts))))
    for label in {view.label for view in out}:
        same = [i for i, view in enumerate(out) if view.label == label]
        for number, i in enumerate(same, 1) if len(same) > 1 else ():
            out[i] = replace(out[i], label=f"{label} ({number})")
    return out


def _short(text: str) -> str:
    clean = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return clean if len(clean) <= LONGEST else clean[: LONGEST - 1] + "…"


def _grid(given: Any) -> Grid | None:
    if not isinstance(given, Mapping) or len(given.get("thresholds") or ()) < 2:
        return None
    thresholds = tuple(_real(x, "readings") for x in given["thresholds"])
    alone, together = (
        tuple(tuple((_whole(a, key), _whole(b, key)) for a, b in row) for row in given[key])
        for key in ("alone", "together")
    )
    ascending = all(0 < a < b for a, b in pairwise(thresholds)) and thresholds[0] > 0
    if not (len(alone) == len(together) == len(thresholds) and ascending and {len(r) for r in alone + together} == {3}):
        raise ValueError("readings are three pairs for every threshold, these ascending; this record has others")
    return Grid(thresholds, alone, together, _maybe(given.get("confidence"), "confidence") or 0.95)


def mapping(given: Any) -> Mapping[str, Any]:
    """What is a mapping; an empty one for what is none."""
    return given if isinstance(given, Mapping) else {}


def _interval(given: Mapping[str, Any], sign: str) -> tuple[int, float, int]:
    lower, upper = _whole(given["lower"], sign), _whole(given["upper"], sign)
    estimate = _real(given.get("estimate", (lower + upper) / 2), sign)
    if not lower <= upper:
        raise ValueError(f"an interval has a lower end of at most its upper one; {sign} is [{lower}, {upper}]")
    return lower, estimate, upper


def _whole(given: Any, what: str) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or given < 0:
        raise ValueError(f"{what} must be whole numbers of at least 0; this record has {given!r:.60}")
    return given


def _real(given: Any, what: str) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
        raise ValueError(f"{what} must be finite numbers; this record has {given!r:.60}")
    return float(given)


def _maybe(given: Any, what: str) -> float | None:
    return None if given is None else _real(given, what)
