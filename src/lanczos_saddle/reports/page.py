"""The report page: one HTML file that needs nothing else, of one count or of several side by side.

    report(["out.json", counts, ...], "report.html")

Charts are drawn by Vega, whose library the file holds. The page's own policy forbids every request, and every script
but the two it was made with, by their hashes. Text of records is escaped besides, as HTML and in the embedded JSON.
Nothing here imports torch where records are files.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lanczos_saddle.machine.extras import require
from lanczos_saddle.machine.files import replacing
from lanczos_saddle.reports import charts, words
from lanczos_saddle.reports.sources import SIGNS, View, mapping, views

TEMPLATE = Path(__file__).parent / "template"

DETAILED = 40
"""Records with a part of the page of their own, seven charts each; beyond them a row in the table is what is shown."""

DRAWN = 200
"""Records in the charts that compare."""

HIDDEN = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})
"""What could end a script or begin a comment, as JSON writes it otherwise; json.dumps escapes what is not ASCII."""


def report(
    records: Any, path: str | os.PathLike[str] | None = None, *, title: str | None = None, operator: Any = None
) -> str:
    """The report page of one or several counts, as one self-contained HTML file; it is written to `path`, if given.

    Args:
        records: a path of a file (an object of `--json`, or lines of `--record`), a mapping as such a file holds, a
            `Counts` or `JointCounts`, or a sequence of these. Of more than 40 the later ones are rows of a table.
            Counts of Python objects are read at some thirty other thresholds first (`counting.readings`); files say
            what they were given to say.
        path: an .html file; whole or as it was.
        title: of the page; one that names the first record, if not given.
        operator: the `Hessian` that one `Counts` or `JointCounts` is of: its tensors, with what is dead in each, come
            from two products of it. Records that are files have them already, where they were written.

    Returns:
        The page, about 1 MB, most of it the Vega library.

    Raises:
        ValueError: for records without counts, for numbers in them that are none or contradict each other, and for an
            operator that is not what was counted, or of which there are no tensors.
        ModuleNotFoundError: where altair, vl-convert-python or jinja2 is missing: lanczos-saddle[report].
    """
    for library in ("altair", "vl_convert", "jinja2"):
        require(library, "report")
    page = _rendered(views(read_records(records, operator)), title)
    if path is not None:
        with replacing(path) as temporary:
            temporary.write_text(page, encoding="utf-8")
    return page


def read_records(records: Any, operator: Any = None) -> list[Any]:
    """Files and mappings; counts become mappings, which needs torch only then."""
    if hasattr(records, "negative") or (isinstance(records, Sequence) and hasattr(records, "confidence")):
        return _of_counts(records, "counts", operator)  # of one threshold, or of several of one run
    if operator is not None:
        raise ValueError(
            "operator is that of one Counts or JointCounts; got other records: write each with "
            "record_of(counts, operator), and pass these"
        )
    if isinstance(records, str | os.PathLike | Mapping):
        return [records]
    if isinstance(records, Sequence):
        return [one for i, each in enumerate(records, 1) for one in _each(each, i)]
    raise ValueError(
        f"a report is of counts, of mappings or of files that hold them; got {type(records).__name__}: pass the result "
        "of count_eigenvalues, or the file of --json"
    )


def _each(record: Any, number: int) -> list[Any]:
    plain = isinstance(record, str | os.PathLike | Mapping)
    return [record] if plain else _of_counts(record, f"counts {number}")


def _of_counts(counts: Any, name: str, operator: Any = None) -> list[Any]:
    from lanczos_saddle.counting.result import Counts, JointCounts
    from lanczos_saddle.reports.summary import record_of

    if not isinstance(counts, Counts | JointCounts):
        raise ValueError(
            f"a report is of counts, of mappings or of files that hold them; got {type(counts).__name__}: pass the "
            "result of count_eigenvalues, or the file of --json"
        )
    made = list(record_of(counts, operator, name=name))
    if operator is not None and made[0]["layers"] is None:
        raise ValueError(
            f"a table of tensors needs an operator with named parameters, a Hessian; got {type(operator).__name__}: "
            "leave it out"
        )
    return made


def _rendered(found: list[View], title: str | None) -> str:
    import jinja2
    from markupsafe import Markup

    loader = jinja2.FileSystemLoader(TEMPLATE)
    engine = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, loader=loader, trim_blocks=True)
    engine.filters |= {"interval": words.interval, "number": words.number, "percent": words.percent}
    scripts = [charts.vega_script(), (TEMPLATE / "page.js").read_text(encoding="utf-8")]
    vega, own = (Markup(script) for script in scripts)
    specs: dict[str, charts.Spec] = {}
    detailed = found[:DETAILED]
    sections = [_section(view, i, specs) for i, view in enumerate(detailed)]
    compared = []
    if len(found) > 1:
        for sign, name in enumerate(SIGNS):
            specs[f"compared-{name}"] = charts.compared_spec(found[:DRAWN], sign)
            compared.append(f"compared-{name}")
    data = {"views": [_interactive(view) for view in detailed], "charts": specs}
    page = engine.get_template("page.html").render(
        title=title or _title(found),
        policy=_policy(scripts),
        style=Markup((TEMPLATE / "page.css").read_text(encoding="utf-8")),
        vega=vega,
        own=own,
        data=Markup(json.dumps(data, allow_nan=False).translate(HIDDEN)),
        sections=sections,
        rows=[{"view": view, "tau": words.tau(view), "exactly": words.is_exact(view)} for view in found],
        left_out=_left_out(len(found)),
        compared=compared,
        signs=SIGNS,
        marks=words.MARKS,
        version=version("lanczos-saddle"),
    )
    return page.encode("utf-8", "replace").decode()  # odd bytes of file names come as lone surrogates


def _title(found: list[View]) -> str:
    return found[0].label if len(found) == 1 else f"{len(found)} counts side by side"


def _left_out(many: int) -> str:
    """What a page of very many records does not show."""
    if many <= DETAILED:
        return ""
    drawn = f" and the first {DRAWN} in the charts" if many > DRAWN else ""
    return f"There are {many} records: the first {DETAILED} are shown in full{drawn}; for others make a page of fewer."


def _policy(scripts: list[str]) -> str:
    """No request whatever, no script but these, no eval."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{each}'" for each in hashes)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def _section(view: View, index: int, specs: dict[str, charts.Spec]) -> dict[str, Any]:
    """What the template says of one count; its charts go into `specs`."""
    record = view.record
    drawn: dict[str, Any] = {"band": [], "density": None, "closing": []}
    if view.grid is not None:
        for name, negative in (("band", False), ("negative", True)):
            specs[f"{name}-{index}"] = charts.band_spec(view, negative=negative)
            drawn["band"].append(f"{name}-{index}")
    if view.density is not None:
        drawn["density"] = f"density-{index}"
        specs[drawn["density"]] = charts.density_spec(view.density, "of this count")
    if view.closing is not None:
        for sign, name in enumerate(SIGNS):
            specs[f"closing-{name}-{index}"] = charts.closing_spec(view.closing, sign)
            drawn["closing"].append(f"closing-{name}-{index}")
    return {
        "index": index,
        "view": view,
        "drawn": drawn,
        "tau": words.tau(view),
        "sentences": words.sentences(view),
        "shares": [100 * estimate / max(view.size, 1) for _, estimate, _ in view.intervals],
        "limits": words.limits(view),
        "fidelity": words.fidelity(view),
        "exactly": words.is_exact(view),
        "both": not words.is_exact(view),
        "start": _nearest(view),
        "layers": view.layers,
        "spent": mapping(record.get("spent")),
        "facts": _facts(view),
        "verdicts": mapping(record.get("verdicts")),
    }


