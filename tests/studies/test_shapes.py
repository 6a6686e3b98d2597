"""Networks of any shape, counted: exact parts against dense algebra, intervals against exact counts, the page whole."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from matrices import three
from torch.func import functional_call, jacrev

from lanczos_saddle.studies.paper import tables
from lanczos_saddle.studies.paper.experiments import Experiment
from lanczos_saddle.studies.paper.measurements import measure
from lanczos_saddle.studies.paper.store import Store
from lanczos_saddle.studies.shapes import figures as shape_figures
from lanczos_saddle.studies.shapes import study as shapes
from lanczos_saddle.studies.shapes import tables as shape_tables
from lanczos_saddle.studies.shapes.anatomy import anatomy, level, residual, residual_singular_values
from lanczos_saddle.studies.shapes.cells import MATRICES, Plan, certified, counted_exactly, layer_names, thresholds
from lanczos_saddle.studies.shapes.results import CLASSES, Counted, interval, label, verdict
from lanczos_saddle.studies.shapes.study import Shape, Study, compute, full, run, write
from lanczos_saddle.studies.shapes.tables import percent, spread
from lanczos_saddle.training import datasets

ONE = Experiment("digits", (64, 5, 10))
TWO = Experiment("digits", (64, 4, 4, 10))
NEVER = Experiment("digits", (64, 3, 10))
PLAN = Plan(4, 60)


@pytest.fixture(scope="module")
def dense(store):
    """Experiment -> (H, G) dense, from torch's derivatives of the loss and of the outputs alone."""
    found = {}
    data = datasets.digits()
    x, y = data.x_train.double(), data.y_train
    for experiment in (ONE, TWO):
        model = store.model(experiment).double()
        names = [name for name, _ in model.named_parameters()]
        shapes = [p.shape for p in model.parameters()]
        theta = torch.cat([p.detach().flatten() for p in model.parameters()])

        def outputs(theta, x=x, model=model, names=names, shapes=shapes):
            parts = torch.split(theta, [s.numel() for s in shapes])
            state = {n: p.reshape(s) for n, p, s in zip(names, parts, shapes, strict=True)}
            return functional_call(model, state, (x,))

        def loss(theta, outputs=outputs):
            return torch.nn.functional.cross_entropy(outputs(theta), y)

        matrix = jacrev(jacrev(loss))(theta).detach()
        gauss_newton = torch.zeros_like(matrix)
        for part in torch.split(torch.arange(len(x)), 300):
            jacobian = jacrev(lambda t, part=part, outputs=outputs: outputs(t, x[part]))(theta)
            p = torch.softmax(outputs(theta, x[part]).detach(), dim=1)
            bend = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
            gauss_newton += torch.einsum("scp,scd,sdq->pq", jacobian, bend, jacobian) / len(x)
        found[experiment] = matrix.numpy(), gauss_newton.numpy()
    return found


@pytest.mark.parametrize("experiment", [ONE, TWO], ids=lambda e: label(e.sizes))
def test_the_exact_parts_are_those_of_dense_algebra(store, dense, experiment):
    found = anatomy(store, experiment, parts=True)
    matrix, positive = dense[experiment]
    values = np.linalg.eigvalsh(matrix)
    assert found["scale"] == pytest.approx(abs(values).max(), rel=1e-10)
    assert found["dead"] == (matrix == 0).all(1).sum()
    parts = {"hessian": matrix, "gauss-newton": positive, "residual": matrix - positive}
    for name, tau in thresholds(found["scale"]).items():
        for part, dense_part in parts.items():
            assert found[part][name] == list(three(np.linalg.eigvalsh(dense_part), tau)), (part, name)
    start = 0
    for layer in found["layers"].values():
        block = matrix[start : start + layer["size"], start : start + layer["size"]]
        for name, tau in thresholds(found["scale"]).items():
            assert layer["counts"][name] == list(three(np.linalg.eigvalsh(block), tau))
        start += layer["size"]
    assert start == experiment.size


