"""What docs/networks.md shows of the records: the newest of each network and size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

NAMES = ("negative", "near_zero", "positive")

TITLES = {
    "pinn": "PINN, heat equation",
    "modular": "modular addition, at the end",
    "lstm": "LSTM, bytes",
    "lora": "LoRA on the GPT-2",
    "gpt": "GPT-2, bytes",
    "imagenet": "ResNet-18, ImageNet form",
    "vit": "ViT, CIFAR-10",
    "resnet": "ResNet-18, CIFAR-10",
}
"""In the order of the page, smallest first."""

Records = Sequence[Mapping[str, Any]]


def newest(records: Records) -> dict[str, list[Mapping[str, Any]]]:
    """Network -> its newest record of every size, smallest first."""
    found: dict[tuple[str, int], Mapping[str, Any]] = {}
    for record in records:
        found[record["parameters"]["network"], record["result"]["size"]] = record
    there = {name for name, _ in found}
    return {name: [found[key] for key in sorted(found) if key[0] == name] for name in TITLES if name in there}


def blocks(records: Records) -> Callable[[str], str]:
    """Name of a block -> its text."""
    known = newest(records)

    def text(name: str) -> str:
        kind, _, network = name.partition("-")
        makers = {"networks": lambda: counts_table(known), "plain": lambda: plain_table(known)}
        if not network:
            return makers[kind]()
        of_one = {"said": said, "parts": parts_table, "along": along_table, "null": null_table}
        of_one["padding"] = padding_table
        return "\n\n".join(of_one[kind](record) for record in known[network])

    return text


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(count: float) -> str:
    """With commas from 10,000 on."""
    return f"{count:,.0f}" if abs(count) >= 10_000 else f"{count:.0f}"


def interval(found: Mapping[str, Any]) -> str:
    """[lower, upper], or one number where they meet."""
    low, high = found["lower"], found["upper"]
    return number(low) if low == high else f"[{number(low)}, {number(high)}]"


def cells(row: Mapping[str, Any]) -> list[str]:
    """The three intervals, each behind its exact count where that is known."""
    exact = row.get("exact")
    made = [interval(row[name]) for name in NAMES]
    return made if exact is None else [f"{number(n)} in {one}" for n, one in zip(exact, made, strict=True)]


def whole(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rows of all parameters."""
    return [row for row in record["result"]["rows"] if row["part"] == "all"]


def counts_table(known: Mapping[str, list[Mapping[str, Any]]]) -> str:
    """Every network at every tau."""
    rows = []
    for network, records in known.items():
        for record in records:
            result = record["result"]
            minutes, memory = result["seconds"] / 60, (result["peak_bytes"] or 0) / 2**20
            for i, row in enumerate(whole(record)):
                first = [TITLES[network], f"{result['size']:,}"] if i == 0 else ["", ""]
                cost = [number(result["products"]), f"{minutes:.1f}", number(memory)] if i == 0 else ["", "", ""]
                tau = [f"{row['relative_threshold']:.0e}", f"{row['threshold']:.1e}"]
                rows.append([*first, *tau, *cells(row), *cost])
    head = ("network", "N", "tau / largest", "tau", "negative", "near zero", "positive", "products", "minutes", "MiB")
    return table(head, rows)


def plain_table(known: Mapping[str, list[Mapping[str, Any]]]) -> str:
    """What densities of the same products read, bold where the interval does not have it."""

    def read(row: Mapping[str, Any], kind: str) -> str:
        made = []
        for name, count in zip(NAMES, row["plain"][kind], strict=True):
            inside = row[name]["lower"] <= round(count) <= row[name]["upper"]
            made.append(number(count) if inside else f"**{number(count)}**")
        return " / ".join(made)

    rows = []
    for network, records in known.items():
        for record in records:
            for i, row in enumerate(one for one in whole(record) if one["plain"] is not None):
                first = [TITLES[network], f"{record['result']['size']:,}"] if i == 0 else ["", ""]
                certified = " / ".join(cells(row))
                tau = f"{row['relative_threshold']:.0e}"
                rows.append([*first, tau, certified, read(row, "weights"), read(row, "smoothed")])
    return table(("network", "N", "tau / largest", "certified", "weights summed", "smoothed, then summed"), rows)


