"""The paper's experiments as cells: each computed once, the counts those of an independent dense Hessian."""

import json
import os
import tomllib
from dataclasses import replace
from importlib import resources

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from lanczos_saddle import Hessian, classify
from lanczos_saddle.cli.entry import main
from lanczos_saddle.cli.options import dataset as options_dataset
from lanczos_saddle.cli.reproduce import NAMES, _names
from lanczos_saddle.reports.markdown import over_trials, table
from lanczos_saddle.structure import closed_form
from lanczos_saddle.studies.paper import definitions, tables, verdicts
from lanczos_saddle.studies.paper.along_training import follow
from lanczos_saddle.studies.paper.convention import ALIKE, columns, convention, signs
from lanczos_saddle.studies.paper.experiments import Experiment, hessian_of, trained, untrained
from lanczos_saddle.studies.paper.kept_weights import run_length
from lanczos_saddle.studies.paper.measurements import THRESHOLDS, measure
from lanczos_saddle.studies.paper.printed import printed
from lanczos_saddle.studies.paper.rows import _TABLES, DIGITS, Row, rows, table_names
from lanczos_saddle.studies.paper.store import Store, UnfinishedError
from lanczos_saddle.training import datasets
from lanczos_saddle.training.checkpoints import save_checkpoint
from lanczos_saddle.training.methods import STEPS
from lanczos_saddle.training.objectives import OBJECTIVES, loss_for, reconstruction, softmax_squared_error, targets_for

TINY = replace(DIGITS, sizes=(64, 4, 10))


def dense_hessian(store, experiment):
    """By two reverse passes through the network and its loss written out: no products, closed forms or modules."""
    model, data = store.model(experiment).double(), datasets.load(experiment.dataset)
    shapes = {name: p.shape for name, p in model.named_parameters()}
    sizes = [shape.numel() for shape in shapes.values()]
    theta = torch.cat([p.detach().ravel() for p in model.parameters()])
    x = data.x_train.double()

    def loss(theta):
        w1, b1, w2, b2 = (part.reshape(s) for part, s in zip(theta.split(sizes), shapes.values(), strict=True))
        z = torch.relu(x @ w1.T + b1) @ w2.T + b2
        if experiment.objective == "cross-entropy":
            return -torch.log_softmax(z, 1)[torch.arange(len(z)), data.y_train].mean()
        if experiment.objective == "squared-error":
            return (torch.softmax(z, 1) - torch.eye(10, dtype=z.dtype)[data.y_train]).square().sum() / len(z)
        return (z - x).square().sum() / len(z) / 2

    return torch.autograd.functional.hessian(loss, theta)


@pytest.mark.parametrize("objective", ["cross-entropy", "squared-error"])
def test_exact_counts_are_those_of_a_dense_hessian(store, objective):
    experiment = replace(TINY, objective=objective)
    values = np.linalg.eigvalsh(dense_hessian(store, experiment).numpy())
    found = measure(store, "exact", experiment)
    scale = np.abs(values).max()
    assert found["largest"] == pytest.approx(values[-1], rel=1e-9)
    for relative in THRESHOLDS[:6]:
        tau = relative * scale
        expected = [(values < -tau).sum(), (np.abs(values) <= tau).sum(), (values > tau).sum()]
        assert found["counts"][f"{relative:.0e}"] == expected


def test_certified_intervals_contain_the_exact_counts(store):
    intervals, exact = measure(store, "certified", TINY)["intervals"], measure(store, "exact", TINY)["counts"]
    for tau, found in intervals.items():
        assert all(lower <= count <= upper for (lower, _, upper), count in zip(found, exact[tau], strict=True))