@pytest.mark.parametrize("experiment", [ONE, TWO], ids=lambda e: label(e.sizes))
def test_eigenvectors_are_shared_out_among_the_layers(store, dense, experiment):
    found = anatomy(store, experiment, parts=True)
    values, vectors = np.linalg.eigh(dense[experiment][0])
    tau = thresholds(found["scale"])["1e-04"]
    squares = (vectors[:, values < -tau] ** 2).sum(1) / (values < -tau).sum()
    ends = np.cumsum([0, *(layer["size"] for layer in found["layers"].values())])
    shares = [squares[a:b].sum() for a, b in pairwise(ends)]
    assert list(found["mass"]["1e-04"].values()) == pytest.approx(shares, abs=1e-8)


@pytest.mark.parametrize("experiment", [ONE, TWO], ids=lambda e: label(e.sizes))
def test_negative_eigenvalues_come_from_the_residual_part(store, experiment):
    found = anatomy(store, experiment, parts=True)
    for name in thresholds(1.0):
        assert found["gauss-newton"][name][0] == 0
        assert found["hessian"][name][0] <= found["residual"][name][0]
        assert all(layer["counts"][name][0] == 0 for layer in found["layers"].values())


def test_a_level_is_a_point_of_the_same_run(store):
    store.model(ONE)
    losses = store.trained(ONE)["losses"]
    found = level(store, ONE, 0.3)
    assert found["loss"] <= 0.3 < losses[found["epochs"] - 2]
    assert found["loss"] == pytest.approx(losses[found["epochs"] - 1], rel=1e-5)
    assert sum(found["hessian"]["1e-03"]) == ONE.size
    assert level(store, ONE, 1e-9) == {"epochs": None}
    final = level(store, ONE, losses[-1] + 1e-9)  # down to the end: the trained network itself
    if final["epochs"] == len(losses):
        assert final["hessian"] == anatomy(store, ONE, parts=True)["hessian"]


def test_one_hidden_layer_has_its_residual_part_in_closed_form(store, dense):
    matrix, positive = dense[ONE]
    singular = residual_singular_values(ONE, store.model(ONE)).numpy()
    expected = np.sort(np.concatenate([-singular, singular, np.zeros(ONE.size - 2 * len(singular))]))
    assert np.linalg.eigvalsh(matrix - positive) == pytest.approx(expected, abs=1e-14)
    found = anatomy(store, ONE, parts=True)
    assert residual(store, ONE, found["scale"])["counts"] == found["residual"]


@pytest.mark.parametrize("matrix", [*MATRICES, *layer_names(TWO)])
def test_the_intervals_hold(store, matrix):
    exact = anatomy(store, TWO, parts=True)
    found = certified(store, TWO, PLAN, matrix)
    truth = exact[matrix] if matrix in MATRICES else exact["layers"][matrix]["counts"]
    assert found["scale"] == pytest.approx(exact["scale"], rel=1e-6)
    for name in thresholds(1.0):
        for which, count in zip(CLASSES, truth[name], strict=True):
            lower, _, upper = interval(found, name, which)
            assert lower <= count <= upper, (name, which)
    width = interval(found, "1e-02")
    assert width[2] - width[0] < found["size"] / 4


def test_the_residual_part_bounds_the_negatives_from_above(store):
    """Few steps: the interval alone reaches past negative(R), which is exact; what is left of it holds."""
    exact, plan = anatomy(store, ONE, parts=True), Plan(1, 8)
    found = certified(store, ONE, plan)
    bound = residual(store, ONE, found["scale"])
    counted, closer = Counted(ONE, found, store.trained(ONE), bound), 0
    for name in thresholds(1.0):
        for which, count in zip(CLASSES, exact["hessian"][name], strict=True):
            lower, estimate, upper = counted.interval(name, which)
            assert lower <= count <= upper
            assert lower <= estimate <= upper
            alone = interval(found, name, which)
            assert alone[0] <= lower
            assert upper <= alone[2]
            closer += (lower, upper) != (alone[0], alone[2])
        assert counted.interval(name, "negative")[2] <= bound["counts"][name][0]
    assert closer  # of an upper end, and of what is near zero


