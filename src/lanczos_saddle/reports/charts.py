"""The charts of the report page: Vega-Lite made by Altair, which the page runs. Nothing is computed here.

Eigenvalues stand on a symmetric-log axis, u = arcsinh(t / linear). Text of records enters as data,
never as an expression.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

from lanczos_saddle.machine.extras import require
from lanczos_saddle.reports.sources import SIGNS, Closed, Density, Grid, View

NEGATIVE, NEAR_ZERO, POSITIVE = "#d55e00", "#7a7a7a", "#0072b2"
"""Vermillion and blue of Okabe and Ito, and a gray: told apart by all kinds of colour vision."""

COLOURS = dict(zip(SIGNS, (NEGATIVE, NEAR_ZERO, POSITIVE), strict=True))
BAND, EXACT, CHOSEN = "#56b4e9", "#d55e00", "#009e73"
HEIGHT = 240

Spec = dict[str, Any]
Rows = list[dict[str, Any]]


def band_spec(view: View, *, negative: bool = False) -> Spec:
    """How many eigenvalues are at most t: the band that holds at all thresholds of the grid, and the exact staircase.

    `negative`: the negative side alone. The parameter `tau` of the chart is arcsinh(tau / linear).
    """
    alt, grid = _altair(), view.grid
    assert grid is not None
    linear = grid.thresholds[0]
    reach = math.asinh(grid.thresholds[-1] / linear)
    top = max(4, round(1.15 * grid.together[0][0][1])) if negative else view.size
    x = _axis(alt, linear, [-reach, 0 if negative else reach], "threshold t")
    y = alt.Y(
        "lower:Q",
        title="eigenvalues at most t",
        scale=alt.Scale(domain=[0, top]),
        axis=alt.Axis(format=",d", tickCount=5, tickMinStep=1),
    )
    tau = alt.param(name="tau", value=0.0)
    within = (
        alt.Chart(alt.NamedData("one"))
        .mark_rect(color=CHOSEN, opacity=0.13, clip=True)
        .transform_calculate(left="-tau", right="tau")
        .encode(x=alt.X("left:Q"), x2="right:Q")
    )
    ends = (
        alt.Chart(alt.NamedData("sides"))
        .mark_rule(color=CHOSEN, strokeWidth=1.5, strokeDash=[4, 3], clip=True)
        .transform_calculate(u="datum.side * tau")
        .encode(x="u:Q")
    )
    band = (
        alt.Chart(alt.NamedData("band"))
        .mark_area(color=BAND, opacity=0.5, stroke=BAND, strokeWidth=1, clip=True)
        .encode(x=x, y=y, y2="upper:Q")
    )
    stairs = (
        alt.Chart(alt.NamedData("steps"))
        .mark_line(color=EXACT, strokeWidth=1.6, interpolate="step-after", clip=True)
        .encode(x="u:Q", y="count:Q")
    )
    data: dict[str, Rows] = {"band": band_corners(grid, view.size), "one": [{}], "sides": [{"side": -1}, {"side": 1}]}
    if view.eigenvalues:
        data["steps"] = _steps(view, linear, reach)
    chart = alt.layer(band, *([stairs] if view.eigenvalues else []), within, ends).add_params(tau)
    return _finished(chart.properties(width="container", height=HEIGHT, description=_said(view)), data)


def band_corners(grid: Grid, size: int) -> Rows:
    """Corners of the band in the order of t: between thresholds the lower bound of the left, the upper of the right."""
    linear = grid.thresholds[0]
    left = [(-t, *bounds[0]) for t, bounds in zip(grid.thresholds, grid.together, strict=True)][::-1]
    right = [(t, size - b[2][1], size - b[2][0]) for t, b in zip(grid.thresholds, grid.together, strict=True)]
    points = [*left, *right]
    corners: Rows = []
    for (t, low, _), (beyond, _, high) in pairwise(points):
        corners += [{"u": math.asinh(x / linear), "lower": low, "upper": high} for x in (t, beyond)]
    return corners


def density_spec(density: Density, label: str) -> Spec:
    """The smoothed density per unit of the axis."""
    alt, linear = _altair(), density.linear
    points = [
        {"u": math.asinh(x / linear), "density": y} for x, y in zip(density.eigenvalues, density.density, strict=True)
    ]
    chart = (
        alt.Chart(alt.NamedData("density"))
        .mark_area(color=BAND, opacity=0.5, line={"color": POSITIVE, "strokeWidth": 1.2})
        .encode(
            x=_axis(alt, linear, [points[0]["u"], points[-1]["u"]], "eigenvalue"),
            y=alt.Y("density:Q", title="density per unit of the axis", axis=alt.Axis(tickCount=4)),
        )
    )
    return _finished(
        chart.properties(width="container", height=HEIGHT, description=f"Smoothed spectral density, {label}"),
        {"density": points},
    )


def closing_spec(closing: Closed, sign: int) -> Spec:
    """The interval of one of the three counts against the products that had been made."""
    alt = _altair()
    name = SIGNS[sign]
    rows = [
        {"products": p, "lower": three[sign][0], "upper": three[sign][1]}
        for p, three in zip(closing.products, closing.intervals, strict=True)
    ]
    base = alt.Chart(alt.NamedData("rows")).encode(
        x=alt.X("products:Q", title="products", scale=alt.Scale(zero=False, nice=False), axis=alt.Axis(tickCount=4))
    )
    y = alt.Y("lower:Q", title=f"{name.replace('_', ' ')}", axis=alt.Axis(tickCount=4, tickMinStep=1, format=",d"))
    area = base.mark_area(color=COLOURS[name], opacity=0.3).encode(y=y, y2="upper:Q")
    edges = [
        base.mark_line(
            color=COLOURS[name], strokeWidth=1.5, point={"size": 14, "filled": True, "color": COLOURS[name]}
        ).encode(y=f"{end}:Q")
        for end in ("lower", "upper")
    ]
    said = f"The interval of the {name.replace('_', ' ')} count against products made"
    return _finished(
        alt.layer(area, *edges).properties(width="container", height=170, description=said), {"rows": rows}
    )


def compared_spec(views: Sequence[View], sign: int) -> Spec:
    """One of the three counts of several records, an interval a row; a diamond where the exact count is known."""
    alt = _altair()
    name = SIGNS[sign]
    rows = []
    for number, view in enumerate(views, 1):  # as the page numbers them: a long label may be cut
        lower, estimate, upper = view.intervals[sign]
        exact = None if view.exact is None else view.exact[sign]
        label = f"{number}. {view.label}"
        rows.append({"label": label, "lower": lower, "upper": upper, "estimate": estimate, "exact": exact})
    y = alt.Y("label:N", sort=None, title=None, axis=alt.Axis(labelLimit=300, ticks=False, domain=False))
    base = alt.Chart(alt.NamedData("rows")).encode(y=y)
    scale = alt.Scale(zero=False, padding=10)  # a mark at an end is drawn whole
    axis = alt.Axis(format=",d", tickCount=5, tickMinStep=1)
    x = alt.X("lower:Q", title=f"{name.replace('_', ' ')} eigenvalues", scale=scale, axis=axis)
    bar = base.mark_rule(color=COLOURS[name], strokeWidth=3).encode(x=x, x2="upper:Q")
    ends = [
        base.mark_tick(color=COLOURS[name], thickness=2.5, size=11).encode(x=f"{end}:Q") for end in ("lower", "upper")
    ]
    best = base.mark_point(color=COLOURS[name], filled=True, size=34, opacity=1).encode(x="estimate:Q")
    known = (
        base.transform_filter("isValid(datum.exact)")
        .mark_point(shape="diamond", size=70, strokeWidth=2, color=CHOSEN, opacity=1)
        .encode(x="exact:Q")
    )
    height = 26 * len(rows) + 10
    said = f"The {name.replace('_', ' ')} counts of {len(rows)} records, as intervals"
    some = any(view.exact is not None for view in views)
    chart = alt.layer(bar, *ends, best, *([known] if some else [])).properties(
        width="container", height=height, description=said
    )
    return _finished(chart, {"rows": rows})


@cache
def vega_script() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script without any import; 0.9 MB.

    Raises ModuleNotFoundError where vl-convert-python is missing.
    """
    require("vl_convert", "report")
    import vl_convert

    script: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=_version())
    assert "</script" not in script.lower()
    assert "<!--" not in script
    return script


