"""Each network of validate/networks.py at a tiny size, against dense matrices of differences of its own gradients."""

import fnmatch
import math
import re
from pathlib import Path

import networks
import numpy as np
import pytest
import torch
from networks_zoo import counting, data, invariances, models, padding, silent, tables, training
from oracles import differences
from torch import nn
from torch.nn import functional as F

from lanczos_saddle.krylov.lanczos import Tridiagonalization
from lanczos_saddle.reports.records import read

TEXT = ["--bytes=603", "--length=8", "--pieces=4", "--train-steps=3", "--width=4"]
GPT = [*TEXT, "--layers=1", "--heads=2"]
IMAGES = ["--data=noise", "--images=4", "--train-images=10", "--epochs=1", "--steps=6"]


def run(tmp_path, *arguments):
    """The record's result."""
    out = tmp_path / "records.jsonl"
    assert networks.main([*arguments, f"--cache={tmp_path / 'cache'}", f"--out={out}"]) == 0
    return read(out)[-1]["result"]


def caught(monkeypatch, place, name):
    """What a function returns is kept."""
    kept, function = [], getattr(place, name)

    def wrapped(*arguments, **options):
        kept.append((arguments, function(*arguments, **options)))
        return kept[-1][1]

    monkeypatch.setattr(place, name, wrapped)
    return kept


def dense(function, parameters):
    matrix = differences(function, list(parameters))
    return (matrix + matrix.T) / 2


def counts(values, tau):
    return [int((values < -tau).sum()), int((values.abs() <= tau).sum()), int((values > tau).sum())]


def text_loss(model, given):
    """Written out, as transformers takes logits into float32 before its loss."""
    logits = model(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), given["labels"][:, 1:].flatten())


def holds(row, matrix):
    """The eigenvalues of an independent matrix lie in the intervals, and none so near tau that differences decide."""
    values = torch.linalg.eigvalsh(matrix)
    assert float((values.abs() - row["threshold"]).abs().min()) > 1e-5 * row["threshold"]
    wanted = counts(values, row["threshold"])
    assert all(row[name]["lower"] <= n <= row[name]["upper"] for name, n in zip(tables.NAMES, wanted, strict=True))
    assert row.get("exact", wanted) == wanted


def test_the_heat_equation_is_counted_as_differences_of_its_gradient_say(tmp_path, monkeypatch):
    made = caught(monkeypatch, models, "Heat")
    result = run(tmp_path, "pinn", "--width=4", "--train-steps=30", "--steps=20", "--relative", "1e-1", "1e-2")
    heat = made[0][1]
    matrix = dense(heat.loss, heat.net.parameters())
    for row in result["rows"]:
        holds(row, matrix)
    assert len(result["rows"]) == 2
    assert result["error"] < 1


def test_the_residual_of_the_solution_itself_is_zero():
    heat = models.Heat(2, 50, seed=0)

    class Exact(nn.Module):
        def forward(self, at):
            return heat.solution(at)[:, None]

    heat.net = Exact()
    assert float(heat.residual().detach()) < 1e-24
    assert float(heat.given().detach()) < 1e-24
    assert heat.error() == 0


def test_addition_is_counted_at_every_checkpoint(tmp_path, monkeypatch):
    made = caught(monkeypatch, networks, "hessian")
    size = ["--modulus=3", "--width=4", "--heads=2", "--train-steps=4", "--checkpoints=2", "--exact-at=1"]
    result = run(tmp_path, "modular", *size, "--steps=40", "--relative", "1e-1")
    assert [one["step"] for one in result["checkpoints"]] == [0, 4]
    assert result["size"] == 4 * 4 + 3 * 4 + 4 * 3 + 4 * 16 + 2 * 64 + 16 + 4
    for ((model, loss, (x, y), _), _), one in zip(made, result["checkpoints"], strict=True):
        holds(one["rows"][0], dense(lambda model=model, loss=loss, x=x, y=y: loss(model(x), y), model.parameters()))
    assert "exact" in result["checkpoints"][1]["rows"][0]
    assert "exact" not in result["checkpoints"][0]["rows"][0]


