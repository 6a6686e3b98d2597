"""Real networks, trained briefly and counted: one command each; each finishes within minutes on two cores.

    python validate/networks.py pinn                  # the heat equation, N = 1,185, judged by all eigenvalues
    python validate/networks.py modular               # (a + b) mod p along grokking, ten checkpoints
    python validate/networks.py lstm --parts          # bytes of the standard library's sources
    python validate/networks.py gpt --parts           # GPT-2 of transformers, N = 1.0 million, by layer and head
    python validate/networks.py lora                  # the adapters of that GPT-2 alone
    python validate/networks.py imagenet              # a ResNet-18 in its ImageNet form on 32 x 32 images
    python validate/networks.py resnet --parts        # a ResNet-18 of 16 channels, N = 0.7 million, by stage
    python validate/networks.py vit
    python validate/networks.py pinn --steps 5 --train-steps 5 --width 4 --out /dev/null    # does it work?

Images come from $LANCZOS_SADDLE_DATA (--data noise does without). `gpt` and `lora` need transformers, which
`make test-watch` installs in .venv-watch, or validate/requirements-models.txt. Weights are kept in a cache folder.
Appends a record to validate/results/networks.jsonl; `python validate/pages.py` makes docs/networks.md of the records.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from networks_zoo import data, invariances, models, padding, silent, training
from networks_zoo.counting import NAMES, Asked, Case, Part, counted, head
from torch import nn
from torch.nn import functional as F

from lanczos_saddle import Hessian, dead_coordinates
from lanczos_saddle.reports.records import Record, append
from lanczos_saddle.training.data_files import cache_root

RESULTS = Path(__file__).parent / "results" / "networks.jsonl"
SMALL = {"layers": 5, "width": 128, "heads": 4, "train_steps": 600}
"""Of the GPT-2: N = 1.0 million."""

CHECKED = 32
"""Weights that see padding alone, and as many that see more, whose columns H e_i are made."""


@dataclass(frozen=True)
class Network:
    """A subcommand: what it does, its own defaults, and how it makes records' results of options."""

    about: str
    run: Callable[[argparse.Namespace], dict[str, Any]]
    defaults: dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    options = parsed(arguments)
    torch.manual_seed(options.seed)
    result = NETWORKS[options.network].run(options)
    parameters = {name: value for name, value in vars(options).items() if name not in ("out", "cache")}
    append(
        options.out,
        Record(
            "network",
            parameters,
            result,
            seeds=options.seed,
            products=result.get("products"),
            seconds=result.get("seconds"),
        ),
    )
    say(result)
    return 0


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="network", required=True)
    for name, network in NETWORKS.items():
        one = commands.add_parser(name, help=network.about, description=network.about)
        one.add_argument("--relative", type=float, nargs="+", default=[1e-2, 1e-3], help="of the largest |eigenvalue|")
        one.add_argument("--probes", type=int, default=1)
        one.add_argument("--steps", type=int, default=60)
        one.add_argument("--budget", type=int, help="products in all; probes and steps are planned then")
        one.add_argument("--parts", action="store_true", help="count parts of it, too, at the same tau")
        one.add_argument("--part-steps", type=int, default=30)
        one.add_argument("--exact", action="store_true", help="judge by exact counts: N x N numbers")
        one.add_argument("--dtype", choices=["float32", "float64"], default="float64")
        one.add_argument("--memory", type=int, default=768, help="MiB for activations and tangents of a product")
        one.add_argument("--seed", type=int, default=0)
        one.add_argument("--cache", type=Path, default=cache_root() / "networks")
        one.add_argument("--out", type=Path, default=RESULTS)
        if name in ("resnet", "imagenet", "vit"):
            one.add_argument("--data", choices=["cifar", "noise"], default="cifar")
            one.add_argument("--images", type=int, default=50, help="that are counted on")
            one.add_argument("--train-images", type=int, default=500)
            one.add_argument("--epochs", type=int, default=5)
        if name in ("gpt", "lora", "lstm"):
            one.add_argument("--sources", default="*.py", help="of the standard library")
            one.add_argument("--bytes", type=int, default=300_000, help="of them")
            one.add_argument("--length", type=int, default=64, help="bytes a piece")
            one.add_argument("--pieces", type=int, default=16, help="that are counted on")
        if name in ("gpt", "lora", "lstm", "pinn", "modular"):
            one.add_argument("--train-steps", type=int, default=300)
        if name in ("gpt", "lora", "vit", "modular"):
            one.add_argument("--heads", type=int, default=4)
        if name in ("gpt", "lora", "vit"):
            one.add_argument("--layers", type=int, default=4)
        if name == "lora":
            one.add_argument("--rank", type=int, default=2)
            one.add_argument("--tuned-steps", type=int, default=200)
            one.add_argument("--tuned-on", default="email/*.py")
            one.add_argument("--tuned-rate", type=float, default=2e-3)
        if name == "lstm":
            one.add_argument("--hidden", type=int, default=64)
        if name == "modular":
            one.add_argument("--modulus", type=int, default=31)
            one.add_argument("--share", type=float, default=0.55, help="of the pairs are trained on")
            one.add_argument("--rate", type=float, default=3e-3)
            one.add_argument("--decay", type=float, default=1.0)
            one.add_argument("--checkpoints", type=int, default=10)
            one.add_argument("--exact-at", type=int, nargs="*", default=[], help="checkpoints, from 0")
        one.add_argument("--width", type=int, default=16)
        one.set_defaults(**network.defaults)
    options = parser.parse_args(arguments)
    if options.budget is not None:
        options.probes = options.steps = None
    return options


