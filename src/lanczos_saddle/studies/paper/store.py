"""What has been computed, on disk: an interrupted run continues, a finished cell is not computed again.

    FOLDER/records.jsonl    one line a cell: kind, experiment and options, result, seconds, provenance
    FOLDER/weights/         one checkpoint an experiment
    FOLDER/spectra/         eigenvalues, for figures; the counts are in the records

A cell is (kind, parameters). Lines are appended whole, so several processes may fill one store; a line that is not
whole, cut short by a crash or still being written, is a cell that is not there. Where two processes compute one cell,
or train one network, the first to finish counts.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lanczos_saddle.reports.records import Record, append, read, to_json
from lanczos_saddle.studies.paper.experiments import Experiment, facts, trained, untrained
from lanczos_saddle.training import datasets
from lanczos_saddle.training.checkpoints import apply_weights, load_checkpoint, save_checkpoint

Cell = dict[str, Any]

SAME = 1e-9
"""Relative: losses of the same weights, summed in float64; other float32 weights differ by more than 1e-8."""

FIELDS = {"kind", "parameters", "result"}
"""What a record needs to be a cell."""


class UnfinishedError(ValueError):
    """A cell that a finished store does not have."""


class Store:
    """Records and weights in one folder; a `finished` one computes nothing, and refuses what it does not have.

    Everything that reads it raises ValueError where records.jsonl is not a file of such records.
    What is missing is counted on `device`; networks are trained on the CPU, so that a seed leads to the same weights.
    """

    def __init__(self, folder: str | Path, *, finished: bool = False, device: str | torch.device = "cpu") -> None:
        self.folder = Path(folder)
        self.finished = finished
        self.device = torch.device(device)
        self.path = self.folder / "records.jsonl"
        self._records: dict[str, Cell] = {}
        self._read = 0

    def find(self, kind: str, parameters: Mapping[str, Any]) -> Any:
        """The result of a finished cell, or None."""
        self._refresh()
        record = self._records.get(_key(kind, parameters))
        return None if record is None else record["result"]

    def all(self, kind: str) -> list[Cell]:
        """All records of a kind, oldest first."""
        self._refresh()
        return [record for record in self._records.values() if record["kind"] == kind]

    def fill(self, kind: str, parameters: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
        """The result of a cell: found, or computed and kept."""
        found = self.find(kind, parameters)
        if found is not None:
            return found
        if self.finished:
            raise UnfinishedError(f"{self.path} has no cell {kind} of {dict(parameters)}: run without --report-only")
        began = time.perf_counter()
        result = compute()
        record = Record(kind, parameters, result, seeds=parameters.get("trial"), seconds=time.perf_counter() - began)
        append(self.path, record)
        return self.find(kind, parameters)

    def model(self, experiment: Experiment, *, progress: bool = False) -> nn.Sequential:
        """The trained network of an experiment; trained and kept where it is not there yet."""
        path = self.weights(experiment)
        recorded = self.trained(experiment)
        if recorded is None:
            self.fill("train", experiment.parameters(), lambda: self._train(experiment, progress))
        elif not path.is_file():
            self._train_again(experiment, recorded, progress)
        model, _ = untrained(experiment)
        apply_weights(model, load_checkpoint(path)[0])
        return model

    def _train(self, experiment: Experiment, progress: bool, recorded: Any = None) -> Any:
        """The facts of the run; the weights are kept, unless the run is not the recorded one.

        Weights without a record are those of a run that was cut short between the two: they bring its facts along.
        """
        path = self.weights(experiment)
        if recorded is None and path.is_file():
            kept = load_checkpoint(path)[1]
            if kept.pop("experiment", None) == to_json(experiment.parameters()) and "loss" in kept:
                return kept
        model, result = trained(experiment, progress=progress)
        known = facts(result)
        if recorded is not None and abs(known["loss"] - recorded["loss"]) > SAME * recorded["loss"]:
            raise ValueError(
                f"the weights of {experiment} are not in {self.folder}, and the same seed leads to others on this "
                f"machine (loss {known['loss']}, recorded {recorded['loss']}): fill a store of your own"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file():  # another process may have been faster, and cells may rest on its weights
            save_checkpoint(path, model, {"experiment": experiment.parameters(), **known})
        return known

    def _train_again(self, experiment: Experiment, recorded: Any, progress: bool) -> None:
        """The record is there, the weights are not; where the same seed leads to others, its counts are not theirs."""
        if self.finished:
            raise UnfinishedError(f"{self.weights(experiment)} is missing: run without --report-only")
        self._train(experiment, progress, recorded)

    def trained(self, experiment: Experiment) -> Any:
        """What the record of a finished training says."""
        return self.find("train", experiment.parameters())

    def check_data(self, name: str) -> None:
        """Load a dataset; raises ValueError where networks here were trained on other data of that name."""
        digest = datasets.load(name).digest
        for cell in self.all("train"):
            if cell["parameters"]["dataset"] == name and cell["result"].get("data", digest) != digest:
                raise ValueError(
                    f"the data of a store must stay the same; {name} is not what networks in {self.folder} were "
                    "trained on: fill another store"
                )

    def weights(self, experiment: Experiment) -> Path:
        """Where the checkpoint of an experiment lies."""
        sizes = "-".join(map(str, experiment.sizes))
        key = hashlib.sha256(_key("train", experiment.parameters()).encode()).hexdigest()[:8]
        return (
            self.folder / "weights" / f"{Path(experiment.dataset).stem}-{sizes}-{experiment.method}-{key}.safetensors"
        )

    def spectrum(self, experiment: Experiment, kind: str) -> Path:
        """Where the eigenvalues of one matrix of an experiment lie."""
        return self.folder / "spectra" / f"{self.weights(experiment).stem}-{kind}.npz"

    def _refresh(self) -> None:
        if not self.path.exists() or self.path.stat().st_size == self._read:
            return
        size = self.path.stat().st_size
        records = read(self.path, torn="skip")
        if not records and b"\n" in self.path.read_bytes().lstrip():
            raise ValueError(f"{self.path} has no line that is a JSON object: it is not a store's; name another folder")
        for record in records:
            if missing := FIELDS - record.keys():
                raise ValueError(
                    f"a record of a store has {', '.join(sorted(FIELDS))}; one of {self.path} lacks "
                    f"{', '.join(sorted(missing))}: mend it, or name another folder"
                )
        for record in records:
            self._records.setdefault(_key(record["kind"], record["parameters"]), record)
        self._read = size  # last: a file that was refused is refused again


def _key(kind: str, parameters: Mapping[str, Any]) -> str:
    return json.dumps([kind, to_json(parameters)], sort_keys=True)