def test_table_9_prints_the_intervals_of_this_page(tmp_path):
    """Of a network without a certified run of its own; the residual part is in them as here."""
    store = Store(tmp_path)
    found = certified(store, NEVER, Plan(1, 8))
    bound = residual(store, NEVER, found["scale"])
    counted = Counted(NEVER, found, store.trained(NEVER), bound)
    line = tables.Line(store, "64-3-10", NEVER, {})
    for name in tables.CERTIFIED:
        for place, which in enumerate(CLASSES):
            lower, _, upper = counted.certified(name, which)
            assert line.certified(name, place) == f"[{lower:.0f}, {upper:.0f}] *"
    assert any(
        interval(found, name, "negative")[2] > counted.certified(name, "negative")[2] for name in tables.CERTIFIED
    )


def test_every_pair_of_networks_is_judged():
    """12 eigenvalues of 100 near zero, then 20, then somewhere in between or beyond."""

    def one(near):
        result = {"size": 100, "dead": 0, "intervals": {"1e-03": [[0, 0, 9], near, [0, 0, 99]]}}
        return Counted(ONE, result, {}, None)

    found = [one([12, 12, 12]), one([20, 20, 20]), one([15, 18, 25])]
    row = shape_tables.trend(found, ["1e-03"]).splitlines()[2]
    assert row == "| 1e-03, of N | rises | open | rises | 2 / 0 / 1 |"


@pytest.mark.slow
def test_float32_says_what_its_noise_leaves(store):
    """Its noise is measured on the run, so that thresholds far below that of one bounded product are answered, too."""
    found = certified(store, TWO, Plan(2, 40, "float32"))
    for relative in ("1e-03", "1e-04"):
        lower, _, upper = interval(found, relative)
        assert lower <= anatomy(store, TWO, parts=True)["hessian"][relative][1] <= upper


def test_a_step_is_proved_by_disjoint_intervals_alone():
    low, high = (10.0, 11.0, 12.0), (12.5, 13.0, 14.0)
    assert verdict(low, high) == "rises"
    assert verdict(high, low) == "falls"
    assert verdict(low, (12.0, 13.0, 14.0)) == "open"
    assert verdict(low, None) == ""


def test_ends_are_rounded_outward():
    assert percent((88.15, 88.5, 88.91)) == "88.5 [88.1, 89.0]"
    assert percent((88.1, 88.5, 88.9)) == "88.5 [88.1, 88.9]"
    assert percent((88.12, 88.12, 88.12)) == "88.12"
    assert spread((3, 3.0, 3)) == "3"
    assert spread((3, 3.4, 1000)) == "3 in [3, 1,000]"


def test_the_study_spans_what_the_paper_asks_for():
    study = full()
    assert {len(shape.experiment.sizes) - 1 for shape in study.depth} >= {2, 3, 4, 10}
    assert [shape.experiment.sizes[1] for shape in study.width] == [25, 50, 100, 250, 500, 1000]
    assert (784, 500, 500, 10) in {shape.experiment.sizes for shape in study.large}
    assert max(shape.experiment.size for shape in study.large) > 10**6


def check_page(page, folder):
    for figure in ("depth", "width", "layers"):
        assert (folder / f"{figure}.png").stat().st_size > 10_000
    assert page.count("### ") == 14
    for part in page.split("### ")[1:]:
        lines = part.strip().splitlines()[2:]
        assert len(lines) > 2, part
        assert len({line.count("|") for line in lines}) == 1, part


def test_the_page_is_whole_and_a_second_run_computes_nothing(store, tmp_path):
    one, two = Shape(ONE, PLAN), Shape(TWO, PLAN)
    study = Study([one, two], [one, one], [two], [two], [two], [one], [ONE, TWO], [ONE], 1, [ONE, TWO], 0.3, [ONE])
    page = write(store, study, tmp_path)
    check_page(page, tmp_path)
    exact = anatomy(store, ONE, parts=True)["hessian"]["1e-03"]
    assert f"| 64-5-10 | 1e-03 | {exact[0]} / {exact[1]} / {exact[2]} |" in page
    judged = measure(store, "exact", ONE)["counts"]["1e-03"]
    assert judged == exact  # by the Hessian's closed form and by the anatomy's own matrix
    intervals = next(line for line in page.splitlines() if line.startswith("| 64-5-10 |") and " in [" in line)
    assert intervals.endswith(f"| {exact[0]} / {exact[1]} / {exact[2]} |")
    records = store.path.read_bytes()
    # what is not there is left out, and nothing is computed for it
    never = Shape(NEVER, PLAN)
    more = replace(study, depth=[one, two, never], judged=[one, never], trials=2)
    assert shape_tables.page(compute(Store(store.folder, finished=True), more)) == page
    assert shape_tables.page(compute(Store(store.folder), study)) == page
    assert store.path.read_bytes() == records