def _nearest(view: View) -> int:
    """The place on the slider of the record's own threshold."""
    if view.grid is None or view.threshold is None:
        return 0
    taus, own = view.grid.thresholds, view.threshold
    return min(range(len(taus)), key=lambda i: abs(taus[i] - own))


def _interactive(view: View) -> dict[str, Any]:
    """What the slider reads."""
    if view.grid is None:
        return {"grid": None}
    grid = view.grid
    return {
        "size": view.size,
        "grid": {"thresholds": grid.thresholds, "alone": grid.alone, "together": grid.together},
        "own": view.threshold,
        "eigenvalues": view.eigenvalues,
        "margin": view.margin if words.is_exact(view) and view.eigenvalues else None,
    }


def _facts(view: View) -> list[tuple[str, str]]:
    """What it took and what it ran on, without what a record does not say."""
    record, told = view.record, view.told
    check, origin, run = (mapping(record.get(key)) for key in ("check", "provenance", "run_noise"))
    machine, versions = (mapping(origin.get(key)) for key in ("machine", "versions"))
    gpus = machine.get("gpus")
    probes = f"{record['probes']} probes x {record.get('steps')} steps" if record.get("probes") else None
    rows: list[tuple[str, Any]] = [
        *((name, value) for name, value in told.items() if name not in ("probes", "steps", "method")),
        ("parameters N", view.size),
        ("threshold", words.tau(view)),
        ("method", view.method or None),
        ("recurrences", probes),
        ("products", record.get("products")),
        ("seconds", record.get("seconds")),
        ("plan", record.get("plan") or None),
        ("stopped", record.get("stopped") or None),
        ("largest |eigenvalue| seen", check.get("scale")),
        ("noise of one product", record.get("noise")),
        ("noise of the run, at most", run.get("bound")),
        ("two products of one vector differ by", check.get("determinism")),
        ("asymmetry, relative", check.get("asymmetry")),
        ("computed", origin.get("time")),
        ("processor", machine.get("cpu")),
        ("graphics", ", ".join(map(str, gpus)) if isinstance(gpus, list) and gpus else None),
        ("versions", ", ".join(f"{k} {v}" for k, v in versions.items() if v) or None),
        ("commit", origin.get("commit")),
    ]
    return [(name, words.number(value)) for name, value in rows if value is not None]
