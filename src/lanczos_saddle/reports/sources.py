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

LAYER = ("parameters", "dead", "columns", "rows", "unused", "entries")
"""What a layer table counts of every tensor."""

LONGEST = 80
"""Characters of a label."""

Three = tuple[tuple[int, float, int], ...]


@dataclass(frozen=True)
class Grid:
    """Counts at many thresholds, `counting.readings.Readings` as numbers."""

    thresholds: tuple[float, ...]
    alone: tuple[tuple[tuple[int, int], ...], ...]  # (n, 3, 2)
    together: tuple[tuple[tuple[int, int], ...], ...]  # (n, 3, 2)
    confidence: float | None  # None where the record does not say it


@dataclass(frozen=True)
class Density:
    """The smoothed density per unit of arcsinh(t / linear)."""

    linear: float
    eigenvalues: tuple[float, ...]  # (n,), ascending
    density: tuple[float, ...]  # (n,)


@dataclass(frozen=True)
class Closed:
    """How the intervals closed, `counting.readings.Closing` as numbers."""

    products: tuple[int, ...]  # (k,)
    intervals: tuple[tuple[tuple[int, int], ...], ...]  # (k, 3, 2)


@dataclass(frozen=True)
class View:
    """One count as a report shows it; what a record does not have is None or empty."""

    label: str
    size: int  # N
    intervals: Three  # (lower, estimate, upper) of negative, near zero and positive
    threshold: float | None = None
    relative: float | None = None
    confidence: float | None = None
    method: str = ""
    exact: tuple[int, int, int] | None = None  # the true counts, where the record has them
    grid: Grid | None = None
    eigenvalues: tuple[float, ...] = ()
    margin: float | None = None  # by which rounding may have moved each of these
    density: Density | None = None
    closing: Closed | None = None
    layers: tuple[Mapping[str, Any], ...] = ()  # tensors: name, shape, and numbers under `LAYER`
    told: Mapping[str, str] = field(default_factory=dict)  # options that may tell it from others
    record: Mapping[str, Any] = field(default_factory=dict)  # the rest, as it is


def views(sources: Sequence[Any]) -> list[View]:
    """The counts of mappings and files, in their order, with labels that tell them apart.

    Raises ValueError for a file or a mapping without counts, and for numbers that are none or contradict each other.
    """
    found = [view for source in sources for view in _of(source)]
    if not found:
        raise ValueError("a report needs at least one record of counts; got none")
    return _distinct(found)


def _of(source: Any) -> list[View]:
    plain = isinstance(source, Mapping)
    name, objects = ("counts", [source]) if plain else (Path(source).stem, _objects(source))
    where = "this record" if plain else str(source)
    found: list[View] = []
    for number, each in enumerate(objects, 1):
        try:
            found += _views(each, name)
        except ValueError as error:
            place = f"{where}, record {number}" if len(objects) > 1 else where
            raise ValueError(f"{place} cannot be shown: {error}") from error
    if not found:
        kinds = ", ".join(sorted({_kind(each) for each in objects}))
        raise ValueError(
            "a report is of counts, as `lanczos-saddle count --json FILE` or --record writes them; "
            f"{where} holds {f'{kinds}, without counts: name such a file' if kinds else 'nothing'}"
        )
    return found


def _kind(record: Mapping[str, Any]) -> str:
    """What a record without counts is, in a word."""
    if isinstance(mapping(record.get("result") or record).get("inside"), Mapping):
        return "an interval [a, b]"
    return str(record.get("kind", "an object"))