def asked(options: argparse.Namespace, exact: bool | None = None) -> Asked:
    return Asked(
        tuple(options.relative),
        options.probes,
        options.steps,
        options.budget,
        options.parts,
        options.part_steps,
        options.exact if exact is None else exact,
        options.seed,
    )


def trained(
    options: argparse.Namespace, names: str, model: nn.Module, train: training.Trainer, kind: str = ""
) -> tuple[nn.Module, dict[str, Any]]:
    """The model with weights that depend on these options."""
    kind = kind or options.network
    chosen = {"network": kind, "seed": options.seed} | {name: getattr(options, name) for name in names.split()}
    return training.kept(options.cache, kind, chosen, model, train)


def hessian(model: nn.Module, loss: Any, given: Any, options: argparse.Namespace) -> Callable[[Any], Hessian]:
    def make(pattern: Any) -> Hessian:
        return Hessian(
            model, loss, given, parameters=pattern, dtype=getattr(torch, options.dtype), memory=options.memory * 2**20
        )

    return make


def images_of(options: argparse.Namespace) -> data.Images:
    return (data.cifar if options.data == "cifar" else data.noise)(options.train_images, options.images)


def on_images(options: argparse.Namespace, build: Callable[[], nn.Module], names: str, rate: float) -> Any:
    """(model, images that it was trained on and that are counted on, what training said)."""
    images = images_of(options)
    x, y = images.x, images.y
    torch.manual_seed(options.seed)
    train = training.on_images(x, y, options.epochs, rate)
    model, said = trained(options, f"data train_images epochs width {names}", build(), train)
    said = said | {
        "train_accuracy": training.accuracy(model, x, y),
        "test_accuracy": training.accuracy(model, images.x_test, images.y_test),
    }
    return model, (x[: options.images], y[: options.images]), said


def resnet(options: argparse.Namespace) -> dict[str, Any]:
    """Frozen batch norm: eval mode. Parts: the stem, the four stages, the head."""
    model, given, said = on_images(options, lambda: models.resnet(options.width, "cifar"), "", 0.1)
    names = [name for name, child in model.named_children() if any(True for _ in child.parameters())]
    parts = {name: Part(f"{name}.*") for name in names}
    said = said | {"foretold_dead": silent.total(silent.unfelt(model, given[0]))}
    return dict(said) | counted(Case(hessian(model, F.cross_entropy, given, options), said, parts), asked(options))