def _steps(view: View, linear: float, reach: float) -> Rows:
    """Corners of the staircase: the count from each eigenvalue on."""
    steps = [{"u": -reach, "count": 0}]
    steps += [{"u": math.asinh(x / linear), "count": i} for i, x in enumerate(view.eigenvalues, 1)]
    return [*steps, {"u": reach, "count": len(view.eigenvalues)}]


def _axis(alt: Any, linear: float, domain: list[float], title: str) -> Any:
    """The symmetric-log axis: 0 and powers of ten, every second one where they are many."""
    most = linear * math.sinh(max(abs(end) for end in domain))
    decades = list(range(math.ceil(math.log10(linear)), math.floor(math.log10(most)) + 1))
    decades = decades[-1 :: -math.ceil(len(decades) / 4)][::-1] if len(decades) > 4 else decades
    ticks = [0.0, *(s * math.asinh(10.0**d / linear) for d in decades for s in (-1, 1))]
    shown = sorted(t for t in ticks if domain[0] <= t <= domain[1])
    value = f"{linear!r} * (exp(datum.value) - exp(-datum.value)) / 2"
    written = f"datum.value == 0 ? '0' : format({value}, '.0e')"
    axis = alt.Axis(values=shown, labelExpr=written, labelOverlap="greedy", labelSeparation=8, grid=False)
    return alt.X("u:Q", title=title, scale=alt.Scale(domain=domain, nice=False), axis=axis)


def _said(view: View) -> str:
    exact = ", with the exact staircase inside it" if view.eigenvalues else ""
    return f"How many of {view.size} eigenvalues are at most t: a certified band{exact}"


def _altair() -> Any:
    require("altair", "report")
    require("vl_convert", "report")
    import altair

    return altair


def _version() -> str:
    import altair

    return ".".join(altair.SCHEMA_VERSION.removeprefix("v").split(".")[:2])


def _finished(chart: Any, data: Mapping[str, Rows]) -> Spec:
    """The chart in the style of the page, checked against the schema of Vega-Lite; data, which need no check, last."""
    font = "system-ui, sans-serif"
    styled = chart.configure(background="transparent", font=font).configure_view(stroke=None)
    styled = styled.configure_axis(labelFontSize=12, titleFontSize=12, titleFontWeight="normal", labelFont=font)
    spec: Spec = styled.to_dict()
    return {**spec, "datasets": dict(data)}
