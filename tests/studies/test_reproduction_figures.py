"""The paper's figures: closed forms of Wigner's law, moments of a run, and each figure on a small network."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from matrices import seeded

from lanczos_saddle.cli import reproduce
from lanczos_saddle.cli.entry import main
from lanczos_saddle.reports.records import read
from lanczos_saddle.studies.paper import along_training, degeneracy, epsilon_alpha, kept_weights, plateau, semicircle
from lanczos_saddle.studies.paper.experiments import Experiment
from lanczos_saddle.studies.paper.random_matrices import (
    Semicircle,
    closest_semicircle,
    equal_moments,
    goe_eigenvalues,
    kolmogorov_smirnov,
    two_samples,
    wasserstein,
)
from lanczos_saddle.studies.paper.rows import CIFAR10, DIGITS
from lanczos_saddle.studies.paper.store import Store, UnfinishedError
from lanczos_saddle.training.datasets import DataNotFoundError, digits

UNIT = Semicircle(0.0, 2.0)

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's first forward-mode product


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("figures")


# Wigner's law


def test_the_semicircle_has_the_moments_of_catalan():
    # radius 2: the Catalan numbers 1, 1, 2, 5; with x = 2 sin t the midpoint rule is exact
    angles = (np.arange(2000) + 0.5) * math.pi / 2000 - math.pi / 2
    x = 2 * np.sin(angles)
    weights = UNIT.density(x) * 2 * np.cos(angles) * math.pi / 2000
    for power, moment in enumerate((1, 0, 1, 0, 2, 0, 5)):
        assert (weights * x**power).sum() == pytest.approx(moment, abs=1e-12)


def test_density_cdf_and_its_integral_are_one_anothers_derivatives():
    law, x, h = Semicircle(0.3, 1.7), np.linspace(-1.2, 1.8, 31), 1e-5
    assert (law.cdf(x + h) - law.cdf(x - h)) / (2 * h) == pytest.approx(law.density(x), abs=1e-8)
    assert (law.integral(x + h) - law.integral(x - h)) / (2 * h) == pytest.approx(law.cdf(x), abs=1e-8)
    assert law.integral(np.array([-9.0, 9.0])) == pytest.approx([0, 9 - 0.3], abs=1e-15)  # E max(t - X, 0)


def test_known_values_and_quantiles_of_the_semicircle():
    assert UNIT.cdf(np.array([-3, -2, 0, 1, 2, 3])) == pytest.approx([0, 0, 0.5, 2 / 3 + 3**0.5 / (4 * math.pi), 1, 1])
    p = np.linspace(0, 1, 101)
    assert Semicircle(-1, 0.5).cdf(Semicircle(-1, 0.5).quantile(p)) == pytest.approx(p, abs=1e-15)


def test_distances_of_a_sample_of_quantiles_and_of_points():
    n, law = 1000, Semicircle(0.3, 1.7)
    middle = law.quantile((np.arange(n) + 0.5) / n)
    assert kolmogorov_smirnov(middle, law) == pytest.approx(1 / (2 * n), abs=1e-12)  # half a jump
    assert wasserstein(np.zeros(3), UNIT) == pytest.approx(8 / (3 * math.pi))  # E|X|
    assert wasserstein(np.full(3, 5.0), UNIT) == pytest.approx(5)  # all mass moves by 5 on average
    assert kolmogorov_smirnov(np.zeros(3), UNIT) == pytest.approx(0.5)
    assert kolmogorov_smirnov(np.full(3, 2.0), UNIT) == pytest.approx(1)


def test_the_wasserstein_distance_by_quantiles():
    values = np.sort(torch.randn(40, generator=seeded(), dtype=torch.float64).numpy())
    p = (np.arange(400_000) + 0.5) / 400_000  # integral of |Q_n - Q| over (0, 1)
    expected = np.abs(values[(p * 40).astype(int)] - UNIT.quantile(p)).mean()
    assert wasserstein(values, UNIT) == pytest.approx(expected, rel=1e-5)


def test_the_tridiagonal_model_has_the_law_of_a_dense_sample():
    size, trials = 40, 300
    tridiagonal = np.array([goe_eigenvalues(size, generator=seeded(k)) for k in range(trials)])
    g = torch.randn(trials, size, size, generator=seeded(1000), dtype=torch.float64)
    dense = torch.linalg.eigvalsh((g + g.mT) / math.sqrt(2 * size)).numpy()
    # E tr H^2 / N = 1 + 1/N; its variance is 4 / N^2 (1 + 1/N), so 5 standard errors of the mean of 300 are 0.015
    for sample in (tridiagonal, dense):
        assert (sample**2).mean() == pytest.approx(1 + 1 / size, abs=0.015)
    for index in (0, 10, 20, 39):  # each ordered eigenvalue, against 5 standard errors of the difference
        error = math.hypot(*(sample[:, index].std() / math.sqrt(trials) for sample in (tridiagonal, dense)))
        assert tridiagonal[:, index].mean() == pytest.approx(dense[:, index].mean(), abs=5 * error)


def test_random_matrices_approach_the_semicircle_and_have_no_zero_eigenvalues():
    near, far = (
        np.mean([kolmogorov_smirnov(goe_eigenvalues(size, generator=seeded(k)), UNIT) for k in range(5)])
        for size in (800, 50)
    )
    assert far / near > 8  # 16 were it 1 / N
    values = np.concatenate([goe_eigenvalues(400, generator=seeded(k)) for k in range(20)])
    for tau in (0.2, 0.02):
        expected = 2 * tau / math.pi  # width times density 1 / pi; counts are rigid, far below binomial noise
        share = (np.abs(values) <= tau).mean()
        assert share == pytest.approx(expected, abs=5 * math.sqrt(expected / len(values)))
    assert (values == 0).sum() == 0
    assert (values < 0).mean() == pytest.approx(0.5, abs=0.01)


def test_the_closest_semicircle_is_found_whatever_its_place_and_scale():
    values = Semicircle(3.0, 1e-3).quantile((np.arange(500) + 0.5) / 500)
    law, distance = closest_semicircle(values)
    assert distance < 0.002  # a perfect fit has 1 / 1000
    assert (law.center, law.radius) == pytest.approx((3, 1e-3), rel=0.02)
    assert kolmogorov_smirnov(values, equal_moments(values)) > 0.4  # around 0 it does not fit
    assert kolmogorov_smirnov(values, equal_moments(values, centered=True)) < 0.002


def test_the_distance_of_two_spectra_of_equal_second_moment():
    # half of all mass at either of -1 and 1, second moment 1, beside the semicircle of radius 2
    circle = UNIT.quantile((np.arange(20_000) + 0.5) / 20_000)
    expected = 1 / 6 + 3**0.5 / (4 * math.pi)  # 1/2 - F(-1)
    assert two_samples(np.array([-1.0, 1.0]), circle) == pytest.approx(expected, abs=1e-4)
    assert two_samples(circle / 8, 4 * circle) == 0  # powers of 2 leave exactly
    assert two_samples(np.array([-3.0, 0.0, 0.0]), np.array([0.0, 0.0, 7.0])) == pytest.approx(1 / 3)  # ties at 0
    one, other = (goe_eigenvalues(400, generator=seeded(k)) for k in range(2))
    of_one = kolmogorov_smirnov(one, equal_moments(one)), kolmogorov_smirnov(other, equal_moments(other))
    assert 0 < two_samples(one, other) <= sum(of_one) + 1e-12  # triangle
    assert two_samples(one, other) == two_samples(other, one)


def test_misuse_of_random_matrices():
    with pytest.raises(ValueError, match="at least 2 rows; got 1"):
        goe_eigenvalues(1, generator=seeded())
    with pytest.raises(ValueError, match="second moment is 0"):
        equal_moments(np.zeros(3))
    with pytest.raises(ValueError, match="second moment is 0"):
        two_samples(np.ones(3), np.zeros(3))


# moments of a run

TINY = Experiment("digits", (64, 3, 10))


def test_the_last_moment_is_the_trained_network(store, tmp_path):
    last = kept_weights.run_length(store, TINY)
    along = Store(tmp_path)  # does not know where the run ends
    kept_weights.keep_weights(along, TINY, [0, last])
    trained = store.model(TINY)
    kept, drawn = (kept_weights.model_at(along, TINY, after) for after in (last, 0))
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), kept.parameters(), strict=True))
    assert not torch.equal(drawn[0].weight, kept[0].weight)
    assert kept_weights.weights_at(store, TINY, last) == store.weights(TINY)
    assert kept_weights.weights_at(store, TINY, last - 1) != store.weights(TINY)


def test_a_run_that_is_not_the_recorded_one_leaves_no_weights(store, tmp_path):
    other = Store(tmp_path)
    recorded = dict(store.trained(TINY))
    for name, loss in (("near", recorded["loss"] * (1 + 1e-8)), ("far", recorded["loss"] * (1 + 1e-4))):
        other = Store(tmp_path / name)
        other.fill("train", TINY.parameters(), lambda loss=loss: {**recorded, "loss": loss})
        if name == "near":
            kept_weights.keep_weights(other, TINY, [12])
        else:
            with pytest.raises(ValueError, match="along another path on this machine"):
                kept_weights.keep_weights(other, TINY, [12])
        assert kept_weights.weights_at(other, TINY, 12).is_file() == (name == "near")


def test_the_length_of_an_epoch_is_known_without_the_data(monkeypatch, tmp_path):
    monkeypatch.setenv("LANCZOS_SADDLE_DATA", str(tmp_path))
    monkeypatch.setattr(kept_weights, "steps_per_epoch", kept_weights.steps_per_epoch.__wrapped__)
    assert kept_weights.steps_per_epoch(CIFAR10) == 391  # 50,000 in batches of 128
    assert kept_weights.steps_per_epoch(DIGITS) == 12
    with pytest.raises(ValueError, match="there is no data file"):
        kept_weights.steps_per_epoch(Experiment(str(tmp_path / "none.npz"), (2, 2, 2)))


def test_counts_at_a_moment_are_those_of_the_hessian(store):
    store.model(TINY)  # the run is recorded, whichever test comes first
    cell = along_training.follow(store, TINY, [12], ["moment", "moment-exact"])[0]
    assert cell["epoch"] == 1  # 1500 images in batches of 128
    history = store.trained(TINY)["losses"]
    assert cell["moment"]["loss"] == pytest.approx(history[0], rel=1e-6)  # float32 outputs
    model, data = kept_weights.model_at(store, TINY, 12).double(), digits()
    shapes = {name: p.shape for name, p in model.named_parameters()}

    def loss(theta):
        parts = torch.split(theta, [shape.numel() for shape in shapes.values()])
        weights = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
        outputs = torch.func.functional_call(model, weights, (data.x_train.double(),))
        return torch.nn.functional.cross_entropy(outputs, data.y_train)

    theta = torch.cat([p.detach().flatten() for p in model.parameters()])
    values = torch.linalg.eigvalsh(torch.func.hessian(loss)(theta)).numpy()
    found = cell["moment-exact"]
    assert found["largest"] == pytest.approx(values[-1], rel=1e-10)
    for how, scale in (("relative", np.abs(values).max()), ("absolute", 1.0)):
        for tau in ("1e-02", "1e-03", "1e-04"):
            t = float(tau) * scale
            assert found[how][tau] == [(values < -t).sum(), (abs(values) <= t).sum(), (values > t).sum()]


def test_moments_that_are_not_there(store):
    with pytest.raises(ValueError, match="at least 0; got -1"):
        kept_weights.keep_weights(store, TINY, [-1])
    last = kept_weights.run_length(store, TINY)
    with pytest.raises(ValueError, match=f"ended after {last} steps; got a moment after {last + 1}"):
        kept_weights.keep_weights(store, TINY, [last + 1])
    done = Store(store.folder, finished=True)
    with pytest.raises(UnfinishedError, match="lacks 1 of 1 cells along a training, the first of them moment after 13"):
        along_training.follow(done, TINY, [13], ["moment"])
    with pytest.raises(UnfinishedError, match=r"after-000013.safetensors is missing"):
        kept_weights.keep_weights(done, TINY, [13])


# figures


def test_an_order_counts_pairs_that_contradict_it():
    def cell(loss, count, ends=None):
        found = {"moment": {"loss": loss}, "moment-exact": {"relative": {"1e-03": [count]}}}
        return (
            found if ends is None else {**found, "moment-certified": {"intervals": {"1e-03": [[ends[0], 0, ends[1]]]}}}
        )

    falling = [cell(3.0, 30), cell(2.0, 20), cell(1.0, 10)]
    assert epsilon_alpha.order(falling, "1e-03") == epsilon_alpha.Order(pytest.approx(1), pytest.approx(1), 3, 0, 0)
    mixed = [cell(3.0, 10, (5, 15)), cell(2.0, 20, (14, 25)), cell(1.0, 40, (30, 50))]
    assert epsilon_alpha.order(mixed, "1e-03") == epsilon_alpha.Order(pytest.approx(-1), pytest.approx(-1), 3, 3, 2)


FIGURES = {
    "paper-fig1.png": plateau,
    "paper-fig2.png": epsilon_alpha,
    "paper-fig3.png": degeneracy,
    "paper-wigner.png": semicircle,
}


@pytest.fixture(scope="module")
def texts(store, folder):
    """Every figure once, small; the store is filled by it."""
    return {name: module.run(store, folder, small=True) for name, module in FIGURES.items()}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_drawn_and_computed_once(store, folder, texts, name, monkeypatch):
    assert f"](figures/{name})" in texts[name]
    assert (folder / name).stat().st_size > 20_000
    kept = read(store.path)

    def refuse(*_, **__):
        raise AssertionError("computed again")

    monkeypatch.setattr(Store, "fill", lambda self, kind, parameters, _: self.find(kind, parameters) or refuse())
    monkeypatch.setattr(along_training, "keep_weights", refuse)
    assert FIGURES[name].run(store, folder, small=True) == texts[name]
    assert read(store.path) == kept


@pytest.mark.parametrize("name", FIGURES)
def test_records_alone_suffice(store, tmp_path, texts, name):
    done = Store(tmp_path, finished=True)
    done.path.write_bytes(store.path.read_bytes())
    assert FIGURES[name].run(done, tmp_path / "figures", small=True) == texts[name]
    assert (tmp_path / "figures" / name).is_file()


def test_a_run_that_a_finished_store_has_not_whole_is_left_out_and_named(tmp_path):
    store = Store(tmp_path, finished=True)
    Store(tmp_path).fill("count", {"run": "whole"}, lambda: 3)

    def cell(run):
        if run == "elsewhere":
            raise DataNotFoundError("there is no data file")
        return store.fill("count", {"run": run}, lambda: 1 / 0)

    both = along_training.finished(cell, ["half", "whole", "none"], label=str.upper)
    assert both == ([3], "Left out, not yet computed: HALF, NONE.")
    both = along_training.finished(cell, ["elsewhere", "whole"], label=str)
    assert both == ([3], "Left out, no data: elsewhere.")
    assert along_training.finished(cell, ["whole"], label=str) == ([3], "")
    with pytest.raises(UnfinishedError, match=r"no cell count of \{'run': 'half'\}"):
        along_training.finished(cell, ["half", "none"], label=str)


@pytest.mark.usefixtures("texts")
def test_the_unfinished_network_is_not_drawn(store, tmp_path, monkeypatch):
    done = Store(tmp_path, finished=True)
    done.path.write_bytes(store.path.read_bytes())
    whole, absent = epsilon_alpha.plans(small=True)[0], Experiment("digits", (64, 7, 10))
    runs = [replace(whole, experiment=absent, label="absent"), whole]
    monkeypatch.setattr(epsilon_alpha, "plans", lambda **_: runs)
    found = epsilon_alpha.compute(done, small=True)
    assert [followed.run for followed in found[0]] == [whole]
    assert epsilon_alpha.summary(found).endswith("\n\nLeft out, not yet computed: absent.")


@pytest.mark.usefixtures("texts")
def test_the_plateau_is_flat_and_gradient_descent_stays(store):
    flat = store.all("plateau-counts")[0]["result"]
    assert [cell["counts"] for cell in flat] == [[0, 1, 1]] * 5
    assert all(cell["gradient_norm"] == 0 for cell in flat)
    ends = {record["parameters"]["method"]: record["result"] for record in store.all("plateau")}
    assert len(ends) == 7
    x = 4.0  # gradient descent by hand: x <- x - 0.02 (x - 3)^2
    for _ in range(200):
        x -= 0.02 * (x - 3) ** 2
    assert ends["gradient descent"]["end"] == pytest.approx([x, 2 * 0.98**200])
    assert all(found["end"][0] > 2 for found in ends.values())  # none passes


@pytest.mark.usefixtures("texts")
def test_intervals_contain_the_exact_counts(store):
    deep = store.all("moment-certified")
    assert len(deep) == 4
    for record in deep:
        parameters = {k: v for k, v in record["parameters"].items() if k not in ("probes", "steps")}
        exact = store.find("moment-exact", parameters)["relative"]
        for tau, intervals in record["result"]["intervals"].items():
            assert all(low <= count <= high for (low, _, high), count in zip(intervals, exact[tau], strict=True))


@pytest.mark.usefixtures("texts")
def test_a_hessian_is_no_random_matrix(store):
    hessians = [record["result"] for record in store.all("wigner")]
    samples = [record["result"] for record in store.all("goe")]
    assert min(cell["ks"] for cell in hessians) > 5 * max(cell["ks"] for cell in samples)
    assert all(cell["ks_closest"] <= cell["ks"] + 1e-9 for cell in samples + hessians)
    assert all(sum(cell["histogram"]) <= cell["size"] for cell in hessians)
    to_samples = [record["result"] for record in store.all("wigner-goe")]
    apart = {record["parameters"]["size"]: record["result"] for record in store.all("goe-goe")}
    assert len(to_samples) == len(hessians) == 2
    assert sorted(apart) == [50, 100, 200]
    assert min(to_samples) > 3 * max(apart.values())
    for one, cell in zip(to_samples, hessians, strict=True):  # triangle: a sample of this size is near the semicircle
        assert abs(one - cell["ks"]) < 0.02


def test_a_figure_that_fails_is_named_and_the_next_one_is_drawn(store, texts, tmp_path, monkeypatch, capsys):
    def fails(*_, **__):
        raise MemoryError

    Store(tmp_path).path.write_bytes(store.path.read_bytes())
    monkeypatch.setitem(reproduce.FIGURES, "fig2", fails)
    options = ["--datasets", "digits", "--report-only", "--store", str(tmp_path)]
    assert main(["reproduce", "fig2", "wigner", *options, "--json", str(tmp_path / "out.json")]) == 1
    printed = capsys.readouterr().out
    assert "## fig2\n\nNot drawn: MemoryError\n\n## wigner\n\n| spectrum |" in printed
    assert texts["paper-wigner.png"] in printed
    assert "not done: fig2: MemoryError" in printed
    assert json.loads((tmp_path / "out.json").read_text())["refused"] == ["fig2: MemoryError"]


def test_a_descent_with_other_constants_is_another_cell(tmp_path, monkeypatch):
    store, points = Store(tmp_path), torch.tensor([[4.0, 2.0], [3.0, 0.0]], dtype=torch.float64)
    monkeypatch.setattr(plateau, "trajectory", lambda *_, **__: points)
    made = plateau.METHODS["perturbed GD"]
    for wait in (300, 2500):

        def patient(parameters, generator, wait=wait):
            optimizer = made(parameters, generator)
            optimizer.defaults["wait"] = wait
            return optimizer

        monkeypatch.setitem(plateau.METHODS, "perturbed GD", patient)
        plateau.compute(store, small=True)
    cells = [record["parameters"] for record in store.all("plateau")]
    assert [cell["wait"] for cell in cells if cell["method"] == "perturbed GD"] == [300, 2500]
    assert len(cells) == len(plateau.METHODS) + 1