def imagenet(options: argparse.Namespace) -> dict[str, Any]:
    """The same with the weights that see padding alone, foretold by shapes and found by products."""
    model, given, said = on_images(options, lambda: models.resnet(options.width, "imagenet"), "", 0.1)
    make = hessian(model, F.cross_entropy, given, options)
    counts, whole = counted(Case(make, said), asked(options)), make("*")
    told = blind_weights(whole, padding.padding_only(model, given[0][:1]), options.seed)
    told |= unfelt_weights(whole, silent.unfelt(model, given[0]), options.seed)
    return dict(said) | counts | {"padding": told}


def blind_weights(operator: Hessian, found: dict[str, torch.Tensor], seed: int) -> dict[str, Any]:
    """What products say of the weights that were foretold to see padding alone."""
    problem: Any = operator.problem
    blind, others = (torch.zeros(problem.size, dtype=torch.bool) for _ in range(2))
    for name, entries in found.items():
        blind[problem.ranges[name]], others[problem.ranges[name]] = entries.flatten(), ~entries.flatten()
    generator = torch.Generator().manual_seed(seed)
    dead = dead_coordinates(operator, generator=generator)
    columns = [some_columns(operator, where, generator) for where in (blind, others & ~dead)]
    return {
        "foretold": int(blind.sum()),
        "by_layer": {name: int(entries.sum()) for name, entries in found.items() if bool(entries.any())},
        "checked": columns[0].shape[1],
        "columns_not_zero": int((columns[0] != 0).any(0).sum()),
        "others_not_zero": int((columns[1] != 0).any(0).sum()),
        "foretold_and_dead": int((blind & dead).sum()),
        "dead": int(dead.sum()),
    }


def unfelt_weights(operator: Hessian, found: dict[str, torch.Tensor], seed: int) -> dict[str, Any]:
    """How many of the zero rows are of weights that no sample feels, as its units do not fire."""
    problem: Any = operator.problem
    told = torch.zeros(problem.size, dtype=torch.bool)
    for name, entries in found.items():
        told[problem.ranges[name]] = entries.flatten()
    dead = dead_coordinates(operator, generator=torch.Generator().manual_seed(seed))
    return {"unfelt": int(told.sum()), "unfelt_and_dead": int((told & dead).sum())}