def test_what_is_not_counted_exactly_keeps_its_intervals(store, tmp_path, monkeypatch):
    def refuse(*_arguments, **_options):
        raise ValueError("no memory for the eigenvalues")

    monkeypatch.setattr(shapes, "measure", refuse)
    two = Shape(TWO, PLAN)
    study = Study([two], [two], [], [], [], [two], [TWO], [TWO], 1, [], 0.3, [])
    with pytest.warns(UserWarning, match="not counted exactly: no memory"):
        findings = compute(Store(store.folder), study)
    assert [counted.exact for counted in findings.depth] == [None]
    assert findings.depth[0].interval("1e-03") is not None


def test_exact_counts_take_the_place_of_intervals(store):
    found, training = certified(store, TWO, PLAN), store.trained(TWO)
    assert counted_exactly(store, TWO) is None
    measure(store, "exact", TWO)
    before = counted_exactly(Store(store.folder, finished=True), TWO)
    truth = counted_exactly(store, TWO)
    assert set(truth) - set(before) == {"tau 5e-04", "tau 5e-05"}
    assert {name: truth[name] for name in thresholds(1.0)} == anatomy(store, TWO, parts=True)["hessian"]
    store.spectrum(TWO, "exact").unlink()
    assert counted_exactly(Store(store.folder, finished=True), TWO) == truth  # a cell by now
    for known in (before, truth):
        counted = Counted(TWO, found, training, None, known)
        assert counted.interval("1e-03") == (truth["1e-03"][1],) * 3
    assert counted.interval("tau 5e-04") == (truth["tau 5e-04"][1],) * 3
    without = Counted(TWO, found, training, None, before)
    assert without.interval("tau 5e-04") == interval(found, "tau 5e-04")


def test_a_network_below_the_noise_has_a_row_and_no_point(store):
    found, training = certified(store, TWO, PLAN), store.trained(TWO)
    silent = Counted(TWO, {**found, "intervals": dict.fromkeys(found["intervals"])}, training, None)
    assert "below the noise" in shape_tables.counts([silent], "1e-03")
    panel = shape_figures._width([Counted(TWO, found, training, None)], [silent])
    assert len(panel.notes) == 1
    assert all(series.x for series in panel.series)


@pytest.mark.slow
def test_the_small_study_runs(tmp_path):
    check_page(run(Store(tmp_path), tmp_path, small=True), tmp_path)


@pytest.mark.slow
def test_every_count_is_made_on_the_device_of_the_store(tmp_path, monkeypatch):
    """ "cpu:0" is the CPU by another name: who forgets the device asks for "cpu"."""
    from lanczos_saddle.studies.paper import along_training, kept_weights, measurements
    from lanczos_saddle.studies.shapes import anatomy as shape_anatomy
    from lanczos_saddle.studies.shapes import cells as shape_cells

    asked = []
    for module in (kept_weights, measurements, shape_anatomy, shape_cells):

        def hessian(*arguments, device=None, of=module.hessian_of, where=module.__name__, **options):
            asked.append((where.rpartition(".")[2], device))
            return of(*arguments, device=device, **options)

        monkeypatch.setattr(module, "hessian_of", hessian)
    store = Store(tmp_path, device="cpu:0")
    for kind in ("structure", "exact", "float32 signs"):
        measure(store, kind, NEVER)
    along_training.follow(store, NEVER, [1], ["moment-exact", "moment-paper"])
    certified(store, NEVER, Plan(2, 10), "gauss-newton")
    anatomy(store, NEVER, parts=False)
    level(store, NEVER, 10.0)
    assert {where for where, _ in asked} == {"kept_weights", "measurements", "anatomy", "cells"}
    assert {device for _, device in asked} == {torch.device("cpu:0")}
