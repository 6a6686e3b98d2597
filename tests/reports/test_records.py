import json
import math
import re
import socket
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from lanczos_saddle.machine.files import replacing
from lanczos_saddle.reports import records
from lanczos_saddle.reports.records import Record, append, provenance, read, to_json, write_json


@dataclass(frozen=True)
class Interval:
    lower: int
    estimate: float
    upper: int


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_record_comes_back_as_it_was_written(tmp_path):
    path = tmp_path / "new" / "results.jsonl"
    record = Record(
        kind="count", parameters={"threshold": 1e-4}, result={"negative": Interval(3, 4.5, 6)}, seeds=[0, 1],
        products=np.int64(400), seconds=0.25,
    )  # fmt: skip
    append(path, record)
    append(path, {"kind": "other", "τ": torch.tensor([[1.0, 2.0]])})
    first, second = read(path)
    assert set(first) == {"kind", "parameters", "result", "seeds", "products", "seconds", "provenance"}
    assert first["result"] == {"negative": {"lower": 3, "estimate": 4.5, "upper": 6}}
    assert (first["seeds"], first["products"], first["seconds"]) == ([0, 1], 400, 0.25)
    assert first["provenance"] == to_json(record.provenance)
    assert second == {"kind": "other", "τ": [[1.0, 2.0]]}
    assert len(path.read_text(encoding="utf-8").splitlines()) == 2


def test_provenance_names_machine_and_versions_but_no_place():
    found = provenance()
    assert set(found) == {"time", "machine", "versions", "commit", "modified"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found["time"])
    assert found["machine"]["cores"] >= 1
    assert set(found["versions"]) == {"python", "cuda", "torch", "numpy", "scipy", "lanczos_saddle"}
    assert found["versions"]["torch"] == torch.__version__
    assert found["commit"] is None or re.fullmatch(r"[0-9a-f]{40}", found["commit"])
    text = json.dumps(to_json(found))
    assert str(Path.home()) not in text or str(Path.home()) == "/"
    assert str(Path.cwd()) not in text
    assert socket.gethostname() not in text


def test_outside_a_checkout_or_without_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance()["commit"] is None
    monkeypatch.setattr(records, "__file__", str(tmp_path / "a" / "b" / "records.py"))
    found = provenance()
    assert (found["commit"], found["modified"]) == (None, None)


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (None, None), (True, True), (np.bool_(True), True), (np.float32(0.5), 0.5), (np.int64(3), 3),
        ("s", "s"),
        (math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf"), (np.float64("nan"), "nan"),
        (torch.tensor([1.0, math.nan]), [1.0, "nan"]), (torch.tensor(3), 3),
        (np.array([[1, 2]]), [[1, 2]]), (np.array([math.inf]), ["inf"]), ((1, (2,)), [1, [2]]),
        ({3, 1}, [1, 3]),
        ({1: {"a": torch.zeros(2)}}, {"1": {"a": [0.0, 0.0]}}), (torch.float64, "torch.float64"),
        (torch.device("cpu"), "cpu"), (Interval(1, math.nan, 2), {"lower": 1, "estimate": "nan", "upper": 2}),
    ],
)  # fmt: skip
def test_json_forms(value, form):
    assert to_json(value) == form
    json.dumps(to_json(value), allow_nan=False)


def test_a_failed_number_reads_back_as_the_number_it_was():
    assert math.isnan(float(to_json(math.nan)))
    assert float(to_json(-math.inf)) == -math.inf


@pytest.mark.parametrize("thing", [object(), 1j, np.array([1j]), np.array([object()]), Interval])
def test_what_has_no_form_is_refused_and_nothing_is_written(tmp_path, thing):
    with pytest.raises(ValueError, match="records hold numbers, strings, tensors"):
        append(tmp_path / "r.jsonl", {"result": [thing]})
    with pytest.raises(ValueError, match="records hold numbers, strings, tensors"):
        write_json(tmp_path / "r.json", thing)
    assert files(tmp_path) == []


def test_a_line_cut_short_spoils_itself_only_and_is_named(tmp_path):
    path = tmp_path / "r.jsonl"
    append(path, {"n": 1})
    with path.open("a") as file:
        file.write('{"n": ')
    append(path, {"n": 3})
    with pytest.raises(ValueError, match=r"r\.jsonl, line 2: "):
        read(path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "", lines[2]]))
    assert [record["n"] for record in read(path)] == [1, 3]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b'{"n": 1}\n[1]\n', r"line 2: <class 'list'>"), (b"\xff\xfe", "text file with one JSON object a line")],
)
def test_files_that_are_no_records(tmp_path, content, message):
    (tmp_path / "r").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "r")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.jsonl"):
        read(tmp_path / "absent.jsonl")


def test_a_document_is_replaced_whole_or_left(tmp_path):
    path = tmp_path / "out.json"
    write_json(path, {"x": math.inf})
    assert json.loads(path.read_text()) == {"x": "inf"}
    write_json(path, Interval(1, 2.0, 3))
    assert json.loads(path.read_text()) == {"lower": 1, "estimate": 2.0, "upper": 3}
    with pytest.raises(TypeError, match="data must be str"), replacing(path) as temporary:
        temporary.write_text(3)
    assert json.loads(path.read_text())["upper"] == 3
    assert files(tmp_path) == ["out.json"]


def test_a_name_is_replaced_only_when_the_block_ends_well(tmp_path):
    with pytest.raises(ZeroDivisionError):
        _half_written(tmp_path / "figure")
    assert files(tmp_path) == []


def _half_written(path):
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