def test_the_network_of_addition_at_its_full_size():
    assert sum(p.numel() for p in models.Arithmetic(113, 128, 4).parameters()) == 226_688
    tokens, answers, train = data.residues(113, 0.3, seed=0)
    assert bool(((tokens[:, 0] + tokens[:, 1] - answers) % 113 == 0).all())
    assert len({tuple(pair) for pair in tokens[:, :2].tolist()}) == 113**2
    assert int(train.sum()) == round(0.3 * 113**2)


@pytest.mark.slow
def test_an_lstm_has_zero_rows_where_bytes_do_not_occur(tmp_path, monkeypatch):
    made = caught(monkeypatch, networks, "hessian")
    result = run(tmp_path, "lstm", *TEXT, "--hidden=3", "--steps=6", "--parts", "--part-steps=90")
    rows = {row["part"]: row for row in result["rows"] if row["relative_threshold"] == 1e-2}
    assert rows["all"]["dead"] == rows["embed"]["dead"] == result["foretold_dead"] == 4 * result["unused_bytes"]
    (model, loss, (x, y), _), _ = made[0]
    model.double()
    holds(rows["net"], dense(lambda: loss(model(x), y), model.net.parameters()))


@pytest.fixture
def gpt(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    made = caught(monkeypatch, networks, "hessian")
    result = run(tmp_path, "gpt", *GPT, "--steps=6", "--parts", "--part-steps=38", "--relative", "1e-2")
    (model, _, given, _), make = made[0]
    return result, model.double(), given, make


def test_a_head_is_its_part_of_the_matrix(gpt):
    result, model, given, make = gpt
    attention = model.transformer.h[0].attn
    matrix = dense(lambda: text_loss(model, given), attention.parameters())
    rest = 4 * 12
    columns = [row * 12 + c for row in range(4) for c in (2, 3, 6, 7, 10, 11)]  # of c_attn.weight (4, 3 x 2 x 2)
    index = torch.tensor([*columns, *(rest + c for c in (2, 3, 6, 7, 10, 11)), *(rest + 12 + 8 + i for i in range(8))])
    assert len(index) == 38
    wanted = matrix[index][:, index]
    part = counting.Case(make).operator(counting.head(0, 1, 2))
    columns = part @ torch.eye(38, dtype=torch.float64)
    torch.testing.assert_close(columns, wanted, rtol=0, atol=1e-6 * float(matrix.norm()))
    (row,) = [one for one in result["rows"] if one["part"] == "layer 1, head 2"]
    holds(row, wanted)


def test_tied_embeddings_are_one_parameter_and_masked_bytes_none(gpt):
    result, model, given, make = gpt
    assert result["null"]["foretold"] == 41
    assert max(result["null"]["lengths"].values()) < 1e-5 < 1e-2 < result["null"]["other"]
    assert result["size"] == 256 * 4 + 8 * 4 + (4 * 12 + 12 + 16 + 4 + 2 * 64 + 16 + 4 + 4 * 4) + 8
    assert result["masked_tokens"] == int((given["attention_mask"] == 0).sum()) > 0
    operator = make("*")
    parameters = [p for _, p in model.named_parameters()]
    v = torch.randn(result["size"], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    parts, slopes = v.split([p.numel() for p in parameters]), []
    for step in (1e-6, -2e-6):  # a central difference: the weights, of 0.02 here, go there and to the other side
        for p, part in zip(parameters, parts, strict=True):
            p.data += step * part.view_as(p)
        slopes.append(torch.autograd.grad(text_loss(model, given), parameters))
    wanted = torch.cat([(a - b).reshape(-1) / 2e-6 for a, b in zip(*slopes, strict=True)])
    torch.testing.assert_close(operator @ v, wanted, rtol=0, atol=1e-6 * float(wanted.norm()))
    changed = given | {"input_ids": torch.where(given["attention_mask"] == 0, 77, given["input_ids"])}
    for p, part in zip(parameters, parts, strict=True):
        p.data += 1e-6 * part.view_as(p)
    other = networks.Hessian(model, None, changed, dtype=torch.float64)
    torch.testing.assert_close(other @ v, operator @ v, rtol=1e-9, atol=1e-12)


@pytest.fixture
def transformer(request):
    """(model in float64, its loss as a function, the families of its null vectors, its problem)."""
    torch.manual_seed(0)
    if request.param == "gpt":
        pytest.importorskip("transformers")
        model = models.gpt2(1, 4, 2, 8).double()
        given = training.batch_of(data.spread(data.windows(data.sources("json/*.py", 603), 8), 4))
        operator = networks.Hessian(model, None, given, dtype=torch.float64, fidelity=False)
        return model, lambda: text_loss(model, given), invariances.of_gpt2(1, 4, 8), operator.problem
    model, (x, y, _, _) = models.Vision(1, 8, 2).double(), data.noise(3, 1)
    operator = networks.Hessian(model, F.cross_entropy, (x, y), dtype=torch.float64, fidelity=False)
    loss, known = (lambda: F.cross_entropy(model(x.double()), y)), invariances.of_vision(1, 8, 64, 48, 10)
    return model, loss, known, operator.problem


def change(model, loss, basis):
    """How much the loss changes along a random combination of the columns, at three random points."""
    parameters, found = list(model.parameters()), []
    generator = torch.Generator().manual_seed(0)

    def moved(v):
        for p, part in zip(parameters, v.split([p.numel() for p in parameters]), strict=True):
            p.data += part.view_as(p)
        return float(loss().detach())

    for _ in range(3):
        before = moved(torch.randn(len(basis), dtype=torch.float64, generator=generator))
        along = torch.randn(basis.shape[1], dtype=torch.float64, generator=generator)
        found.append(abs(moved(basis @ along) - before))
    return max(found)


def basis_of(problem, *families):
    units = [one.place(unit) for one in families for unit in torch.eye(one.dimension, dtype=torch.float64)]
    return torch.stack([invariances.vector(problem, parts) for parts in units], 1)


@pytest.mark.parametrize(
    ("transformer", "total"), [("gpt", 4 + 22 + 7 + 4 + 4), ("vit", 8 + 42 + 113 + 7 + 9)], indirect=["transformer"]
)
def test_the_null_vectors_of_a_transformer_are_independent_and_change_no_loss(transformer, total):
    model, loss, families, problem = transformer
    basis = basis_of(problem, *families.values())
    assert int(torch.linalg.matrix_rank(basis)) == basis.shape[1] == total
    assert change(model, loss, basis) < 1e-10
    for name in problem.names:
        if name.endswith(("attn.c_attn.bias", "inward.bias")):
            for place in (0, 2):  # of queries and values
                wrong = torch.zeros(3, problem.shapes[name][0] // 3, dtype=torch.float64)
                wrong[place] = 1
                assert change(model, loss, invariances.vector(problem, {name: wrong})[:, None]) > 1e-6


def test_adapters_alone_are_counted(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    made = caught(monkeypatch, networks, "hessian")
    tuned = ["--rank=2", "--tuned-steps=3", "--tuned-on=json/*.py"]
    result = run(tmp_path, "lora", *GPT, *tuned, "--steps=32", "--parts", "--relative", "1e-1")
    (model, _, given, _), _ = made[0]
    model.double()
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert result["size"] == 2 * (4 + 12) == sum(p.numel() for p in trainable)
    holds(result["rows"][0], dense(lambda: text_loss(model, given), trainable))


def test_an_adapter_adds_a_product_of_low_rank():
    base = nn.Linear(5, 7)
    adapter = models.Adapted(base, 5, 7, 2)
    x = torch.randn(3, 5)
    assert torch.equal(adapter(x), base(x))
    with torch.no_grad():
        adapter.lora_b.normal_()
    torch.testing.assert_close(adapter(x), x @ (base.weight.T + adapter.lora_a @ adapter.lora_b) + base.bias)


@pytest.mark.parametrize("network", [pytest.param("resnet", marks=pytest.mark.slow), "vit"])
def test_networks_on_images_leave_a_record(tmp_path, network):
    small = ["--width=1"] if network == "resnet" else ["--width=8", "--layers=1", "--heads=2"]
    result = run(tmp_path, network, *IMAGES, *small)
    assert result["epochs"] == 1
    assert network == "resnet" or max(result["null"]["lengths"].values()) < 1e-10 < 1e-2 < result["null"]["other"]
    for row in result["rows"]:
        assert row["size"] == result["size"]
        assert sum(row["plain"]["weights"]) == pytest.approx(row["size"])
        assert sum(row["plain"]["smoothed"]) == pytest.approx(row["size"])


@pytest.mark.parametrize(
    "network",
    [
        "resnet",
        pytest.param("vit", marks=pytest.mark.slow),
        "lstm",
        "gpt",
        pytest.param("lora", marks=pytest.mark.slow),
    ],
)
def test_the_parts_of_a_network_are_all_of_it(tmp_path, monkeypatch, network):
    if network in ("gpt", "lora"):
        pytest.importorskip("transformers")
    small = {"resnet": ["--width=1"], "vit": ["--width=8", "--layers=2", "--heads=2"], "lstm": [*TEXT, "--hidden=3"]}
    small |= {"gpt": [*GPT, "--layers=2"], "lora": [*GPT, "--layers=2", "--tuned-steps=1", "--tuned-on=json/*.py"]}
    cases, models_of = [], caught(monkeypatch, networks, "hessian")
    cost = {"loss": 0.0, "gradient": 0.0, "products": 0, "seconds": 0.0, "peak_bytes": 0}
    monkeypatch.setattr(networks, "counted", lambda case, _: cases.append(case) or {"size": 1, "rows": [], **cost})
    run(tmp_path, network, *(IMAGES if network in ("resnet", "vit") else []), *small[network])
    first = run(tmp_path, network, *(IMAGES if network in ("resnet", "vit") else []), *small[network])
    assert first["weights"] == cases[0].said["weights"]  # the second run has found what the first has kept
    model = models_of[0][0][0]
    patterns = [part.pattern for part in cases[0].parts.values() if part.index is None]
    patterns = [[one] if isinstance(one, str) else one for one in patterns]
    for name, p in model.named_parameters():
        uses = sum(any(fnmatch.fnmatchcase(name, pattern) for pattern in several) for several in patterns)
        assert uses == 1 or not p.requires_grad, name


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (2, 3, 2, 1), (4, 3, 2, 1), (5, 3, 1, 1), (2, 7, 2, 3), (3, 5, 3, 4)])
def test_what_a_kernel_entry_sees(shape):
    length, kernel, stride, pad = shape
    weight = torch.zeros(1, 1, kernel, 1, requires_grad=True)
    image = torch.ones(1, 1, length, 1)
    slope = torch.autograd.grad(F.conv2d(image, weight, stride=(stride, 1), padding=(pad, 0)).sum(), weight)[0]
    assert padding.seen(*shape) == (slope.flatten() > 0).tolist()


@pytest.mark.parametrize("width", [1, 8, 64])
def test_the_weights_that_see_padding_alone_of_a_resnet_in_its_imagenet_form(width):
    """Two rows and columns of three at the stride of the last stage, one of three behind: 5 and 8 of 9 entries."""
    with torch.device("meta"):
        model, other, image = models.resnet(width, "imagenet"), models.resnet(width, "cifar"), torch.empty(1, 3, 32, 32)
    found = padding.padding_only(model.eval(), image)
    assert padding.total(found) == 5 * 4 * width * 8 * width + 3 * 8 * (8 * width) ** 2
    assert width != 64 or padding.total(found) == 6_946_816
    assert padding.total(padding.padding_only(other.eval(), image)) == 0


def test_weights_that_see_padding_alone_are_the_zero_rows_of_the_dense_matrix():
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 2, 3, 2, 1), nn.Tanh(), nn.Conv2d(2, 2, 3, 1, 1), nn.Tanh(), nn.Flatten(), nn.Linear(2, 3)]
    model = nn.Sequential(*layers).double()
    x, y = torch.randn(6, 1, 2, 2, dtype=torch.float64), torch.randint(3, (6,))
    zero = (dense(lambda: F.cross_entropy(model(x), y), model.parameters()) == 0).all(1)
    blind = padding.padding_only(model, x)
    none = {name: torch.zeros(p.shape, dtype=torch.bool) for name, p in model.named_parameters()}
    wanted = torch.cat([(none | blind)[name].flatten() for name in none])
    assert torch.equal(zero, wanted)
    assert int(zero.sum()) == 2 * 5 + 4 * 8


