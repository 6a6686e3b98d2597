"""The page as text: what it says, what it refuses, and that no text of a record becomes anything but text."""

import json
import re
from html.parser import HTMLParser

import pytest
import torch
from record_files import HOSTILE, VALUES, exact, hostile, sampled

from lanczos_saddle import count_eigenvalues
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
    with pytest.raises(ValueError, match="at least one record"):
        report([])
    (record,) = record_of(exact())
    for name, wrong in (("lower", -1), ("upper", "12"), ("lower", 10**9)):
        with pytest.raises(ValueError, match=r"negative|whole numbers|lower end"):
            report(record | {"negative": record["negative"] | {name: wrong}})
    with pytest.raises(ValueError, match="of counts, of mappings or of files"):
        report(3)


def test_words_are_those_of_the_numbers():
    assert how_many((0, 0.0, 0)) == "none"
    assert how_many((0, 1.0, 3)) == "at most 3, perhaps none"
    assert how_many((1200, 1200.0, 1200)) == "exactly 1,200"
    (view,) = views([record_of(count_eigenvalues(-exact_matrix(), threshold=2e-4, method="exact"))[0]])
    assert sentences(view)[0] == "Of the eigenvalues of this matrix exactly 38 are below minus the threshold."
    assert "exact" in sentences(view)[-1]


def exact_matrix():
    return torch.diag(torch.tensor(VALUES))