def test_structure_counts_blank_inputs_and_silent_units(store):
    found = measure(store, "structure", TINY)
    rows_of_zeros = int((dense_hessian(store, TINY) == 0).all(1).sum())
    assert found["dead"] == rows_of_zeros
    assert found["blank"] == 4 * int((datasets.digits().x_train == 0).all(0).sum())
    assert found["blank"] + found["silent"] == found["dead"]
    assert found["negative_bound"] == 4 * 9
    assert measure(store, "structure", replace(TINY, objective="squared-error"))["negative_bound"] is None


def test_the_convention_counts_signs_of_the_float32_matrix(store):
    found = measure(store, "convention", TINY)
    operator = hessian_of(TINY, store.model(TINY), dtype=torch.float32)
    matrix = columns(operator, 50).numpy()  # in blocks of another width
    by_numpy = np.linalg.eigvals(matrix).real  # float64 inside
    zeros = int((matrix == 0).all(1).sum())
    assert found["zero_rows"] == zeros
    for solver in ("general_double", "double", "general", "symmetric"):
        assert found[solver]["zero"] == zeros
        assert sum(found[solver].values()) == TINY.size
    # rounding decides a few signs: another block width, another LAPACK
    assert abs(found["general_double"]["negative"] - int((by_numpy < 0).sum())) <= 6
    assert found["assembly"] == "products"  # not symmetric, as the paper's was
    alone = measure(store, "float32 signs", TINY)  # by inertia, of another assembly
    assert alone["general"] is None
    assert alone["assembly"] == "closed form"
    assert alone["zero_rows"] == zeros
    once = torch.from_numpy(matrix)
    inertia, by_eigenvalues = convention(once, general=False), convention(once).double
    values = torch.linalg.eigvalsh(((once + once.mT) / 2).double())
    solver = len(values) * torch.finfo(torch.float64).eps * float(values.abs().max())
    undecided = int((values.abs() <= inertia.margin + solver).sum()) - zeros
    assert undecided <= 6  # this matrix has eigenvalues of 1e-18 to 1e-12 beside a largest of 2.2
    assert abs(inertia.double.negative - by_eigenvalues.negative) <= undecided
    assert abs(alone["double"]["negative"] - inertia.double.negative) <= 6
    assert found["asymmetry"] < 1e-5


def test_a_closed_form_is_taken_where_float32_products_are_no_better(store):
    experiment = replace(TINY, sizes=(64, 4, 4, 10), objective="squared-error")
    model = store.model(experiment)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(16)  # softmax is saturated: float32 resolves little of H, whichever way it is made
    operator = hessian_of(experiment, model, dtype=torch.float32)
    matrix = torch.empty(operator.shape, dtype=torch.float32)
    assert closed_form.fill(operator, matrix)
    assert not closed_form.compare(operator, matrix, ALIKE).holds
    assert convention(operator, general=False).assembly == "closed form"


@pytest.mark.parametrize(("error", "assembly"), [(0.0, "closed form"), (1e-5, "products")])
def test_a_closed_form_that_is_worse_than_float32_products_is_refused(store, monkeypatch, error, assembly):
    fill = closed_form.fill

    def off(operator, matrix):
        filled = fill(operator, matrix)
        matrix *= 1 + error
        return filled

    monkeypatch.setattr(closed_form, "fill", off)
    monkeypatch.setattr("lanczos_saddle.studies.paper.convention.ALIKE", 0.0)
    operator = hessian_of(TINY, store.model(TINY), dtype=torch.float32)
    assert convention(operator, general=False).assembly == assembly


def test_the_convention_reads_rounding_as_signs():
    """Rank 40 of 300, known: every further sign is rounding, and about half of them are negative."""
    generator = torch.Generator().manual_seed(0)
    factor = torch.randn(300, 40, generator=generator)
    matrix = factor @ factor.mT
    matrix[7], matrix[:, 7] = 0, 0
    found = convention(matrix)
    assert found.general.zero == found.double.zero == 1
    assert found.general.negative > 60
    assert found.double.negative > 60
    alone = convention(matrix, general=False)
    assert alone.double == found.double
    living = torch.arange(300) != 7
    assert 0 < alone.margin < float(torch.linalg.eigvalsh(matrix.double()[living][:, living]).abs().min())
    assert found.margin is None
    assert found.assembly == "products"
    with pytest.raises(ValueError, match="float32"):
        convention(torch.eye(3, dtype=torch.float64))


