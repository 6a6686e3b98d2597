"""The page as text: what it says, what it refuses, and that no text of a record becomes anything but text."""

import json
import re
from html.parser import HTMLParser

import pytest
import torch
from record_files import HOSTILE, VALUES, exact, hostile, sampled

from lanczos_saddle import Hessian, count_eigenvalues, count_in
from lanczos_saddle.cli.entry import main
from lanczos_saddle.reports.page import report
from lanczos_saddle.reports.sources import views
from lanczos_saddle.reports.summary import record_of
from lanczos_saddle.reports.words import how_many, sentences

pytest.importorskip("altair", reason="needs lanczos-saddle[report]")
pytest.importorskip("vl_convert", reason="needs lanczos-saddle[report]")


class Tags(HTMLParser):
    """Tags with their attributes, and the text that is seen."""

    def __init__(self):
        super().__init__()
        self.tags, self.texts = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data)


def parsed(page):
    tags = Tags()
    tags.feed(page)
    return tags


@pytest.fixture(scope="module")
def counts():
    return sampled()


@pytest.fixture(scope="module")
def page(counts):
    return counts.to_html()


def test_the_page_says_the_counts_in_words(page, counts):
    text = " ".join(parsed(page).texts)
    three = [(i.lower, i.estimate, i.upper) for i in (counts.negative, counts.near_zero, counts.positive)]
    for one in three:
        assert how_many(one) in text
    assert "right together with 95 % confidence" in text