@pytest.mark.parametrize(("width", "form"), [(2, "imagenet"), (1, "cifar")])
def test_what_no_sample_feels_has_no_slope_in_any_sample(width, form):
    torch.manual_seed(0)
    model, (x, y, _, _) = models.resnet(width, form), data.noise(4, 1)
    model(x)  # what it normalizes by
    model, x = model.double().eval(), x.double()
    found = silent.unfelt(model, x)
    slopes = dict.fromkeys(dict(model.named_parameters()), 0.0)
    for one, label in zip(x.split(1), y.split(1), strict=True):
        loss = F.cross_entropy(model(one), label)
        for name, slope in zip(slopes, torch.autograd.grad(loss, list(model.parameters())), strict=True):
            slopes[name] = slopes[name] + slope.abs()
    assert set(slopes) - set(found) == {"head.bias"}
    assert all(torch.equal(found[name], slopes[name] == 0) for name in found)
    alone = padding.total(padding.padding_only(model, x))
    assert alone == (1696 * width**2 if form == "imagenet" else 0)
    assert silent.total(found) > alone


@pytest.mark.slow
def test_what_is_foretold_is_found_by_products(tmp_path):
    found = run(tmp_path, "imagenet", *IMAGES, "--width=1", "--seed=2")["padding"]
    assert found["foretold"] == found["foretold_and_dead"] == 1696
    assert found["columns_not_zero"] == 0
    assert found["foretold"] < found["unfelt"] == found["unfelt_and_dead"] == found["dead"]
    assert found["others_not_zero"] == found["checked"] == networks.CHECKED