def _objects(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """One JSON object, or one a line."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
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
        raise ValueError(
            f"a record is a JSON object, or one a line; {path}, line {number}: {error}: mend that line or leave it out"
        ) from error


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
    for row in _listed(result.get("rows")):
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
    """Three intervals; what other libraries estimate, without ends, is none."""
    three = [mapping(result.get(sign)) for sign in SIGNS]
    return all(one.get(end) is not None for one in three for end in ("lower", "upper"))


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
    size = _whole(size, "parameters") if isinstance(size, int) else sum(exact) if exact else sums
    relative = result.get("relative_threshold", about.get("relative_threshold"))
    confidence = _chance(result.get("confidence", about.get("confidence")))
    return _consistent(
        View(
            label=_short(str(about.get("name") or about.get("problem") or result.get("kind") or name)),
            size=size,
            intervals=three,
            threshold=_positive(result.get("threshold"), "threshold"),
            relative=_positive(relative, "relative_threshold"),
            confidence=confidence,
            method=str(result.get("method") or about.get("method") or ""),
            exact=exact,
            grid=_grid(result.get("readings"), confidence),
            eigenvalues=tuple(sorted(_real(x, "eigenvalues") for x in _listed(result.get("eigenvalues")))),
            margin=_maybe(result.get("margin"), "margin"),
            density=_density(result.get("density")),
            closing=_closed(result.get("closing")),
            layers=_layers(result.get("layers")),
            told=told,
            record=result,
        )
    )


def _consistent(view: View) -> View:
    """Raises ValueError where numbers of a record contradict each other."""
    low, high = (sum(one[end] for one in view.intervals) for end in (0, 2))
    if not low <= view.size <= high or any(one[2] > view.size for one in view.intervals):
        raise ValueError(
            f"the three counts sum to N, which is {view.size}; these intervals allow sums from {low} to {high}, and "
            f"single counts up to {max(one[2] for one in view.intervals)}"
        )
    for what, number in (("eigenvalues", len(view.eigenvalues)), ("exact counts", sum(view.exact or ()))):
        if number not in (0, view.size):
            raise ValueError(f"N is {view.size}, and there are {number} {what}")
    if view.grid is not None:
        pairs = [pair for row in view.grid.alone + view.grid.together for pair in row]
        if not all(lower <= upper <= view.size for lower, upper in pairs):
            raise ValueError(f"readings are pairs lower <= upper of at most N = {view.size}; others are among them")
    return view


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


def _grid(given: Any, confidence: float | None) -> Grid | None:
    if not isinstance(given, Mapping) or len(_listed(given.get("thresholds"))) < 2:
        return None
    thresholds = tuple(_real(x, "thresholds of readings") for x in given["thresholds"])
    alone, together = (tuple(_pairs(row, "readings") for row in _listed(given.get(k))) for k in ("alone", "together"))
    ascending = all(0 < a < b for a, b in pairwise(thresholds)) and thresholds[0] > 0
    if not (len(alone) == len(together) == len(thresholds) and ascending):
        raise ValueError("readings are three pairs for every threshold, these ascending; this record has others")
    return Grid(thresholds, alone, together, _chance(given.get("confidence")) or confidence)


def _density(given: Any) -> Density | None:
    if not isinstance(given, Mapping):
        return None
    x, y = (tuple(_real(v, "density") for v in _listed(given.get(key))) for key in ("eigenvalues", "density"))
    linear = _positive(given.get("linear"), "linear, of the density,")
    if linear is None or len(x) != len(y) or len(x) < 2 or not all(a < b for a, b in pairwise(x)):
        raise ValueError("a density has as many heights as eigenvalues, these ascending, and the axis its linear part")
    return Density(linear, x, y)


def _closed(given: Any) -> Closed | None:
    """None where there were not two looks at least."""
    if not isinstance(given, Mapping) or len(_listed(given.get("products"))) < 2:
        return None
    products = tuple(_whole(x, "products") for x in given["products"])
    intervals = tuple(_pairs(row, "closing") for row in _listed(given.get("intervals")))
    if len(intervals) != len(products):
        raise ValueError("how intervals closed is three pairs for each number of products; this record has others")
    return Closed(products, intervals)


def _layers(given: Any) -> tuple[Mapping[str, Any], ...]:
    tensors = _listed(mapping(given).get("tensors"))
    if not all(isinstance(tensor, Mapping) for tensor in tensors):
        raise ValueError("layers are a list of tensors, each a mapping; this record has others")
    return tuple(
        {
            "name": str(tensor.get("name")),
            "shape": [str(x) for x in _listed(tensor.get("shape"))],
            **{key: _whole(tensor.get(key, 0), f"{key} of a tensor") for key in LAYER},
        }
        for tensor in tensors
    )


def _pairs(given: Any, what: str) -> tuple[tuple[int, int], ...]:
    """Of negative, near zero and positive."""
    if not (isinstance(given, list) and len(given) == 3 and all(isinstance(x, list) and len(x) == 2 for x in given)):
        raise ValueError(f"{what} are three pairs for each place; this record has {given!r:.60}")
    return tuple((_whole(a, what), _whole(b, what)) for a, b in given)


def _listed(given: Any) -> Sequence[Any]:
    """What is a list; nothing of what is none."""
    return given if isinstance(given, list | tuple) else ()


def mapping(given: Any) -> Mapping[str, Any]:
    """What is a mapping; an empty one for what is none."""
    return given if isinstance(given, Mapping) else {}


def _interval(given: Mapping[str, Any], sign: str) -> tuple[int, float, int]:
    lower, upper = _whole(given["lower"], sign), _whole(given["upper"], sign)
    estimate = _real(given.get("estimate", (lower + upper) / 2), sign)
    if not lower <= upper:
        raise ValueError(f"an interval has a lower end of at most its upper one; {sign} is [{lower}, {upper}]")
    if not lower <= estimate <= upper:
        raise ValueError(f"an estimate lies in its interval; that of {sign} is {estimate:g}, of [{lower}, {upper}]")
    return lower, estimate, upper


def _whole(given: Any, what: str) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or given < 0:
        raise ValueError(f"{what} must be whole numbers of at least 0; this record has {given!r:.60}")
    return given


def _real(given: Any, what: str) -> float:
    if not isinstance(given, bool) and isinstance(given, int | float):
        try:
            number = float(given)
        except OverflowError:  # an integer of more than 308 digits
            number = math.inf
        if math.isfinite(number):
            return number
    raise ValueError(f"{what} must be finite numbers; this record has {given!r:.60}")


def _maybe(given: Any, what: str) -> float | None:
    return None if given is None else _real(given, what)


def _positive(given: Any, what: str) -> float | None:
    number = None if given is None else _real(given, what)
    if number is not None and not number > 0:
        raise ValueError(f"{what} must be positive; this record has {number}")
    return number


def _chance(given: Any) -> float | None:
    number = None if given is None else _real(given, "confidence")
    if number is not None and not 0 < number < 1:
        raise ValueError(f"a confidence is between 0 and 1; this record has {number}")
    return number