def test_the_convention_asks_for_its_memory_first(monkeypatch):
    monkeypatch.setattr("lanczos_saddle.machine.memory.available_bytes", lambda _: 2**28 + 24 * 9 - 1)
    with pytest.raises(ValueError, match="solving the float32 matrix takes"):
        convention(torch.eye(3))


def test_signs_of_known_values():
    counted = signs(np.array([-1.0, -1e-300, 0.0, 2.0]), zeros=5)
    assert (counted.negative, counted.zero, counted.positive) == (2, 6, 1)


def test_a_finished_cell_is_not_computed_again(tmp_path):
    store = Store(tmp_path)
    calls = []

    def compute():
        calls.append(1)
        return {"value": 1.5}

    assert store.fill("kind", {"trial": 3}, compute) == store.fill("kind", {"trial": 3}, compute) == {"value": 1.5}
    assert Store(tmp_path).fill("kind", {"trial": 3}, compute) == {"value": 1.5}
    assert len(calls) == 1
    store.fill("kind", {"trial": 4}, compute)
    assert len(calls) == 2
    assert [record["seeds"] for record in store.all("kind")] == [3, 4]


def test_an_interrupted_cell_leaves_the_others(tmp_path):
    store = Store(tmp_path)
    store.fill("kind", {"trial": 0}, lambda: 1)
    with pytest.raises(KeyboardInterrupt):
        store.fill("kind", {"trial": 1}, lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    assert Store(tmp_path).find("kind", {"trial": 0}) == 1
    assert Store(tmp_path).find("kind", {"trial": 1}) is None


def test_a_line_that_is_not_whole_is_a_cell_that_is_not_there(tmp_path):
    store = Store(tmp_path)
    store.fill("kind", {"trial": 0}, lambda: 1)
    whole = store.path.read_bytes()
    store.path.write_bytes(whole + whole[: len(whole) // 2])  # a crash, or another process at work
    again = Store(tmp_path)
    assert again.find("kind", {"trial": 0}) == 1
    assert again.fill("kind", {"trial": 1}, lambda: 2) == 2
    assert Store(tmp_path).find("kind", {"trial": 0}) == 1
    assert Store(tmp_path).find("kind", {"trial": 1}) == 2


def test_weights_that_another_process_kept_first_stay(tmp_path, monkeypatch):
    """Two processes train one network, by other threads to other roundings: cells rest on the first one's weights."""
    store, path = Store(tmp_path), Store(tmp_path).weights(TINY)

    def other_first(experiment, **options):
        model, result = trained(experiment, **options)
        if not path.is_file():
            first, _ = untrained(experiment)
            save_checkpoint(path, first, {"experiment": experiment.parameters()})
        return model, result

    monkeypatch.setattr("lanczos_saddle.studies.paper.store.trained", other_first)
    kept = store.model(TINY).state_dict()
    assert all(torch.equal(kept[name], value) for name, value in untrained(TINY)[0].state_dict().items())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no\nrecords\n", "has no line that is a JSON object"),
        ("one line\n", "has no line that is a JSON object"),
        ('{"kind": "train", "result": {}}\n', "lacks parameters"),
        ("[1, 2, 3]\n", "one JSON object"),
    ],
)
def test_a_file_that_is_not_a_stores_is_refused(tmp_path, content, message):
    store = Store(tmp_path)
    store.path.write_text(content)
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            store.find("train", TINY.parameters())
    with pytest.raises(ValueError, match=message):
        store.fill("count", {}, lambda: 1)
    assert store.path.read_text() == content


def test_a_finished_store_trains_nothing(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.fill("train", TINY.parameters(), lambda: {"epochs": 5})
    monkeypatch.setattr("lanczos_saddle.studies.paper.store.trained", lambda *_, **__: pytest.fail("it trained"))
    with pytest.raises(ValueError, match="run without --report-only"):
        Store(tmp_path, finished=True).model(TINY)
    monkeypatch.setattr("lanczos_saddle.studies.paper.kept_weights.train", lambda *_, **__: pytest.fail("it trained"))
    with pytest.raises(ValueError, match="run without --report-only"):
        follow(Store(tmp_path, finished=True), TINY, [0], ["moment-exact"])


def test_weights_that_were_lost_come_back(store):
    before = store.model(TINY).state_dict()
    store.weights(TINY).unlink()
    after = store.model(TINY).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert len(store.all("train")) == len({json.dumps(record["parameters"]) for record in store.all("train")})


def test_weights_whose_record_was_cut_short_bring_it_along(tmp_path, monkeypatch):
    """Interrupted between the checkpoint and the line of its run, or within that line."""
    store = Store(tmp_path)
    before = store.model(TINY).state_dict()
    recorded = store.trained(TINY)
    store.path.write_text(store.path.read_text()[:40])
    again = Store(tmp_path)
    assert again.trained(TINY) is None
    monkeypatch.setattr("lanczos_saddle.studies.paper.store.trained", lambda *_, **__: pytest.fail("it trained again"))
    with pytest.raises(UnfinishedError):
        run_length(Store(tmp_path, finished=True), TINY)
    after = again.model(TINY).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert again.trained(TINY) == recorded
    assert run_length(again, TINY) == recorded["epochs"] * 12  # 1500 images, 128 a step


def test_weights_of_something_else_are_trained_anew(tmp_path):
    store = Store(tmp_path)
    save_checkpoint(store.weights(TINY), untrained(TINY)[0], {"experiment": replace(TINY, trial=1).parameters()})
    store.model(TINY)
    assert store.trained(TINY)["epochs"] > 0


def test_counts_of_other_weights_are_not_continued(tmp_path):
    """A store that came from another machine, where the same seed leads to other weights."""
    ours = Store(tmp_path / "ours")
    ours.model(TINY)
    record = json.loads(ours.path.read_text())
    record["result"]["loss"] *= 1 + 1e-6
    theirs = Store(tmp_path / "theirs")
    theirs.folder.mkdir()
    theirs.path.write_text(json.dumps(record) + "\n")
    with pytest.raises(ValueError, match="leads to others on this machine"):
        theirs.model(TINY)
    assert not theirs.weights(TINY).exists()


def test_a_finished_store_computes_nothing(tmp_path):
    store = Store(tmp_path, finished=True)
    with pytest.raises(UnfinishedError, match="has no cell structure"):
        measure(store, "structure", TINY)
    assert not list(tmp_path.iterdir())


def test_objectives_are_the_formulas():
    generator = torch.Generator().manual_seed(1)
    z, y = torch.randn(7, 10, generator=generator), torch.randint(0, 10, (7,), generator=generator)
    p = z.exp() / z.exp().sum(1, keepdim=True)
    by_hand = sum(((p[s] - torch.eye(10)[y[s]]) ** 2).sum() for s in range(7)) / 7
    assert float(softmax_squared_error(z, y)) == pytest.approx(float(by_hand), rel=1e-5)
    assert float(reconstruction(z, 0 * z)) == pytest.approx(float((z**2).sum() / 14), rel=1e-5)
    assert float(loss_for("cross-entropy")(z, y)) == float(cross_entropy(z, y))
    assert targets_for("reconstruction", z, y) is z
    assert targets_for("squared-error", z, y) is y
    with pytest.raises(ValueError, match="objective must be one of"):
        loss_for("hinge")


def test_settings_are_those_stated_and_those_of_the_code():
    stated, code = DIGITS.settings(), replace(DIGITS, objective="squared-error").settings()
    assert (stated.nesterov, stated.momentum, stated.batch, stated.tolerance) == (True, 0.9, 128, 1e-3)
    assert (code.nesterov, code.momentum, code.step, code.tolerance, code.epochs_max) == (False, 0.9, 0.1, 0.0, 100)
    noisy = replace(DIGITS, method="noisy-sgd")
    assert (noisy.settings().momentum, noisy.settings().nesterov) == (0.0, False)
    assert replace(noisy, objective="squared-error").settings().momentum == 0.9


def test_a_step_of_its_own_is_part_of_the_name():
    usual = replace(DIGITS, method="adagrad", objective="squared-error")
    other = replace(usual, step=0.003)
    assert (usual.settings().step, other.settings().step) == (0.01, 0.003)
    assert replace(usual.settings(), step=0.003) == other.settings()
    assert "step" not in usual.parameters()  # records made without one keep their names
    for experiment in (usual, other):
        assert Experiment.recorded({**experiment.parameters(), "probes": 4}) == experiment
    line = tables.Line(Store("nowhere"), "Adagrad", other, {})
    assert line.head == "Adagrad, squared-error, step 0.003"


def test_the_usual_step_is_the_row_of_its_own_table():
    steps = rows("steps", "mnist")
    assert [(row.label, row.experiment.settings().step) for row in steps] == [
        ("Momentum", 0.01),
        ("784-25-25-10", 0.01),
        ("784-25-25-25-10", 0.01),
        *(("Adagrad", step) for step in (0.001, 0.003, 0.01, 0.1)),
    ]
    table = next(row for row in rows("table1", "mnist") if row.label == "Adagrad")
    assert steps[5].variants() == [replace(table.experiment, objective="squared-error")]
    assert len({one.experiment for one in steps}) == len(steps)
    assert printed("steps", "mnist", "Adagrad") == printed("table1", "mnist", "Adagrad") != {}
    assert printed("steps", "mnist", "784-25-25-10") == printed("table8", "mnist", "784-25-25-10") != {}


def test_the_autoencoder_reconstructs(tmp_path):
    experiment = Experiment("digits", (64, 3, 64), method="sgd", objective="reconstruction")
    store = Store(tmp_path)
    store.model(experiment)
    run = store.find("train", experiment.parameters())
    assert run["losses"][-1] < 0.8 * run["losses"][0]
    assert run["test_accuracy"] == "nan"
    hessian = hessian_of(experiment, store.model(experiment))
    expected = dense_hessian(store, experiment)
    assert torch.allclose(hessian @ torch.eye(experiment.size).double(), expected, atol=1e-12)


def test_every_printed_number_belongs_to_a_row():
    everything = tomllib.loads((resources.files("lanczos_saddle.studies.paper") / "paper.toml").read_text())
    assert {"table1", "table2", "table3", "table5", "table7", "table8", "table9", "autoencoder"} == set(everything)
    for number, found in everything.items():
        for dataset, printed_rows in found.items():
            name = number if number != "table3" else {"mnist": "table1", "cifar10_features": "table2"}[dataset]
            assert set(printed_rows) <= {row.label for row in rows(name, dataset)}
            for label, numbers in printed_rows.items():
                assert set(numbers) <= set(printed(name, dataset, label))
    assert printed("table1", "mnist", "Momentum")["negative"].mean == 2383
    assert str(printed("table1", "mnist", "Adam")["accuracy"]) == "96"
    assert str(printed("table1", "mnist", "Momentum")["zero"]) == "1620 ± 8"  # in the paper's Table 3
    assert printed("table1", "mnist", "nobody") == {}


def test_sizes_are_those_of_the_paper():
    sizes = {row.label: row.experiment.size for table in table_names() for row in rows(table, "mnist")}
    assert sizes["Momentum"] == 19885
    assert sizes["784-25-25-10"] == 20535
    assert sizes["784-10-784"] == 16474
    assert rows("table2", "mnist") == []


def test_definitions():
    assert set(definitions.METHODS) == set(STEPS)
    assert "| he-printed |" in definitions.text("table6")
    assert "Dauphin" in definitions.text("table4")
    with pytest.raises(ValueError, match="table4 and table6"):
        definitions.text("table1")


def test_a_table_shows_what_the_store_has(store, monkeypatch):
    assert tables.markdown(store, "table1", ["digits"]) == ""  # of a larger network: nothing is there
    monkeypatch.setitem(_TABLES, "table1", lambda _: [Row("Momentum", TINY)])
    exact, known = measure(store, "exact", TINY), measure(store, "structure", TINY)
    certified = measure(store, "certified", TINY)["intervals"]["1e-04"][0]
    cells = [line.split(" | ") for line in tables.markdown(store, "table1", ["digits"]).splitlines()]
    negative = next(k for k, line in enumerate(cells) if line[0] == "| **negative**")
    row = cells[negative + 2]
    assert row[0] == "| Momentum, cross-entropy"
    assert row[3:9] == [
        str(exact["signs"]["negative"]),
        *(str(exact["counts"][tau][0]) for tau in ("1e-10", "1e-06", "1e-05", "1e-04", "1e-03")),
    ]
    assert row[9] == f"[{certified[0]}, {certified[2]}]"
    assert row[11] == f"≤ {known['negative_bound']} |"
    assert cells[4][-1] == "{:.1e} to {:.1e} |".format(*known["rescaling"])
    measure(store, "structure", replace(TINY, objective="squared-error"))
    assert "squared-error" in tables.markdown(store, "table1", ["digits"])
    assert "squared-error" not in tables.markdown(store, "table1", ["digits"], "cross-entropy")


def test_the_definitions_are_answered_as_classify_answers_them(store, monkeypatch):
    monkeypatch.setitem(_TABLES, "table1", lambda _: [Row("Momentum", TINY)])
    monkeypatch.setattr(verdicts, "TABLES", {"table1": "digits"})
    for kind in ("exact", "certified"):
        measure(store, kind, TINY)
    found = verdicts.facts(store, TINY)
    assert verdicts.facts(store, replace(TINY, objective="squared-error", trial=7)) is None
    ours = verdicts.verdicts(found)
    hessian = hessian_of(TINY, store.model(TINY))
    options = {"threshold": found.threshold, "epsilon": found.gradient_norm * (1 + 1e-6), "compare_hessians": False}
    theirs = classify(hessian, method="exact", **options).verdicts
    decided = {name for name, verdict in ours.items() if verdict.answer != "undecided"}
    assert {"critical", "minimum", "saddle", "degenerate_saddle", "strict"} <= decided
    assert {name: ours[name].answer for name in decided} == {name: theirs[name].answer for name in decided}
    assert theirs["stable"].answer == ours["stable"].answer == "undecided"
    line = verdicts.markdown(store).splitlines()[2]
    assert line.startswith("| 64-4-10, Momentum, cross-entropy |")
    assert line.endswith("| fails | fails | holds | holds | holds | undecided | undecided |")


def test_a_trial_whose_signs_were_found_twice_counts_once(tmp_path):
    """On a CPU by a symmetric solver, later on a GPU with the general ones."""
    store = Store(tmp_path)
    for kind, trial, negative in (("float32 signs", 0, 10), ("convention", 0, 10), ("convention", 1, 16)):
        signs_found = {"double": {"negative": negative, "zero": 0, "positive": 0}}
        store.fill(kind, replace(TINY, trial=trial).parameters(), lambda found=signs_found: found)
    line = tables.Line(store, "Momentum", TINY, {})
    assert line.its_way(0) == "13 ± 4"  # the mean of 10 and 16, sqrt(18)


def test_deviations_are_over_trials():
    assert "± " not in over_trials([3.0])
    assert over_trials([1.0, 2.0], 2) == "1.50 ± 0.71"
    assert over_trials([75, 75]) == "75"
    assert over_trials([0, 0]) == "0"
    assert over_trials([0, 1, 0, 0]) == "0.2 ± 0.5"  # 0.25


def test_a_bar_in_a_cell_does_not_end_it():
    assert table("a|b", [["|x|", 1]]).splitlines()[-1] == r"| \|x\| | 1 |"


def test_the_command_computes_prints_and_resumes(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(_TABLES, "table1", lambda _: [Row("Momentum", TINY)])
    folder = str(tmp_path / "store")
    arguments = ["reproduce", "table1", "table4", "--datasets", "digits", "--trials", "2", "--store", folder]
    assert main([*arguments, "--objective", "cross-entropy"]) == 0
    first = capsys.readouterr()
    assert "Momentum" in first.out
    assert "certified, 1e-04" in first.out
    assert [line.split("]")[0] for line in first.err.splitlines()] == [f"[{k}/5" for k in range(1, 6)]
    lines = (tmp_path / "store" / "records.jsonl").read_text().count("\n")
    assert main([*arguments, "--objective", "cross-entropy"]) == 0
    assert capsys.readouterr().err == ""  # nothing is left to do
    assert (tmp_path / "store" / "records.jsonl").read_text().count("\n") == lines
    assert (tmp_path / "store" / "table1.md").read_text().startswith("## table1")


def blobs(path, seed=0):
    """Three classes of 12 features, one of them blank, as an .npz file."""
    random = np.random.default_rng(seed)
    y = np.arange(240) % 3
    x = random.normal(size=(240, 12)) + 2 * np.eye(12)[y]
    x[:, 7] = 0
    np.savez(path, x_train=x[:180], y_train=y[:180], x_test=x[180:], y_test=y[180:])


def test_an_interrupt_says_how_to_continue(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(_TABLES, "table1", lambda _: [Row("Momentum", TINY)])

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("lanczos_saddle.cli.reproduce.measure", interrupted)
    arguments = ["reproduce", "table1", "--datasets", "digits", "--trials", "1", "--store", str(tmp_path), "--quiet"]
    assert main(arguments) == 130
    assert "0 of 8 done" in (said := capsys.readouterr().err)
    assert "the same command continues" in said
    assert "[1/" not in said  # quiet


@pytest.mark.slow
@pytest.mark.parametrize("asked", [("table5", "autoencoder"), None])
def test_every_row_of_every_table_on_data_of_ones_own(asked, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("lanczos_saddle.studies.paper.rows.HIDDEN", 3)
    monkeypatch.setattr("lanczos_saddle.studies.paper.experiments.EPOCHS", 8)
    monkeypatch.setattr("lanczos_saddle.studies.paper.rows.WIDTHS", (4,))
    names, data = [name for name in asked or table_names() if name != "table3"], tmp_path / "blobs.npz"
    blobs(data)
    known_as = os.path.relpath(data)  # whichever way it is spelled
    options = ["--datasets", str(data), "--trials", "1", "--store", str(tmp_path / "store"), "--quiet"]
    also = [name for name in ("table1", "table5", "table8") if name in names]  # under the squared error
    assert main(["reproduce", *names, "--objective", "cross-entropy", *options]) == 0
    assert main(["reproduce", *also, "--objective", "squared-error", *options]) == 0
    printed_pages = capsys.readouterr().out
    assert "not done" not in printed_pages
    done = [(name, "cross-entropy") for name in names if name not in also] + [(name, "squared-error") for name in also]
    for name, objective in done:
        page = (tmp_path / "store" / f"{name}.md").read_text()
        for row in rows(name, known_as):
            for variant in row.variants(objective):
                line = tables.Line(Store(tmp_path / "store"), row.label, variant, {})
                assert f"| {line.head} |" in page
                exact, structure, found = (line.results(kind)[0] for kind in ("exact", "structure", "convention"))
                assert structure["blank"] == variant.sizes[1]
                assert sum(exact["signs"].values()) == sum(found["double"].values()) == variant.size
                known = structure["dead"] + structure["shifts"]
                assert exact["counts"]["1e-10"][1] >= known
                assert f"≥ {known} |" in page
    run = Store(tmp_path / "store").find("train", rows("autoencoder", known_as)[0].experiment.parameters())
    assert run["settings"]["method"] == "saddle-free-newton"
    assert run["losses"][-1] < run["losses"][0]
    monkeypatch.chdir(tmp_path)
    assert options_dataset("./blobs.npz") == options_dataset(str(data)) == "blobs.npz"
    monkeypatch.undo()
    blobs(data, seed=1)
    assert main(["reproduce", "table5", *options]) != 0
    assert "the data of a store must stay the same" in capsys.readouterr().err


def test_perturbed_gradient_descent_is_perturbed(tmp_path):
    store, experiment = Store(tmp_path), replace(TINY, method="perturbed-gd")
    store.model(experiment)
    made = store.trained(experiment)["perturbations"]
    assert made > 0
    assert (
        tables.Line(store, "Perturbed GD", experiment, {}).head == f"Perturbed GD, cross-entropy, {made} perturbations"
    )


@pytest.mark.parametrize("failure", [ArithmeticError("no convergence"), torch.OutOfMemoryError("9 GiB"), MemoryError()])
def test_a_cell_that_fails_leaves_the_others_and_is_named(tmp_path, capsys, monkeypatch, failure):
    monkeypatch.setitem(_TABLES, "table1", lambda _: [Row("Momentum", TINY)])
    done = []

    def measured(store, kind, experiment, **options):
        if kind == "exact":
            raise failure
        done.append(kind)

    monkeypatch.setattr("lanczos_saddle.cli.reproduce.measure", measured)
    arguments = ["reproduce", "table1", "--datasets", "digits", "--trials", "1", "--objective", "cross-entropy"]
    assert main([*arguments, "--store", str(tmp_path), "--quiet"]) == 1
    assert done == ["structure", "certified", "convention"]
    assert "not done: exact of Experiment" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["reproduce", "table12"], "invalid choice"),
        (["reproduce", "table1", "--trials", "0"], "at least 1"),
        (["reproduce", "table1", "--datasets", "imagenet"], "a dataset is one of digits, mnist"),
        (
            ["reproduce", "fig2", "--datasets", "own.npz"],
            "figures are drawn of digits, mnist and cifar10_features alone",
        ),
        (["reproduce", "table1", "--device", "cuda:99"], "needs that CUDA device"),
        (["reproduce", "table1", "--report-only", "--store", "no-such-folder"], "name another --store"),
        (["reproduce", "table1", "--store", __file__], "is a file: name another"),
    ],
)
def test_the_command_refuses(arguments, words, capsys):
    assert main(arguments) == 2
    assert words in capsys.readouterr().err


def test_all_of_own_data_are_the_tables():
    assert set(_names(["all"], ["own.npz"])) == {*table_names(), "table4", "table6"}
    assert _names(["all"], ["digits"]) == _names(["all", "fig1"], ["mnist", "own.npz"]) == NAMES


def test_objectives_have_one_mean_over_samples():
    """Batches of any size add up to the whole: none of the objectives is a mean of means."""
    generator = torch.Generator().manual_seed(2)
    model = torch.nn.Linear(5, 4).double()
    x = torch.randn(9, 5, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 4, (9,), generator=generator)
    v = torch.randn(24, generator=generator, dtype=torch.float64)
    for name in ("cross-entropy", "squared-error"):
        whole = Hessian(model, loss_for(name), (x, y)) @ v
        parts = Hessian(model, loss_for(name), [(x[:7], y[:7]), (x[7:], y[7:])]) @ v
        torch.testing.assert_close(whole, parts)
    assert set(OBJECTIVES) == {"cross-entropy", "squared-error", "reconstruction"}
