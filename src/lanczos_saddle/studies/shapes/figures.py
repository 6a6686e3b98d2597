"""Findings of the study of shapes, arranged for its three figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lanczos_saddle.studies.shapes.plots import Bars, Panel, Series, plot_bars, plot_panels
from lanczos_saddle.studies.shapes.results import Anatomy, Counted, Findings, Taken, interval, label

SHOWN = {"1e-03": "τ = 1e-3 of the largest", "tau 5e-04": "τ = 5e-4, fixed", "1e-04": "τ = 1e-4 of the largest"}
FRACTION = "near zero, % of N"
DATA = {"mnist": "MNIST", "cifar10_features": "CIFAR-10 features"}


def draw(findings: Findings, folder: Path) -> None:
    """depth.png, width.png, layers.png; panels without findings are left out."""
    plot_panels(folder / "depth.png", _depths(findings))
    widths = [trials for trials in findings.widths if trials]
    panels = [_width(findings.width, findings.large)] if len(findings.width) + len(findings.large) > 1 else []
    panels += [_exact_width(widths)] if widths else []
    panels += [_negative(findings.width)] if len(findings.width) > 1 else []
    plot_panels(folder / "width.png", panels)
    blocks = [_layers(taken) for taken in findings.apart[-1:]] or [_blocks(found) for found in findings.whole[-1:]]
    ends = findings.whole[:: max(1, len(findings.whole) - 1)]  # the shallowest and the deepest
    plot_bars(folder / "layers.png", [*blocks, *(_mass(anatomy) for anatomy in ends)])


def _depths(findings: Findings) -> list[Panel]:
    learned = [[t for t in trials if t.learned] for trials in findings.exact]
    panels = [_depth(findings.depth)]
    panels += [_exact(learned, "at the paper's stop")] if any(learned) else []
    panels += [_exact(findings.level, f"at loss {findings.loss:g}")] if any(findings.level) else []
    return panels


def _depth(found: Sequence[Counted]) -> Panel:
    x = [len(c.experiment.sizes) - 1 for c in found]
    series = [_series(found, x, name, i, 0.018 * (x[-1] - x[0]) * (i - 1)) for i, name in enumerate(SHOWN)]
    title = f"{_data(found[0])}, certified (no bar: exact), one seed"
    return Panel(title, "layers of weights", FRACTION, series, x)


def _exact(found: Sequence[Sequence[Anatomy]], when: str) -> Panel:
    """Mean and range of the given trials."""
    found = [trials for trials in found if trials]
    x = [len(trials[0].experiment.sizes) - 1 for trials in found]
    series = [
        _ranges(found, name, [k + 0.018 * (x[-1] - x[0]) * (i - 1) for k in x], i) for i, name in enumerate(SHOWN)
    ]
    title = f"{_data(found[0][0])}, exact, {when}: mean and range of seeds"
    return Panel(title, "layers of weights", FRACTION, series, x)


def _exact_width(found: Sequence[Sequence[Anatomy]]) -> Panel:
    x = [trials[0].experiment.sizes[1] for trials in found]
    names = [name for name in SHOWN if name != "1e-04"]
    series = [_ranges(found, name, [k * (1.02 if i else 1 / 1.02) for k in x], i) for i, name in enumerate(names)]
    title = f"{_data(found[0][0])}, exact: mean and range of seeds"
    return Panel(title, "hidden units", FRACTION, series, x, log_x=True)


def _ranges(found: Sequence[Sequence[Anatomy]], name: str, x: Sequence[float], color: int) -> Series:
    values = [sorted(t.fraction(name) for t in trials) for trials in found]
    middle = [sum(v) / len(v) for v in values]
    return Series(SHOWN[name], x, [v[0] for v in values], middle, [v[-1] for v in values], color=color)


def _width(found: Sequence[Counted], large: Sequence[Counted]) -> Panel:
    names = [name for name in SHOWN if name != "1e-04"]
    series = []
    for i, name in enumerate(names):
        aside = 1.03 if i else 1 / 1.03  # on a logarithmic axis
        series.append(_series(found, [c.result["size"] * aside for c in found], name, i))
        two = _series(large, [c.result["size"] * aside for c in large], name, i, hollow=True)
        series += [two] if two.x else []
    notes = []
    for c in [*found, *large]:
        tops = [shown[2] for name in names if (shown := c.fraction(name)) is not None]
        if tops:  # noise may leave none of these thresholds
            notes.append((c.result["size"], max(tops), "-".join(map(str, c.experiment.sizes[1:-1]))))
    title = f"{_data(found[0])}, certified{'; hollow: two hidden layers' if large else ''}"
    ticks = [c.result["size"] for c in found]
    return Panel(title, "N, parameters; at the points: hidden units", FRACTION, series, ticks, log_x=True, notes=notes)


def _negative(found: Sequence[Counted]) -> Panel:
    name = "1e-03"
    x = [c.experiment.sizes[1] for c in found]
    counts = [c.interval(name, "negative") for c in found]
    rows = [(k, *(max(count, 0.5) for count in t)) for k, t in zip(x, counts, strict=True) if t]  # 0 has no logarithm
    residual = [max(float(c.residual["counts"][name][0]), 0.5) for c in found if c.residual]
    allowed = [float(c.experiment.sizes[1] * (c.experiment.sizes[2] - 1)) for c in found]
    series = [
        Series("allowed by the architecture", x, allowed, allowed, allowed, color=3, line=":"),
        Series("of the residual part R, exactly", x, residual, residual, residual, color=1, line="--"),
        Series("of H, certified", *_columns(rows), color=0),
    ]
    return Panel(f"negative eigenvalues, {SHOWN[name]}", "hidden units", "count", series, x, log_x=True, log_y=True)


def _series(
    found: Sequence[Counted], x: Sequence[float], name: str, color: int, shift: float = 0.0, hollow: bool = False
) -> Series:
    rows = [(k + shift, *values) for k, c in zip(x, found, strict=True) if (values := c.fraction(name)) is not None]
    return Series(
        "" if hollow else SHOWN[name], *_columns(rows), color=color, line="" if hollow else "-", hollow=hollow
    )


def _columns(rows: Sequence[Sequence[float]]) -> tuple[list[float], list[float], list[float], list[float]]:
    """X, lower, middle, upper."""
    x, lower, middle, upper = ([row[i] for row in rows] for i in range(4))
    return x, lower, middle, upper


def _layers(taken: Taken) -> Bars:
    values, errors = {}, {}
    for name in ("1e-03", "1e-04"):
        shares = []
        for result in taken.layers.values():
            found = interval(result, name)
            assert found is not None
            shares.append([100 * count / result["size"] for count in found])
        values[SHOWN[name]] = [middle for _, middle, _ in shares]
        errors[SHOWN[name]] = ([m - low for low, m, _ in shares], [high - m for _, m, high in shares])
    sizes = [f"{i}\n{result['size']:,}" for i, result in enumerate(taken.layers.values(), start=1)]
    title = f"{_data(taken.whole)} {label(taken.whole.experiment.sizes)}: each layer's own block"
    return Bars(title, "near zero, % of the layer's parameters", sizes, values, errors)


def _blocks(anatomy: Anatomy) -> Bars:
    """The same exactly."""
    layers = anatomy.result["layers"].values()
    values = {
        SHOWN[name]: [100 * layer["counts"][name][1] / layer["size"] for layer in layers] for name in ("1e-03", "1e-04")
    }
    ticks = [f"{i}\n{layer['size']:,}" for i, layer in enumerate(layers, start=1)]
    title = f"{_data(anatomy)} {label(anatomy.experiment.sizes)}: each layer's own block"
    return Bars(title, "near zero, % of the layer's parameters", ticks, values, {})


def _mass(anatomy: Anatomy) -> Bars:
    layers = anatomy.result["layers"]
    sizes = [100 * layer["size"] / anatomy.result["size"] for layer in layers.values()]
    mass = [100 * anatomy.result["mass"]["1e-03"][name] for name in layers]
    title = f"{_data(anatomy)} {label(anatomy.experiment.sizes)}: negative eigenvectors"
    values = {"share of the parameters": sizes, "share of the eigenvectors below -τ": mass}
    ticks = [f"{i}\n{layer['size']:,}" for i, layer in enumerate(layers.values(), start=1)]
    return Bars(title, "%", ticks, values, {})


def _data(found: Counted | Anatomy) -> str:
    return DATA.get(found.experiment.dataset, found.experiment.dataset)
