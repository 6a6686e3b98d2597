import copy
import time

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lanczos_saddle import FailedCount, Hessian, SpectrumMonitor, WatchedMoment, count_eigenvalues, plot_training
from lanczos_saddle.monitor.moments import KIND
from lanczos_saddle.reports.records import read

X = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] * X[:, 1] > 0).long()
LOSS = nn.CrossEntropyLoss()


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.1), nn.Linear(6, 2))


def watched(steps=20, **options):
    """(monitor, the weights at each step) of a short training; the weights are the test's own copies."""
    model = network()
    asked = {"relative_threshold": 1e-3, "every": 10, "share": None, "probes": 2, "steps": 8}
    monitor = SpectrumMonitor(model, LOSS, (X, Y), **{**asked, **options})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    kept = {}
    for step in range(steps + 1):
        kept[step] = copy.deepcopy(model.state_dict())
        monitor.step(step, epoch=step / 10)
        optimizer.zero_grad()
        LOSS(model(X), Y).backward()
        optimizer.step()
    return monitor, kept


def dense(weights):
    """(all eigenvalues, the loss) of the mean loss in float64 and eval mode, by plain autograd over a flat vector."""
    model = network().double().eval()
    model.load_state_dict(weights)
    names, shapes = zip(*((name, p.shape) for name, p in model.named_parameters()), strict=True)
    theta = torch.cat([p.detach().reshape(-1) for p in model.parameters()])

    def mean(theta):
        parts = theta.split([shape.numel() for shape in shapes])
        values = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        return F.cross_entropy(torch.func.functional_call(model, values, (X.double(),)), Y)

    return torch.linalg.eigvalsh(torch.autograd.functional.hessian(mean, theta)), mean(theta)


def test_each_moment_counts_the_weights_of_its_step():
    monitor, kept = watched(method="exact")
    assert [moment.step for moment in monitor.moments] == [0, 10, 20]
    assert [moment.epoch for moment in monitor.moments] == [0.0, 1.0, 2.0]
    for moment in monitor.moments:
        assert isinstance(moment, WatchedMoment)
        values, loss = dense(kept[moment.step])
        tau = 1e-3 * float(values.abs().max())
        assert moment.counts.threshold == pytest.approx(tau, rel=1e-4)
        assert moment.counts.negative.estimate == int((values < -tau).sum())
        assert moment.counts.positive.estimate == int((values > tau).sum())
        assert moment.loss == pytest.approx(float(loss), rel=1e-9)
        assert moment.degeneracy == pytest.approx(float((values.abs() <= tau).double().mean()))
    assert monitor.moments[0].counts.negative != monitor.moments[-1].counts.negative  # the curve says something


def test_sampled_counts_are_those_of_the_same_probes_and_hold():
    monitor, kept = watched()
    for moment in monitor.moments:
        model = network().eval()
        model.load_state_dict(kept[moment.step])
        H = Hessian(model, LOSS, (X, Y), dtype=torch.float64)
        generator = torch.Generator().manual_seed(0)
        asked = {"relative_threshold": 1e-3, "method": "lanczos", "probes": 2, "steps": 8}
        same = count_eigenvalues(H, generator=generator, **asked)
        assert (moment.counts.negative, moment.counts.near_zero) == (same.negative, same.near_zero)
        values, tau = dense(kept[moment.step])[0], moment.counts.threshold
        assert int((values < -tau).sum()) in moment.counts.negative
        assert int((values > tau).sum()) in moment.counts.positive


def test_what_is_told_and_recorded_is_what_was_seen(tmp_path):
    told, path = [], tmp_path / "watch.jsonl"
    monitor, _ = watched(method="exact", log_fn=lambda *said: told.append(said), record=path)
    lines = read(path)
    assert [step for _, step in told] == [0, 10, 20]
    for (numbers, _), line, moment in zip(told, lines, monitor.moments, strict=True):
        counts = moment.counts
        assert numbers["hessian/negative"] == counts.negative.estimate == line["result"]["negative"]["estimate"]
        assert numbers["hessian/near_zero_upper"] == counts.near_zero.upper == line["result"]["near_zero"]["upper"]
        assert numbers["hessian/degeneracy"] == moment.degeneracy
        assert line["kind"] == KIND
        assert line["result"]["near_zero"] == moment.result()["near_zero"]
        assert (line["products"], line["seconds"]) == (counts.products, moment.seconds)
        assert line["parameters"]["relative_threshold"] == 1e-3
    assert "hessian/share" not in told[0][0]  # no training yet: not a number that a dashboard draws
    assert told[2][0]["hessian/share"] > 0