def test_a_plain_density_of_an_atom_at_zero():
    """One node at 0: weights have it near zero, a Gaussian of variance 1e-5 on [-0.01, 0.01] puts most beyond tau."""
    atom = Tridiagonalization(np.zeros((1, 1)), np.zeros((1, 1)), np.ones(1, dtype=np.int64), np.ones(1))
    tau, sigma = 1e-3, 1e-5**0.5
    read_off = counting.readings(atom, size=1000, zeros=0, tau=tau)
    near = math.erf(tau / sigma / 2**0.5) / math.erf(0.01 / sigma / 2**0.5)
    assert read_off["weights"] == [0, 1000, 0]
    assert read_off["smoothed"] == pytest.approx([500 * (1 - near), 1000 * near, 500 * (1 - near)], rel=1e-3)
    one = Tridiagonalization(np.ones((1, 1)), np.zeros((1, 1)), np.ones(1, dtype=np.int64), np.ones(1))
    assert counting.readings(one, size=1000, zeros=250, tau=tau)["weights"] == [0, 250, 750]


def test_pieces_of_files_are_all_of_them():
    files = data.sources("json/*.py", 5000)
    items = data.windows(files, 16)
    assert b"".join(bytes(row[m == 1].tolist()) for row, m in zip(*items, strict=True)) == b"".join(files)
    few = data.spread(items, 4)
    assert len(few.tokens) == 4
    assert bool((few.mask == 0).any())
    assert int((data.labels(few) == data.IGNORED).sum()) == int((few.mask == 0).sum())
    x, y = training.shifted(few)
    assert bool((x[:, 1:] == y[:, :-1])[y[:, :-1] != data.IGNORED].all())