def some_columns(operator: Hessian, where: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """H e_i for CHECKED of the coordinates, (N, CHECKED)."""
    index = where.nonzero().squeeze(1)
    index = index[torch.randperm(len(index), generator=generator)[:CHECKED]]
    units = torch.zeros(len(where), len(index), dtype=operator.dtype)
    units[index, torch.arange(len(index))] = 1
    return operator @ units


def vit(options: argparse.Namespace) -> dict[str, Any]:
    def build() -> nn.Module:
        return models.Vision(options.layers, options.width, options.heads)

    model, given, said = on_images(options, build, "layers heads", 0.05)
    parts = {"patches and places": Part(["patches.*", "places"]), "head": Part(["norm.*", "head.*"])}
    parts |= {f"layer {i + 1}": Part(f"layers.{i}.*") for i in range(options.layers)}
    make = hessian(model, F.cross_entropy, given, options)
    known = invariances.of_vision(options.layers, options.width, model.places.shape[0], 3 * 4 * 4, data.CLASSES)
    found = counted(Case(make, said, parts), asked(options))
    return dict(said) | found | {"null": invariances.judged(make("*"), known, options.seed)}


def texts(options: argparse.Namespace, modules: str) -> tuple[data.Windows, data.Windows]:
    """Pieces of the first bytes of some sources, and pieces of as many that follow."""
    parts = (data.sources(modules, options.bytes, skip) for skip in (0, options.bytes))
    seen, unseen = (data.windows(part, options.length) for part in parts)
    return seen, unseen


def language_model(options: argparse.Namespace) -> tuple[Any, data.Windows, dict[str, Any]]:
    """GPT-2 trained on the sources."""
    items, unseen = texts(options, options.sources)
    torch.manual_seed(options.seed)
    model = models.gpt2(options.layers, options.width, options.heads, options.length)
    train = training.on_text(items, unseen, options.train_steps, 2e-3, 16, training.own_loss)
    names = "sources bytes length train_steps layers width heads"
    model, said = trained(options, names, model, train, "gpt")
    return model, items, said


def gpt(options: argparse.Namespace) -> dict[str, Any]:
    """Tied embeddings are one parameter. Parts: embeddings, layers, the heads of the first and of the last layer."""
    model, items, said = language_model(options)
    chosen = data.spread(items, options.pieces)
    masked = {"masked_tokens": int((chosen.mask == 0).sum()), "tokens": int(chosen.mask.sum())}
    parts = {"embeddings, last norm": Part(["transformer.w*", "transformer.ln_f.*"])}
    parts |= {f"layer {i + 1}": Part(f"transformer.h.{i}.*") for i in range(options.layers)}
    for layer in sorted({0, options.layers - 1}):
        parts |= {f"layer {layer + 1}, head {i + 1}": head(layer, i, options.heads) for i in range(options.heads)}
    make = hessian(model, None, training.batch_of(chosen), options)
    known = invariances.of_gpt2(options.layers, options.width, options.length)
    found = counted(Case(make, said, parts), asked(options))
    return dict(said) | masked | found | {"null": invariances.judged(make("*"), known, options.seed)}


def lora(options: argparse.Namespace) -> dict[str, Any]:
    """That GPT-2, fine-tuned on other sources; the adapters alone are counted."""
    model, _, before = language_model(options)
    items, unseen = texts(options, options.tuned_on)
    untuned = training.losses(model, items, unseen, training.own_loss)
    torch.manual_seed(options.seed)
    model = models.adapted(model, options.rank)
    names = "sources bytes length train_steps layers width heads rank tuned_steps tuned_on tuned_rate"
    train = training.on_text(items, unseen, options.tuned_steps, options.tuned_rate, 16, training.own_loss)
    model, said = trained(options, names, model, train)
    parts = {f"layer {i + 1}": Part(f"transformer.h.{i}.*lora*") for i in range(options.layers)}
    given = training.batch_of(data.spread(items, options.pieces))
    case = Case(hessian(model, None, given, options), said, parts)
    before = {"base_loss": before["last_batch_loss"]} | {f"untuned_{name}": one for name, one in untuned.items()}
    return dict(said) | before | counted(case, asked(options))


def lstm(options: argparse.Namespace) -> dict[str, Any]:
    """Rows of the embedding of bytes that do not occur are zero."""
    items, unseen = texts(options, options.sources)
    torch.manual_seed(options.seed)
    model: nn.Module = models.Characters(options.width, options.hidden)
    train = training.on_text(items, unseen, options.train_steps, 5e-3, 16, training.next_byte)
    model, said = trained(options, "sources bytes length train_steps width hidden", model, train)
    given = training.shifted(data.spread(items, options.pieces))
    unused = 256 - len(given[0][given[1] != data.IGNORED].unique())  # what fills up stands behind all labels
    parts = {name: Part(f"{name}.*") for name in ("embed", "net", "head")}
    case = Case(hessian(model, F.cross_entropy, given, options), said, parts)
    foretold = {"unused_bytes": unused, "foretold_dead": unused * options.width}
    return dict(said) | foretold | counted(case, asked(options))


def pinn(options: argparse.Namespace) -> dict[str, Any]:
    problem = models.Heat(options.width, points=200, seed=options.seed)
    train = options.train_steps

    def run(net: nn.Module) -> dict[str, Any]:
        return training.solve_heat(net, problem.loss, train, train)

    net, said = trained(options, "width train_steps", problem.net, run)

    def make(pattern: Any) -> Hessian:
        assert pattern == "*"
        terms = [(1.0, problem.residual), (problem.WEIGHT, problem.given)]
        return Hessian.of(terms, net, dtype=torch.float64, memory=options.memory * 2**20)

    error = {"error": problem.error()}
    return dict(said) | error | counted(Case(make, said), asked(options))


def modular(options: argparse.Namespace) -> dict[str, Any]:
    """Checkpoints at equal distances, the first before training; the loss over all pairs is what is counted."""
    tokens, answers, train = data.residues(options.modulus, options.share, options.seed)
    last = options.train_steps
    steps = torch.linspace(0, last, options.checkpoints).round().long().tolist()
    torch.manual_seed(options.seed)
    names = "modulus width heads share rate decay train_steps checkpoints"
    series = Series(options.modulus, options.width, options.heads, len(steps))

    def run(_: nn.Module) -> dict[str, Any]:
        made = training.grokking(series.first, tokens, answers, train, steps, options.rate, options.decay)
        for model, (weights, _) in zip(series.models, made, strict=True):
            model.load_state_dict(weights)
        return {"checkpoints": [one for _, one in made]}

    _, said = trained(options, names, series, run)
    found, products, seconds, peak = [], 0, 0.0, 0
    for number, (model, one) in enumerate(zip(series.models, said["checkpoints"], strict=True)):
        make = hessian(model, F.cross_entropy, (tokens, answers), options)
        result = counted(Case(make), asked(options, options.exact or number in options.exact_at))
        found.append(one | result)
        products, seconds = products + result["products"], seconds + result["seconds"]
        peak = max(peak, result["peak_bytes"] or 0)
        print(one, flush=True)
        say(result)
    return {
        "size": found[-1]["size"],
        "training_seconds": said["training_seconds"],
        "weights": said["weights"],
        "rows": found[-1]["rows"],
        "loss": found[-1]["loss"],
        "gradient": found[-1]["gradient"],
        "checkpoints": found,
        "products": products,
        "seconds": seconds,
        "peak_bytes": peak,
    }


class Series(nn.Module):
    """One network at several moments of its training."""

    def __init__(self, modulus: int, width: int, heads: int, moments: int) -> None:
        super().__init__()
        self.models = nn.ModuleList(models.Arithmetic(modulus, width, heads).double() for _ in range(moments))

    @property
    def first(self) -> nn.Module:
        return self.models[0]


def say(result: dict[str, Any]) -> None:
    """A few lines."""
    for one in result["rows"]:
        cells = "   ".join(f"{name} {one[name]}" for name in NAMES)
        exact = f"   exact {one['exact']}" if "exact" in one else ""
        print(f"{one['part']}, N = {one['size']}, tau {one['threshold']:.3e}: {cells}{exact}")
        if one["plain"] is not None:
            print(f"    plain {[round(x) for x in one['plain']['weights']]}", end=" ")
            print(f"smoothed {[round(x) for x in one['plain']['smoothed']]}")
    print(f"loss {result['loss']:.4g}, |gradient| {result['gradient']:.3g}, {result['products']} products, ", end="")
    print(f"{result['seconds']:.0f} s, {(result['peak_bytes'] or 0) / 2**20:.0f} MiB", flush=True)


NETWORKS = {
    "pinn": Network("the heat equation, N = 1,185", pinn, {"width": 32, "train_steps": 500, "exact": True}),
    "modular": Network(
        "(a + b) mod p along grokking",
        modular,
        {"width": 32, "train_steps": 3600, "steps": 150, "relative": [1e-1, 1e-2]},
    ),
    "lstm": Network("an LSTM over bytes", lstm, {"width": 32, "pieces": 8, "steps": 40}),
    "gpt": Network("GPT-2 of transformers over bytes", gpt, SMALL | {"pieces": 8, "part_steps": 20}),
    "lora": Network("the adapters of a fine-tuned GPT-2", lora, SMALL | {"pieces": 8}),
    "imagenet": Network(
        "a ResNet-18 in its ImageNet form on 32 x 32 images", imagenet, {"width": 8, "images": 20, "steps": 30}
    ),
    "resnet": Network(
        "a ResNet-18 on CIFAR-10 images", resnet, {"dtype": "float32", "relative": [1e-1, 1e-2], "steps": 40}
    ),
    "vit": Network("a ViT on CIFAR-10 images", vit, {"width": 64, "images": 32}),
}

if __name__ == "__main__":
    sys.exit(main())