def test_its_figure_is_drawn_from_the_records(tmp_path):
    pytest.importorskip("matplotlib")
    monitor, _ = watched(record=tmp_path / "watch.jsonl")
    results = [line["result"] for line in read(tmp_path / "watch.jsonl")]
    for name in ("a.png", "a.svg"):
        plot_training(tmp_path / name, results, title="a run")
    plot_training(tmp_path / "now.png", [moment.result() for moment in monitor.moments], title="a run")
    assert (tmp_path / "now.png").read_bytes() == (tmp_path / "a.png").read_bytes()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "negative eigenvalues" in (tmp_path / "a.svg").read_text() or (tmp_path / "a.svg").stat().st_size > 1e4
    with pytest.raises(ValueError, match="one moment"):
        plot_training(tmp_path / "b.png", [])


def test_what_cannot_be_afforded_is_left_out_and_said():
    monitor, _ = watched(steps=40, share=1e-6)
    assert [moment.step for moment in monitor.moments] == [0]  # on credit
    assert monitor.left_out == 4
    said = str(monitor)
    assert "4 that were due are left out" in said
    assert "0.0001 % allowed" in said
    assert "within the share from" in said
    assert monitor.used > 1e-6


def test_a_step_is_counted_once_and_steps_may_be_counted_by_themselves():
    monitor = SpectrumMonitor(network(), LOSS, (X, Y), threshold=1e-3, every=2, share=None, method="exact")
    assert monitor.step() is not None  # the first
    assert monitor.step().step == 2
    assert monitor.step(2) is None
    assert monitor.step() is None
    assert monitor.step().step == 4
    assert monitor.count(5).step == 5  # when it is asked for


def penalized(net, z, y):
    return F.cross_entropy(z, y) + 0.1 * sum(p.square().sum() for p in net.parameters())


def test_a_loss_that_reads_the_trained_model_is_refused_and_an_operator_takes_it():
    model = network()
    asked = {"threshold": 1e-3, "share": None, "method": "exact"}
    closed = SpectrumMonitor(model, lambda z, y: penalized(model, z, y), (X, Y), **asked)
    assert closed.step(0) is None
    assert isinstance(closed.failures[0], FailedCount)
    assert "of its own" in closed.failures[0].reason

    def operator(net):
        x = X.double()
        return Hessian.of(lambda: penalized(net, net(x), Y), net.double())

    seen = SpectrumMonitor(model, operator=operator, **asked).step(0)
    plain = dense(model.state_dict())[0] + 0.2  # the Hessian of 0.1 |theta|^2 is 0.2 times the identity
    assert seen.counts.positive.estimate == int((plain > 1e-3).sum())
    assert seen.counts.negative.estimate == int((plain < -1e-3).sum())


def test_the_same_samples_at_every_count():
    monitor = SpectrumMonitor(network(), LOSS, (X, Y), threshold=1e-3, share=None, method="exact", samples=20)
    assert [len(part) for part in monitor.data] == [20, 20]
    assert monitor.count(0).loss == monitor.count(1).loss


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threshold": None}, "one of threshold"),
        ({"threshold": -1.0}, "threshold"),
        ({"every": 0}, "every must be at least 1"),
        ({"samples": 0}, "samples must be at least 1"),
        ({"share": 2.0}, "share"),
        ({"probes": 0}, "probes"),
        ({"steps": 0}, "steps"),
        ({"method": "guess"}, "method"),
        ({"log_fn": 3}, "log_fn must be callable"),
        ({"operator": lambda net: net}, "got both"),
        ({"data": None}, "got neither"),
        ({"data": iter([(X, Y)])}, "one-shot"),
        ({"parameters": "nothing.*"}, "match"),
        ({"model": lambda x: x}, "torch.nn.Module"),
    ],
)
def test_misuse_is_refused_before_training(options, said):
    asked = {"model": network(), "loss": LOSS, "data": (X, Y), "threshold": 1e-3, **options}
    with pytest.raises(ValueError, match=said):
        SpectrumMonitor(asked.pop("model"), asked.pop("loss"), asked.pop("data"), **asked)