def test_the_page_holds_all_it_needs(page):
    tags = parsed(page).tags
    assert not [t for t, a in tags if t in ("link", "iframe", "img", "object") or "src" in a]
    assert not [a for _, a in tags if a.get("href", "#").startswith(("http", "//"))]
    policy = next(a["content"] for t, a in tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert "unsafe-eval" not in policy
    assert "'unsafe-inline'" not in policy.partition("script-src")[2].partition(";")[0]
    assert len(page) < 1.3e6


def test_embedded_numbers_are_those_of_the_record(page, counts):
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    grid = json.loads(found[1])["views"][0]["grid"]
    (record,) = record_of(counts)
    assert {name: grid[name] for name in ("thresholds", "alone", "together")} == {
        name: record["readings"][name] for name in ("thresholds", "alone", "together")
    }


def test_text_of_a_record_stays_text():
    one, other = parsed(report(hostile(), title=HOSTILE)), parsed(report(record_of(sampled())))
    assert sum(t == "script" for t, _ in one.tags) == sum(t == "script" for t, _ in other.tags) == 3
    assert not [t for t, a in one.tags if t == "img" or any(name.startswith("on") for name in a)]
    assert any("</script><script>" in text for text in one.texts)  # shown as it is
    assert "49" not in [text.strip() for text in one.texts]


def test_several_records_are_told_apart(tmp_path):
    pages = [record_of(sampled(seed), name="net")[0] | {"options": {"seed": seed, "problem": "net"}} for seed in (0, 1)]
    paths = [tmp_path / f"{i}.json" for i in range(2)]
    for path, one in zip(paths, pages, strict=True):
        path.write_text(json.dumps(one))
    lines = tmp_path / "all.jsonl"
    lines.write_text("".join(json.dumps({"kind": "count", "parameters": {}, "result": one}) + "\n" for one in pages))
    assert [view.label for view in views(paths)] == ["net, seed 0", "net, seed 1"]
    assert [view.label for view in views([lines])] == ["net (1)", "net (2)"]
    assert "Side by side" in report(paths)


def test_the_command_writes_the_page_of_what_count_wrote(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(
        "import torch\n"
        "def small():\n"
        "    torch.manual_seed(0)\n"
        "    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2))\n"
        "    return model, torch.nn.CrossEntropyLoss(), (torch.randn(30, 4), torch.randint(0, 2, (30,)))\n"
    )
    assert main(["count", "own:small", "--threshold", "1e-3", "--json", "c.json", "--quiet"]) == 0
    record = json.loads((tmp_path / "c.json").read_text())
    assert len(record["eigenvalues"]) == 23
    assert [t["name"] for t in record["layers"]["tensors"]] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert main(["report", "c.json", "-o", "r.html"]) == 0
    assert "own:small" in (tmp_path / "r.html").read_text(encoding="utf-8")
    assert capsys.readouterr().out.endswith("report: r.html\n")


def test_what_has_no_counts_is_refused_by_name(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"kind": "density", "result": {}}\n')
    with pytest.raises(ValueError, match="holds density, without counts"):
        report(path)
    path.write_text("{broken\n")
    with pytest.raises(ValueError, match="line 1"):
        report(path)
    path.write_text("")
    with pytest.raises(ValueError, match=r"x\.jsonl holds nothing$"):
        report(path)
    with pytest.raises(ValueError, match="at least one record"):
        report([])
    (record,) = record_of(exact())
    for name, wrong in (("lower", -1), ("upper", "12"), ("lower", 10**9)):
        with pytest.raises(ValueError, match=r"negative|whole numbers|lower end"):
            report(record | {"negative": record["negative"] | {name: wrong}})
    with pytest.raises(ValueError, match="of counts, of mappings or of files"):
        report(3)


def test_counts_in_an_interval_are_refused_by_name(tmp_path):
    found = count_in(exact_matrix(), 1e-3, 1e-1)
    for call in (report, record_of):
        with pytest.raises(ValueError, match="got CountsIn"):
            call(found)
    path = tmp_path / "inside.json"
    path.write_text(json.dumps({"parameters": 80, "below": {}, "inside": {"lower": 1, "upper": 2}, "above": {}}))
    with pytest.raises(ValueError, match=r"inside\.json holds an interval \[a, b\], without counts"):
        report(path)


def test_words_are_those_of_the_numbers():
    assert how_many((0, 0.0, 0)) == "none"
    assert how_many((0, 1.0, 3)) == "at most 3, perhaps none"
    assert how_many((1200, 1200.0, 1200)) == "exactly 1,200"
    (view,) = views([record_of(count_eigenvalues(-exact_matrix(), threshold=2e-4, method="exact"))[0]])
    assert sentences(view)[0] == "Of the eigenvalues of this matrix exactly 38 are below minus the threshold."
    assert "exact" in sentences(view)[-1]


def exact_matrix():
    return torch.diag(torch.tensor(VALUES))


def test_a_fault_in_a_record_is_named_with_its_place(tmp_path):
    """Whatever a record holds, it is a page or one ValueError, and what contradicts itself is no page."""
    (record,) = record_of(exact())
    record = json.loads(json.dumps(record))
    read, density = record["readings"], record["density"]
    crossed, too_many = [[[9, 1]] * 3] * len(read["thresholds"]), [[[0, 10**20]] * 3] * len(read["thresholds"])
    faults = [
        ({"threshold": 0}, "threshold must be positive"),
        ({"threshold": 10**400}, "threshold must be finite"),
        ({"confidence": 2.0}, "between 0 and 1"),
        ({"confidence": 0.0}, "between 0 and 1"),
        ({"parameters": 5}, "sum to N, which is 5"),
        ({"parameters": 10**30}, "sum to N"),
        ({"negative": {"lower": 3, "upper": 12, "estimate": -5}}, "an estimate lies in its interval"),
        ({"eigenvalues": [1.0] * 7}, "there are 7 eigenvalues"),
        ({"exact": [1, 2, 3]}, "there are 6 exact counts"),
        ({"closing": {"products": [1, 2], "intervals": []}}, "how intervals closed"),
        ({"closing": {"products": [1, 2], "intervals": "xy"}}, "how intervals closed"),
        ({"density": {}}, "a density has"),
        ({"density": density | {"linear": 0}}, "must be positive"),
        ({"density": density | {"density": density["density"][:-1]}}, "a density has"),
        ({"density": density | {"eigenvalues": ["inf"] * 301}}, "density must be finite"),
        ({"layers": {"tensors": ["x"]}}, "layers are a list"),
        ({"readings": read | {"alone": None}}, "readings are three pairs"),
        ({"readings": read | {"together": [[1, 2, 3]] * len(read["thresholds"])}}, "readings are three pairs"),
        ({"readings": read | {"together": crossed}}, "lower <= upper"),
        ({"readings": read | {"together": too_many}}, "lower <= upper"),
    ]
    path = tmp_path / "two.jsonl"
    for fault, said in faults:
        path.write_text(f"{json.dumps(record)}\n{json.dumps(record | fault)}\n")
        with pytest.raises(ValueError, match=rf"two\.jsonl, record 2 cannot be shown: .*{said}"):
            report(path)
    odd = [
        {"rows": 5},
        {"closing": {"products": 5}},
        {"eigenvalues": 5},
        {"layers": {"tensors": 5}},
        {"layers": {"tensors": [{}]}},
        {"readings": read | {"thresholds": 5}},
        {"provenance": {"machine": {"gpus": 5}}},
    ]
    assert all(report(record | each) for each in odd)  # left out


def test_a_file_with_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / "mark.json"
    path.write_text(json.dumps(record_of(exact())[0]), encoding="utf-8-sig")
    assert views([path])[0].size == len(VALUES)


def test_a_file_name_that_is_no_text_is_shown_as_far_as_it_goes(tmp_path):
    """Odd bytes of a path come from JSON as lone surrogates, which no file takes."""
    (record,) = record_of(exact())
    path = tmp_path / "page.html"
    page = report(record | {"options": {"problem": "net\udcff.py:f"}, "stopped": "\ud800"}, path)
    assert path.read_text(encoding="utf-8") == page
    assert "net?.py:f" in page


def test_a_confidence_that_is_not_recorded_is_not_made_up():
    (record,) = record_of(sampled())
    (view,) = views([{k: v for k, v in record.items() if k != "confidence"} | {"readings": None}])
    assert view.confidence is None
    assert "does not say" in sentences(view)[-1]
    text = " ".join(parsed(report(view.record)).texts)
    assert "95 %" not in text


def test_very_many_records_are_rows_of_a_table():
    (record,) = record_of(exact())
    plain = {k: v for k, v in record.items() if k not in ("readings", "density", "eigenvalues")}
    many = [plain | {"options": {"seed": seed, "problem": "net"}} for seed in range(230)]
    page = report(many)
    assert len(re.findall(r"<article", page)) == 40
    assert len(re.findall(r'<th scope="row">(?:<a[^>]*>)?counts, seed \d+', page)) == 230
    assert "There are 230 records: the first 40 are shown in full and the first 200 in the charts" in page


def test_only_exact_counts_are_called_exact():
    """A sampled count whose readings have no width by chance keeps its confidence."""
    matrix = -3 * torch.eye(1, dtype=torch.float64)
    counts = count_eigenvalues(matrix, threshold=1e-3, method="lanczos", probes=1, steps=1)
    (view,) = views(record_of(counts))
    assert view.grid.alone == view.grid.together
    text = " ".join(parsed(report(record_of(counts))).texts)
    assert "at all thresholds at once, 95 %" in text


def test_a_page_of_counts_has_the_tensors_of_the_operator_that_is_passed():
    torch.manual_seed(0)
    x, y = torch.randn(40, 5).double(), torch.randint(0, 2, (40,))
    x[:, 1] = 0  # an input that is always zero
    model = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2)).double()
    torch.nn.init.constant_(model[0].bias[2:], -1e3)  # a unit that never fires
    H = Hessian(model, torch.nn.CrossEntropyLoss(), (x, y))
    several = count_eigenvalues(H, threshold=[1e-3, 1e-2], method="exact")
    for counts in (several[0], several):
        text = " ".join(" ".join(parsed(counts.to_html(operator=H)).texts).split())
        assert "0.weight 5" not in text
        assert "0.weight 3 × 5 15 7 3 4 0 0" in text  # 3 of the input's column, the 4 left of the unit's row
        assert "2.weight 2 × 3 6 2 2 0 0 0" in text  # both weights that leave the unit
        assert "0.weight" not in counts.to_html()
    other = count_eigenvalues(exact_matrix(), threshold=1e-3)
    with pytest.raises(ValueError, match="of N = 80; got one of N = 26"):
        other.to_html(operator=H)
    with pytest.raises(ValueError, match="named parameters, a Hessian; got Tensor"):
        other.to_html(operator=exact_matrix())
    with pytest.raises(ValueError, match="that of one Counts"):
        report([several[0]], operator=H)