FACTS = (
    ("training_seconds", "trained for {:.0f} s"),
    ("epochs", "{} epochs"),
    ("steps", "{} steps"),
    ("train_accuracy", "{:.1%} right in training"),
    ("test_accuracy", "{:.1%} right in the test"),
    ("untuned_train_loss", "mean loss over these sources before {:.2f}"),
    ("untuned_test_loss", "over those that it has not seen {:.2f}"),
    ("first_batch_loss", "loss of the first batch {:.2f}"),
    ("last_batch_loss", "of the last {:.2f}"),
    ("train_loss", "mean over its sources {:.2f}"),
    ("test_loss", "over sources that it has not seen {:.2f}"),
    ("error", "relative error against the exact solution {:.1e}"),
    ("loss", "loss where it is counted {:.3g}"),
    ("gradient", "norm of its gradient {:.2g}"),
    ("tokens", "{} bytes of text"),
    ("masked_tokens", "{} masked"),
    ("unused_bytes", "{} bytes that do not occur"),
    ("foretold_dead", "{} rows of H foretold to be zero"),
)


def said(record: Mapping[str, Any]) -> str:
    """One sentence of facts, and how many rows of H are zero."""
    result = record["result"]
    facts = [form.format(result[name]) for name, form in FACTS if name in result]
    first = whole(record)[0]
    facts += [f"{number(first['dead'])} rows of H are zero"] if first["dead"] else []
    images, kind = record["parameters"].get("images"), record["parameters"]["dtype"]
    facts += [f"{images} images"] if images else []
    return f"N = {result['size']:,}, {kind}: " + "; ".join(facts) + "."


def parts_table(record: Mapping[str, Any]) -> str:
    """Each part at the tau of the whole."""
    rows = []
    for row in record["result"]["rows"]:
        tau = f"{row['relative_threshold']:.0e}"
        rows.append([row["part"], f"{row['size']:,}", tau, *(interval(row[name]) for name in NAMES)])
    return table(("part", "parameters", "tau / largest", "negative", "near zero", "positive"), rows)


def along_table(record: Mapping[str, Any]) -> str:
    """Every checkpoint of a training."""
    rows = []
    for one in record["result"]["checkpoints"]:
        for i, row in enumerate(one["rows"]):
            first = [number(one["step"]), f"{one['train_accuracy']:.1%}", f"{one['test_accuracy']:.1%}"]
            first.append(f"{one['loss']:.1e}")
            rows.append([*(first if i == 0 else [""] * 4), f"{row['relative_threshold']:.0e}"])
            rows[-1] += [f"{row['threshold']:.1e}", *cells(row)]
    head = ("step", "trained pairs", "other pairs", "loss", "tau / largest", "tau", "negative", "near zero", "positive")
    return table(head, rows)


def padding_table(record: Mapping[str, Any]) -> str:
    """What was foretold and what products say."""
    found = record["result"]["padding"]
    rows = [[f"`{name}`", number(count)] for name, count in found["by_layer"].items()]
    rows += [
        ["foretold in all", f"{found['foretold']:,}"],
        ["of these, zero rows by two products", f"{found['foretold_and_dead']:,}"],
        ["columns H e_i made of these: not zero", f"{found['columns_not_zero']} of {found['checked']}"],
        ["of the others", f"{found['others_not_zero']} of {found['checked']}"],
        ["zero rows in all", f"{found['dead']:,}"],
    ]
    if "unfelt" in found:
        rows.append(["of weights whose input or output never fires, padding among these", f"{found['unfelt']:,}"])
        rows.append(["of these, zero rows by two products", f"{found['unfelt_and_dead']:,}"])
    return table(("weights that see padding alone", "count"), rows)


def null_table(record: Mapping[str, Any]) -> str:
    """The null vectors that were foretold: how many, and what a product makes of a random one."""
    found = record["result"]["null"]
    rows = [
        [name, number(found["dimensions"][name]), f"{length:.0e}" if length else "0"]
        for name, length in found["lengths"].items()
    ]
    rows += [["foretold in all", f"{found['foretold']:,}", ""], ["any other vector", "", f"{found['other']:.1f}"]]
    return table(("null vectors", "dimensions", "length of H v, in that of H x for random x"), rows)