def test_tensorboard_takes_the_numbers(tmp_path):
    tensorboard = pytest.importorskip("torch.utils.tensorboard", reason="tensorboard is not installed")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with tensorboard.SummaryWriter(tmp_path) as writer:

        def log(numbers, step):
            for name, value in numbers.items():
                writer.add_scalar(name, value, step)

        monitor, _ = watched(method="exact", log_fn=log)
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    written = events.Scalars("hessian/negative")
    assert [(e.step, e.value) for e in written] == [(m.step, m.counts.negative.estimate) for m in monitor.moments]


def test_mlflow_takes_the_numbers(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(tmp_path.as_uri())
    try:
        mlflow.set_experiment("watched")
        with mlflow.start_run() as run:
            monitor, _ = watched(method="exact", log_fn=lambda numbers, step: mlflow.log_metrics(numbers, step=step))
        written = mlflow.MlflowClient().get_metric_history(run.info.run_id, "hessian/negative")
    finally:
        mlflow.set_tracking_uri(before)
    assert [(m.step, m.value) for m in written] == [(m.step, m.counts.negative.estimate) for m in monitor.moments]


def test_weights_and_biases_takes_the_numbers(tmp_path):
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    with wandb.init(mode="offline", dir=tmp_path, settings=wandb.Settings(silent=True)) as run:
        monitor, _ = watched(method="exact", log_fn=lambda numbers, step: run.log(numbers, step=step))
        last = monitor.moments[-1]
        run.log({"end": 1}, step=last.step + 1)  # a step is taken when the next one begins, by another process
        deadline = time.monotonic() + 60
        while run.summary.get("hessian/negative") != last.counts.negative.estimate and time.monotonic() < deadline:
            time.sleep(0.1)
        assert run.summary.get("hessian/negative") == last.counts.negative.estimate


def test_the_account_is_that_of_a_clock_around_every_call():
    """Calls that count and calls that do not, by a clock of the test's own."""
    ticks = [0.0]

    def clock():
        ticks[0] += 1.0  # every look at it takes a second
        return ticks[0]

    monitor = SpectrumMonitor(network(), LOSS, (X, Y), relative_threshold=1e-3, every=5, share=None, probes=1, steps=3)
    account = monitor.account
    account.now, account.spent, account._before = clock, 0.0, 0.0
    for step in range(12):
        before, booked = ticks[0], account.spent
        seen = monitor.step(step)
        around, booked = ticks[0] - before, account.spent - booked
        if seen is None:
            assert booked == around
        else:  # but for looks before the measurement began: enter, affords, training so far
            assert around - 6 <= booked <= around
        ticks[0] += 100.0  # training
    assert len(monitor.moments) == 3


def test_reading_the_data_is_booked_and_is_no_training():
    class Slow(list):
        def __iter__(self):
            time.sleep(0.2)
            return super().__iter__()

    monitor = SpectrumMonitor(network(), LOSS, Slow([(X, Y)]), relative_threshold=1e-3, probes=1, steps=3, samples=9)
    assert monitor.account.spent >= 0.2
    assert monitor.account.training == 0.0
    monitor.step(0)
    assert 0 <= monitor.account.training < 0.2


def test_a_count_that_cannot_be_told_is_kept_and_returned(caplog):
    def log(numbers, step):
        raise OSError("the disk is full")

    monitor = SpectrumMonitor(network(), LOSS, (X, Y), relative_threshold=1e-3, log_fn=log, probes=1, steps=3)
    moment = monitor.step(0)
    assert moment is monitor.moments[0]
    assert [failure.reason for failure in monitor.failures] == ["OSError: the disk is full"]
    assert "telling the count at step 0 failed" in caplog.text


def test_anomaly_mode_of_the_training_says_nothing_of_a_count(recwarn):
    monitor = SpectrumMonitor(network(), LOSS, (X, Y), relative_threshold=1e-3, probes=1, steps=3)
    with torch.autograd.set_detect_anomaly(True):
        assert monitor.step(0) is not None
        assert torch.is_anomaly_enabled()
    assert not torch.is_anomaly_enabled()
    assert [str(warning.message) for warning in recwarn if "Error detected" in str(warning.message)] == []
