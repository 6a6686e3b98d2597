"""Brief training, seeded, kept in a cache: the same options find the same weights again."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lanczos_saddle.training.checkpoints import load_checkpoint, save_checkpoint
from networks_zoo.data import IGNORED, Windows, labels, spread

Trainer = Callable[[nn.Module], dict[str, Any]]

JUDGED = 128
"""Pieces of text, at equal distances, whose mean loss is said of a language model."""


def kept(
    folder: Path, name: str, chosen: Mapping[str, Any], model: nn.Module, train: Trainer
) -> tuple[nn.Module, dict[str, Any]]:
    """The model, trained or with the weights that were kept, in eval mode; and what training said of it.

    `chosen`: everything that the weights depend on; other values are other files. The digest of the weights stands
    with what is said, as another processor leads to weights that differ in the last digits.
    """
    key = hashlib.sha256(json.dumps(dict(chosen), sort_keys=True).encode()).hexdigest()[:16]
    path = folder / f"{name}-{key}.safetensors"
    if path.is_file():
        tensors, said = load_checkpoint(path)
        model.load_state_dict(tensors)
        return model.eval(), said
    began = time.perf_counter()
    said = train(model.train())
    said |= {"training_seconds": time.perf_counter() - began}
    model.eval()
    said |= {"weights": digest(model)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(path, model, said)
    return model, said


def digest(model: nn.Module) -> str:
    """Of all tensors, in the order of their names."""
    made = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        made.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return made.hexdigest()[:16]


def accuracy(model: nn.Module, x: Tensor, y: Tensor, part: int = 100) -> float:
    """The share of y that is found."""
    with torch.no_grad():
        right = sum(int((model(a).argmax(1) == b).sum()) for a, b in zip(x.split(part), y.split(part), strict=True))
    return right / len(y)


def on_images(x: Tensor, y: Tensor, epochs: int, rate: float, batch: int = 50) -> Trainer:
    """SGD with momentum 0.9 and weight decay 5e-4 at a rate that falls to zero."""

    def train(model: nn.Module) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(0)
        optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9, weight_decay=5e-4, nesterov=True)
        steps = epochs * -(-len(y) // batch)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=max(2, steps))
        for _ in range(epochs):
            for index in torch.randperm(len(y), generator=generator).split(batch):
                optimizer.zero_grad()
                F.cross_entropy(model(x[index]), y[index]).backward()
                optimizer.step()
                schedule.step()
        return {"epochs": epochs}

    return train


def on_text(
    items: Windows, unseen: Windows, steps: int, rate: float, batch: int, loss: Callable[[nn.Module, Windows], Tensor]
) -> Trainer:
    """AdamW on random pieces, at a rate that falls to zero; judged by pieces of these and of unseen text."""

    def train(model: nn.Module) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(0)
        trainable = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trainable, rate, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
        first = last = float("nan")
        for step in range(steps):
            index = torch.randint(len(items.tokens), (batch,), generator=generator)
            optimizer.zero_grad()
            value = loss(model, Windows(items.tokens[index], items.mask[index]))
            value.backward()
            optimizer.step()
            schedule.step()
            last = float(value.detach())
            first = last if step == 0 else first
        said = {"steps": steps, "first_batch_loss": first, "last_batch_loss": last}
        return said | losses(model.eval(), items, unseen, loss)

    return train


def losses(
    model: nn.Module, items: Windows, unseen: Windows, loss: Callable[[nn.Module, Windows], Tensor]
) -> dict[str, float]:
    """The mean over pieces of the text that it is trained on, and of text that it has not seen where there is some."""
    with torch.no_grad():
        return {
            name: float(loss(model, spread(known, JUDGED)))
            for name, known in (("train_loss", items), ("test_loss", unseen))
            if len(known.tokens)
        }


def own_loss(model: nn.Module, items: Windows) -> Tensor:
    """Of a model of transformers."""
    return model(**batch_of(items)).loss


def next_byte(model: nn.Module, items: Windows) -> Tensor:
    """Of a model that returns logits (n, 256, length)."""
    x, y = shifted(items)
    return F.cross_entropy(model(x), y, ignore_index=IGNORED)


def batch_of(items: Windows) -> dict[str, Tensor]:
    """What GPT-2 is called with."""
    return {"input_ids": items.tokens, "attention_mask": items.mask, "labels": labels(items)}


def shifted(items: Windows) -> tuple[Tensor, Tensor]:
    """Bytes, and the byte that follows each."""
    return items.tokens[:, :-1].contiguous(), labels(items)[:, 1:].contiguous()


def grokking(
    model: nn.Module, tokens: Tensor, answers: Tensor, train: Tensor, steps: list[int], rate: float, decay: float
) -> list[tuple[dict[str, Tensor], dict[str, Any]]]:
    """AdamW on all training pairs at once; the weights after so many steps, ascending, and how good they are."""
    optimizer = torch.optim.AdamW(model.parameters(), rate, betas=(0.9, 0.98), weight_decay=decay)
    x, y = tokens[train], answers[train]
    made, done = [], 0
    for wanted in steps:
        while done < wanted:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            done += 1
        weights = {name: t.detach().clone() for name, t in model.state_dict().items()}
        made.append((weights, {"step": done, **judged(model, tokens, answers, train)}))
    return made


def judged(model: nn.Module, tokens: Tensor, answers: Tensor, train: Tensor) -> dict[str, float]:
    """Loss and accuracy on the pairs that are trained on and on the others."""
    said = {}
    with torch.no_grad():
        for name, chosen in (("train", train), ("test", ~train)):
            z = model(tokens[chosen])
            said[f"{name}_loss"] = float(F.cross_entropy(z, answers[chosen]))
            said[f"{name}_accuracy"] = float((z.argmax(1) == answers[chosen]).double().mean())
    return said


def solve_heat(net: nn.Module, loss: Callable[[], Tensor], adam: int, lbfgs: int) -> dict[str, Any]:
    """Adam, then L-BFGS with a line search."""
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(adam):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    last = torch.optim.LBFGS(net.parameters(), max_iter=lbfgs, line_search_fn="strong_wolfe", tolerance_change=0)

    def closure() -> Tensor:
        last.zero_grad()
        value = loss()
        value.backward()
        return value

    if lbfgs:
        last.step(closure)
    return {"adam": adam, "lbfgs": lbfgs}