def test_a_reading_outside_its_interval_is_bold():
    bounds = {name: {"lower": 10, "estimate": 15, "upper": 20} for name in tables.NAMES}
    plain = {"weights": [10, 15, 20.6], "smoothed": [9.4, 20.4, 15]}
    row = {"part": "all", "relative_threshold": 1e-2, "threshold": 3e-3, "plain": plain, **bounds}
    record = {"parameters": {"network": "pinn"}, "result": {"size": 45, "rows": [row]}}
    shown = tables.blocks([record])("plain").splitlines()[-1]
    assert "10 / 15 / **21**" in shown
    assert "**9** / 20 / 15" in shown


def test_null_vectors_are_shown_beside_what_products_make_of_them():
    null = {"dimensions": {"biases of keys": 640}, "foretold": 640, "lengths": {"biases of keys": 3e-9}, "other": 0.96}
    record = {"parameters": {"network": "gpt"}, "result": {"size": 1_000_000, "null": null}}
    shown = tables.blocks([record])("null-gpt").splitlines()
    assert shown[2] == "| biases of keys | 640 | 3e-09 |"
    assert shown[3:] == ["| foretold in all | 640 |  |", "| any other vector |  | 1.0 |"]


def test_the_commands_of_the_page_are_taken():
    page = (Path(networks.__file__).parents[1] / "docs" / "networks.md").read_text(encoding="utf-8")
    found = re.findall(r"^    python validate/networks\.py ([^#\n]*)", page, re.MULTILINE)
    assert {line.split()[0] for line in found} == set(networks.NETWORKS)
    for line in found:
        networks.parsed(line.split())
