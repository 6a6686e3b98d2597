"""Malformed input at the command line: status 2, one line that says what, the rule, what came; nothing is left behind.

Most cases run in this process, so that it is imported once; what needs a process of its own is marked slow.
"""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from safetensors.torch import save_file

from lanczos_saddle.cli.entry import main
from lanczos_saddle.machine.journal import MAGIC
from lanczos_saddle.machine.states import FORMAT

PROBLEMS = """\
import sys, torch
def small():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2))
    return model, torch.nn.CrossEntropyLoss(), (torch.randn(30, 4), torch.randint(0, 2, (30,)))
def boom(): raise RuntimeError("the disk is gone,\\nboth of them")
def refuses(): raise ValueError("no weights")
def bare(): raise ValueError
def key(): return {}["missing"]
def asserts(): assert 1 == 2
def memory(): raise MemoryError
def stops(): raise StopIteration
def recursion(): return recursion()
def leaves(): sys.exit(3)
def leaves_silently(): sys.exit()
def leaves_saying(): sys.exit("bye")
def reads(): return input()
def needs(x): return small()
async def coroutine(): return small()
def none(): return None
def text(): return "model"
def mapping(): return dict(zip(("model", "loss", "data"), small()))
def two(): return small()[:2]
def four(): return (*small(), 1)
def swapped(): m, l, d = small(); return l, m, d
def number_first(): m, l, d = small(); return 3, l, d
def classes(): m, l, d = small(); return m, torch.nn.CrossEntropyLoss, d
def loss_number(): m, l, d = small(); return m, 3, d
def loss_whole(): m, l, d = small(); return m, (lambda z, y: torch.tensor(1)), d
def loss_plain(): m, l, d = small(); return m, (lambda z, y: 1.0), d
def loss_none(): m, l, d = small(); return m, (lambda z, y: None), d
def loss_raises():
    def loss(z, y): raise KeyError("targets")
    m, l, d = small(); return m, loss, d
def loss_exits():
    def loss(z, y): sys.exit(1)
    m, l, d = small(); return m, loss, d
def data_number(): m, l, d = small(); return m, l, 3
def data_none(): m, l, d = small(); return m, l, None
def data_text(): m, l, d = small(); return m, l, "data"
def data_alone(): m, l, d = small(); return m, l, d[0]
def data_empty(): m, l, (x, y) = small(); return m, l, (x[:0], y[:0])
def data_no_batch(): m, l, d = small(); return m, l, []
def data_once(): m, l, d = small(); return m, l, (b for b in [d])
def data_lengths(): m, l, (x, y) = small(); return m, l, (x, y[:7])
def data_shape(): m, l, (x, y) = small(); return m, l, (x[:, :3], y)
def data_labels(): m, l, (x, y) = small(); return m, l, (x, y + 5)
def data_nan(): m, l, (x, y) = small(); x[0, 0] = float("nan"); return m, l, (x, y)
def infinite():
    m, l, d = small()
    with torch.no_grad(): m[0].weight[0, 0] = float("inf")
    return m, l, d
def frozen():
    m, l, d = small()
    for p in m.parameters(): p.requires_grad_(False)
    return m, l, d
def dropout(): m, l, d = small(); return torch.nn.Sequential(m, torch.nn.Dropout(0.5)), l, d
def prints(): print("hello"); return small()
def closes(): sys.stdout.close(); return small()
NUMBER = 3
"""

MARKET = "%%MatrixMarket matrix "
MARKETS = {
    "range": "coordinate real general\n2 2 1\n3 3 1\n",
    "from_zero": "coordinate real general\n2 2 1\n0 0 1\n",
    "few": "coordinate real general\n2 2 3\n1 1 1\n",
    "wide": "coordinate real general\n2 3 1\n1 1 1\n",
    "skew": "coordinate real skew-symmetric\n2 2 1\n2 1 1\n",
    "none": "coordinate real general\n0 0 0\n",
    "negative": "coordinate real general\n-2 -2 1\n1 1 1\n",
    "giant": "array real symmetric\n9999999999 9999999999\n1\n",
    "nan": "coordinate real symmetric\n2 2 1\n1 1 nan\n",
    "half": "coordinate real general\n2 2 2\n1 1 1\n1 2 5\n",
    "unknown": "coordinate quaternion general\n1 1 1\n1 1 1\n",
}


def write_files(here: Path) -> None:
    """Everything that the cases name, good and bad."""
    (here / "p.py").write_text(PROBLEMS)
    (here / "empty.state").write_bytes(b"")
    (here / "cut.state").write_bytes(MAGIC + b"rec\n")
    save_file({"0.weight": torch.zeros(3, 4)}, here / "weights.state")
    (here / "bad.py").write_text("def f(:\n")
    (here / "tabs.py").write_text("def f():\n\tx = 1\n        y = 2\n")
    (here / "bin.py").write_bytes(bytes(range(256)))
    (here / "empty.py").write_text("")
    (here / "imports.py").write_text("import no_such_thing\n")
    (here / "exits.py").write_text("import sys\nsys.exit(4)\n")
    for folder in ("d", "folder.py", "folder.npy", "folder.mtx"):
        (here / folder).mkdir()
    random = np.random.default_rng(0)
    square = random.normal(size=(6, 6))
    good = square + square.T
    gap = good.copy()
    gap[2, 1] = gap[1, 2] = np.nan
    arrays = {
        "good": good,
        "rows": good[:4],
        "vector": good[0],
        "cube": np.zeros((2, 2, 2)),
        "scalar": np.array(3.0),
        "none": np.zeros((0, 0)),
        "skew": square - square.T,
        "unsymmetric": square,
        "nan": gap,
        "inf": np.where(np.isnan(gap), np.inf, gap),
        "words": np.array([["a", "b"], ["b", "c"]]),
        "dates": np.zeros((2, 2), dtype="datetime64[s]"),
        "fields": np.zeros((2, 2), dtype=[("a", float)]),
        "complex": good + 1j * good,
        "zeros": np.zeros((4, 4)),
        "large": good * 1e300,
    }
    for name, array in arrays.items():
        np.save(here / f"{name}.npy", array)
    np.save(here / "objects.npy", np.array([[1, None], [None, 2]], dtype=object), allow_pickle=True)
    np.savez(here / "good.npz", good)
    np.savez(here / "two.npz", a=good, b=good)
    np.savez(here / "none.npz")
    sp.save_npz(here / "triangle.npz", sp.csr_array(np.triu(good)))
    for name, text in MARKETS.items():
        (here / f"{name}.mtx").write_text(MARKET + text)
    for ending in ("npy", "npz", "mtx"):
        (here / f"empty.{ending}").write_bytes(b"")
        (here / f"junk.{ending}").write_bytes(bytes(range(256)) * 4)
        (here / f"text.{ending}").write_text("hello\n")
    for ending in ("npy", "npz"):
        (here / f"cut.{ending}").write_bytes((here / f"good.{ending}").read_bytes()[:200])
    for ending in ("pt", "safetensors", "npz", "bin"):
        (here / f"weights.{ending}").write_bytes(b"junk")
    (here / "broken.json").write_text("{broken")
    (here / "list.json").write_text("[1, 2]")
    (here / "null.json").write_text("null")
    (here / "nothing.json").write_text("")
    (here / "object.json").write_text("{}")
    (here / "binary.json").write_bytes(b"\xff\xfe\0")
    (here / "record.jsonl").write_text('{"command": "count"}\n')


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    here = tmp_path_factory.mktemp("malformed")
    write_files(here)
    return here


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def state_of(here: Path) -> dict[str, tuple[int, int]]:
    """Names, sizes and times of all files, but for what Python writes when it imports."""
    files = (path for path in here.rglob("*") if "__pycache__" not in path.parts)
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


T = "count {} --threshold 1"
GOOD = "count good.npy "

FUNCTIONS = {
    "boom": "p.py:boom must return (model, loss, data); it raised RuntimeError: the disk is gone, both of them (p.py",
    "refuses": "p.py:refuses must return (model, loss, data); it raised ValueError: no weights (p.py, line 7)",
    "bare": "it raised ValueError (p.py, line 8)",
    "key": "it raised KeyError: 'missing' (p.py, line 9)",
    "asserts": "it raised AssertionError (p.py, line 10)",
    "memory": "it raised MemoryError (p.py",
    "stops": "it raised StopIteration (p.py",
    "recursion": "it raised RecursionError: maximum recursion depth exceeded (p.py",
    "leaves": "it ended the program, exit(3) (p.py",
    "leaves_silently": "it ended the program, exit(None) (p.py",
    "leaves_saying": "it ended the program, exit('bye') (p.py",
    "reads": "it raised EOFError",
    "needs": "callable without arguments; missing a required argument: 'x'",
    "coroutine": "got coroutine",
    "none": "(model, loss, data), or a Hessian; got NoneType",
    "text": "got str",
    "mapping": "got dict",
    "two": "got 2 things",
    "four": "got 4 things",
    "swapped": "trainable parameters; got a model without parameters",
    "number_first": "a torch.nn.Module first; got int",
    "classes": "got the class CrossEntropyLoss: pass an instance, CrossEntropyLoss()",
    "loss_number": "a loss(outputs, targets) second, or None; got int",
    "loss_whole": "a real floating-point tensor; got torch.int64",
    "loss_plain": "a real floating-point tensor; got float",
    "loss_none": "a real floating-point tensor; got NoneType",
    "loss_raises": "they raised KeyError: 'targets'",
    "loss_exits": "must return or raise; it ended the program, exit(1)",
    "data_number": "(inputs, targets) or batches third; got int",
    "data_none": "(inputs, targets) or batches third; got NoneType",
    "data_text": "a pair (inputs, targets) of tensors or a re-iterable of pairs (list, DataLoader); got str",
    "data_alone": "a re-iterable of pairs (list, DataLoader); got Tensor",
    "data_empty": "at least one sample; got zero-length tensors",
    "data_no_batch": "at least one batch (inputs, targets); got an empty iterable",
    "data_once": "got a one-shot generator: use list(data)",
    "data_lengths": "got lengths [30] in the inputs and [7] in the targets",
    "data_shape": "must accept the data; on tensors of shapes [(8, 3), (8,)] they raised RuntimeError",
    "data_labels": "IndexError: Target 6 is out of bounds",
    "data_nan": "inputs must be finite; got 1 NaN",
    "infinite": "the model's weights must be finite; got NaN or infinity in '0.weight'",
    "frozen": "none of which has requires_grad",
    "dropout": "active dropout, p = 0.5: call model.eval() first",
    "absent": "must have a function absent",
    "NUMBER": "must have a function NUMBER",
}

FILES = {
    "bad.py:f": "SyntaxError: invalid syntax (bad.py, line 1): mend it first",
    "tabs.py:f": "(tabs.py, line 3): mend it first",
    "bin.py:f": "null bytes: mend it first",
    "empty.py:f": "must have a function f",
    "imports.py:f": "No module named 'no_such_thing' (imports.py, line 1)",
    "exits.py:f": "SystemExit: 4 (exits.py, line 2)",
    "folder.py:f": "a problem is taken from a file; folder.py is a folder",
    "absent.py:f": "there is no file absent.py to take a problem from: `lanczos-saddle new absent.py`",
    "../absent.py:f": "there is no file ../absent.py",
    "/no/such/p.py:f": "there is no file /no/such/p.py",
    "": "a problem is one of digits, mnist",
    "-": "a problem is one of digits, mnist",
    "/": "a problem is one of digits, mnist",
    "a\0b": "a problem is one of digits, mnist",
    "DIGITS": "a problem is one of digits, mnist",
    ":": "package.module:function or path/to/file.py:function; got ':'",
    "p.py": "named file.py:function; got 'p.py': add the function's name",
    "p.py:": "path/to/file.py:function; got 'p.py:'",
    "p.py:small:x": "path/to/file.py:function; got 'p.py:small:x'",
    "p.py:small()": "path/to/file.py:function; got 'p.py:small()'",
    "p.pyc:small": "there is no module p.pyc",
    "é:é": "there is no module é",
    "good.npy:f": "there is no module good",
}

MATRICES = {
    "rows.npy": "square, (N, N) with N >= 1; rows.npy has shape (4, 6)",
    "vector.npy": "has shape (6,)",
    "cube.npy": "has shape (2, 2, 2)",
    "scalar.npy": "has shape ()",
    "none.npy": "has shape (0, 0)",
    "skew.npy": "must be symmetric, |A - A'| / |A| at most 1.5e-08; skew.npy is off by 2.0e+00",
    "unsymmetric.npy": "count its symmetric part, (A + A') / 2",
    "nan.npy": "must be finite; nan.npy has 2 that are not, one in row 1, column 2",
    "inf.npy": "must be finite; inf.npy has 2 that are not",
    "words.npy": "made of numbers; words.npy has <U1",
    "dates.npy": "made of numbers; dates.npy has datetime64[s]",
    "fields.npy": "made of numbers; fields.npy has",
    "complex.npy": "which has to be real): count its Hermitian part",
    "objects.npy": "arrays of objects run code when they are read",
    "empty.npy": "cannot be read (No data left in file)",
    "junk.npy": "begins with \\x93NUMPY; junk.npy begins with b'\\x00\\x01\\x02\\x03\\x04\\x05'",
    "text.npy": "begins with \\x93NUMPY; text.npy begins with b'hello\\n'",
    "cut.npy": "cannot be read (mmap length",
    "folder.npy": "there is no file folder.npy",
    "absent.npy": "there is no file absent.npy",
    "empty.npz": "cannot be read (File is not a zip file)",
    "junk.npz": "cannot be read (File is not a zip file)",
    "cut.npz": "cannot be read (File is not a zip file)",
    "two.npz": "an archive of a matrix has one array; two.npz has a, b",
    "none.npz": "has one array; none.npz has none",
    "triangle.npz": "one triangle alone is stored",
    "empty.mtx": "Missing banner",
    "junk.mtx": "Missing banner",
    "range.mtx": "Line 3: Row index out of bounds",
    "from_zero.mtx": "Line 3: Row index out of bounds",
    "few.mtx": "Truncated file",
    "wide.mtx": "has shape (2, 3)",
    "skew.mtx": "skew-symmetric, A' = -A, whose eigenvalues are imaginary",
    "none.mtx": "has shape (0, 0)",
    "negative.mtx": "dimensions can't be negative",
    "giant.mtx": "GiB are free",
    "nan.mtx": "must be finite; nan.mtx has 1",
    "half.mtx": "one triangle alone is stored",
    "unknown.mtx": "Invalid MatrixMarket header element: quaternion",
    "folder.mtx": "there is no file folder.mtx",
}

TAU = "--threshold must be positive and finite; got "
SEVERAL = "--threshold: tau must be a number, or several with commas"
ENDS = "--interval needs finite ends a < b; got a = "
BOTH = "not allowed with argument --threshold"
NO_MATRIX = "good.npy is a matrix: leave --weights and --parameters out"

# options of `count good.npy`; words are split at spaces, and '' is an empty one
OPTIONS = {
    "--threshold 0": f"{TAU}0.0",
    "--threshold -0": f"{TAU}-0.0",
    "--threshold -1": f"{TAU}-1.0",
    "--threshold inf": f"{TAU}inf",
    "--threshold -inf": f"{TAU}-inf",
    "--threshold nan": f"{TAU}nan",
    "--threshold 1e-400": f"{TAU}0.0",
    "--threshold 1e400": f"{TAU}inf",
    "--threshold 0,1": f"{TAU}0.0",
    "--threshold 1,nan": f"{TAU}nan",
    "--threshold ''": SEVERAL,
    "--threshold x": SEVERAL,
    "--threshold 0x10": SEVERAL,
    "--threshold 1e-3,": SEVERAL,
    "--threshold 1e-3,1e-3": "--threshold must be one number, or several that all differ; got (0.001, 0.001)",
    "--threshold": "argument --threshold: expected one argument",
    "--relative-threshold 0": "--relative-threshold must be positive and finite; got 0.0",
    "--relative-threshold -1": "--relative-threshold must be positive and finite; got -1.0",
    "--relative-threshold 1": "--relative-threshold must be below 1",
    "--relative-threshold inf": "--relative-threshold must be",
    "--relative-threshold nan": "--relative-threshold must be positive and finite; got nan",
    "--relative-threshold 1e-3,2": "--relative-threshold must be below 1, where every eigenvalue is near zero; got 2.0",
    "--relative-threshold 1e-3,1e-3": "--relative-threshold must be one number, or several that all differ",
    "": "one of the arguments --interval --threshold --relative-threshold is required",
    "--threshold 1 --relative-threshold 1e-3": BOTH,
    "--threshold 1 --interval 0 1": BOTH,
    "--treshold 1": "there is no option --treshold; did you mean --threshold?",
    "--threshold 1 --stepz=3": "there is no option --stepz; did you mean --steps?",
    "--threshold 1 --zzzz": "there is no option --zzzz (lanczos-saddle count --help",
    "x --threshold 1": "unrecognized arguments: x",
    "--interval 0 0": f"{ENDS}0, b = 0",
    "--interval 1 0": f"{ENDS}1, b = 0",
    "--interval nan 1": f"{ENDS}nan",
    "--interval 0 inf": "`lanczos-saddle inertia PROBLEM --at T`",
    "--interval -inf 0": f"{ENDS}-inf",
    "--interval x 1": "argument --interval: invalid float value: 'x'",
    "--interval 0": "argument --interval: expected 2 arguments",
    "--interval 0 1 2": "unrecognized arguments: 2",
    "--interval 0 1 --enumerate-negative": "exactly or by lanczos alone; got --enumerate-negative: leave that out",
    "--interval 0 1 --preconditioner subset": "got --preconditioner subset: leave that out",
    "--interval 0 1 --method elimination": "got --method elimination: leave that out",
    "--interval 0 1 --probes 0": "--probes must be at least 1; got 0",
    "--interval 0 1 --steps 7": "--steps must be between 1 and 6",
    "--interval 0 1 --confidence 1": "--confidence must be between 0 and 1",
    "--interval 0 1 --max-products 1": "--max-products must leave one step",
    "--threshold 1 --confidence 0": "--confidence must be between 0 and 1, say 0.95; got 0.0",
    "--threshold 1 --confidence 95": "--confidence must be between 0 and 1, say 0.95; got 95.0",
    "--threshold 1 --confidence nan": "--confidence must be between 0 and 1, say 0.95; got nan",
    "--threshold 1 --confidence x": "argument --confidence: invalid float value: 'x'",
    "--threshold 1 --precision 0": "--precision is a fraction of N, between 0 and 1; got 0.0",
    "--threshold 1 --precision inf": "--precision is a fraction of N, between 0 and 1; got inf",
    "--threshold 1 --probes -1": "--probes must be at least 1; got -1",
    "--threshold 1 --probes 1.5": "argument --probes: invalid int value: '1.5'",
    "--threshold 1 --probes 99999999999999999999": "pass fewer --probes",
    "--threshold 1 --steps 0": "--steps must be between 1 and 6, the dimension of the operator; got 0",
    "--threshold 1 --steps nan": "argument --steps: invalid int value: 'nan'",
    "--threshold 1 --max-products 0": "--max-products must leave the exact count after the preflight; got 0: raise it",
    "--threshold 1 --max-products 1e9": "argument --max-products: invalid int value: '1e9'",
    "--threshold 1 --seed -1": "argument --seed: a seed must be a whole number from 0 to 2^63 - 1; got -1",
    "--threshold 1 --seed 9223372036854775808": "argument --seed: a seed must be",
    "--threshold 1 --seed ''": "argument --seed: a seed must be a whole number from 0 to 2^63 - 1; got ''",
    "--threshold 1 --method Exact": "argument --method: invalid choice: 'Exact'",
    "--threshold 1 --method elimination": "count with --method lanczos",
    "--threshold 1 --preconditioner kfac": "argument --preconditioner: invalid choice: 'kfac'",
    "--threshold 1 --preconditioner subset": "got Tensor: pass --preconditioner none, or an S of your own",
    "--threshold 1 --dtype float16": "argument --dtype: invalid choice: 'float16'",
    "--threshold 1 --device gpu": "argument --device: a device must be cpu, cuda or cuda:i; got gpu",
    "--threshold 1 --device cuda:-1": "argument --device: a device must be cpu, cuda or cuda:i; got cuda:-1",
    "--threshold 1 --device cuda:99": "--device cuda:99 needs that CUDA device",
    "--threshold 1 --device ''": "argument --device: a device must be cpu, cuda or cuda:i; got ''",
    "--threshold 1 --rank-timeout nan": "argument --rank-timeout: a time limit must be from 1 to 1e7 seconds; got nan",
    "--threshold 1 --weights w.npz": NO_MATRIX,
    "--threshold 1 --parameters 0.*": NO_MATRIX,
    "--threshold 1 --state d": "results are written to a file in a writable folder; d is a folder",
    "--threshold 1 --state broken.json": "must be a state that a count has saved; it cannot be read",
    "--threshold 1 --state record.jsonl": "must be a state that a count has saved; it cannot be read",
    "--threshold 1 --state empty.state": "must be a state that a count has saved; it cannot be read",
    "--threshold 1 --state cut.state": "cut.state cannot be read, its beginning is damaged: name another file",
    "--threshold 1 --state weights.state": f"must be a state of format {FORMAT}; it is not one, or older",
    "--threshold 1 --state good.npy": "the input good.npy and --state both name good.npy",
    "--threshold 1 --json d": "d is a folder: name another file",
    "--threshold 1 --json ''": "'' is empty: name another file",
    "--threshold 1 --json good.npy": "the input good.npy and --json both name good.npy",
    "--threshold 1 --json ./good.npy": "the input good.npy and --json both name ./good.npy",
    "--threshold 1 --json d/../good.npy": "the input good.npy and --json both name",
    "--threshold 1 --json good.npy/x": "results are written to a file in a writable folder",
    "--threshold 1 --json /proc/x": "results are written to a file in a writable folder",
    "--threshold 1 --record good.npy": "the input good.npy and --record both name good.npy",
    "--threshold 1 --record bad.py": "bad.py begins with b'def f(:\\n' and holds no lines of JSON: name another file",
    "--threshold 1 --record list.json": "list.json begins with b'[1, 2]' and holds no lines of JSON",
    "--threshold 1 --record a --json a": "every result needs a file of its own; --json and --record both name a",
    "--threshold 1 --json": "argument --json: expected one argument",
}

COMMANDS = {
    "nope": "argument COMMAND: invalid choice: 'nope'",
    "''": "argument COMMAND: invalid choice: ''",
    "--nope": "--nope",
    "count": "the following arguments are required: PROBLEM",
    "count --nope": "there is no option --nope",
    "count zeros.npy --relative-threshold 1e-3": "every product was zero: pass --threshold",
    "count large.npy --threshold 1 --method lanczos": "of 2^-9",
    "count p.py:small --threshold 1 --weights absent.pt": "there is no weights file absent.pt",
    "count p.py:small --threshold 1 --weights weights.pt": "weights.pt must be a torch file of plain tensors",
    "count p.py:small --threshold 1 --weights weights.safetensors": "must be a whole safetensors file",
    "count p.py:small --threshold 1 --weights weights.npz": "weights.npz must",
    "count p.py:small --threshold 1 --weights weights.bin": "--weights are read from .safetensors, .npz, .pt, .pth",
    "count p.py:small --threshold 1 --weights d": "--weights are read from",
    "count p.py:small --threshold 1 --parameters 9.*": "every pattern in --parameters must match",
    "count p.py:small --threshold 1 --parameters ''": "every pattern in --parameters must match",
    "exact nan.npy": "must be finite",
    "exact absent.npy": "there is no file absent.npy",
    "exact p.py:boom": "it raised RuntimeError",
    "exact good.npy --output x.txt": "argument --output: the file must end in .npz; got x.txt",
    "exact good.npy --output ''": "argument --output: the file must end in .npz; got ''",
    "exact good.npz --output good.npz": "the input good.npz and --output both name good.npz",
    "check none.npy": "has shape (0, 0)",
    "check p.py:none": "got NoneType",
    "classify good.npy": "one of the arguments --threshold --relative-threshold is required",
    "classify good.npy --threshold 1,2": "argument --threshold: invalid float value: '1,2'",
    "classify p.py:small --threshold 1e-3 --epsilon 0": "--epsilon must be positive and finite; got 0.0",
    "classify p.py:small --threshold 1e-3 --kappa -1": "--kappa must be between 0 and N - 1 = 22; got -1",
    "classify p.py:small --threshold 1e-3 --gamma nan": "--gamma must be positive and finite; got nan",
    "classify p.py:small --threshold 1e-3 --radius inf": "--radius must be positive and finite; got inf",
    "classify p.py:small --threshold 1e-3 --rho -1": "--rho must be finite and at least 0; got -1.0",
    "classify p.py:small --threshold 1e-3 --lowest inf": "--lowest must be a lower bound on the loss; got inf",
    "classify p.py:small --threshold 1e-3 --search-steps 0": "--search-steps: a number of them must be at least 1; got",
    "density good.npy --probes 0": "--probes must be a whole number of at least 1; got 0",
    "density good.npy --steps x": "argument --steps: invalid int value: 'x'",
    "density good.npy --output d/": "argument --output: the file must end in .npz; got d/",
    "density good.npy --output other.npz --json other.png": "--json and the figure both name other.png",
    "density good.npy --linear 1": "--linear: a fraction must be between 0 and 1",
    "inertia good.npy": "the following arguments are required: --at",
    "inertia good.npy --at": "argument --at: expected at least one argument",
    "inertia good.npy --at nan": "argument --at: a threshold must be a finite number, say -1e-4; got nan",
    "inertia good.npy --at 0 1e400": "argument --at: a threshold must be a finite number, say -1e-4; got 1e400",
    "inertia good.npy --at 0 --memory 0": "argument --memory: memory must be more than 0 GiB, at most 1e9; got 0",
    "inertia good.npy --at 0 --memory nan": "argument --memory: memory must be more than 0 GiB, at most 1e9; got nan",
    "inertia good.npy --at 0 --memory inf": "argument --memory: memory must be more than 0 GiB, at most 1e9; got inf",
    "inertia good.npy --at 0 --memory 1e-9": "pass --directory for a file",
    "inertia good.npy --at 0 --directory good.npy": "a file needs a directory that is there; got good.npy",
    "bench good.npy --threshold 0": "--threshold must be positive and finite; got 0.0",
    "bench good.npy --relative-threshold 2": "--relative-threshold: a fraction must be between 0 and 1",
    "bench good.npy --confidence nan": "--confidence must be between 0 and 1",
    "bench good.npy --exact-up-to -1": "--exact-up-to: a dimension must be a whole number of at least 0; got -1",
    "bench zeros.npy": "every product was zero: pass --threshold",
    "report": "the following arguments are required: RECORD",
    "report absent.json": "a record is a text file with JSON objects; absent.json cannot be read",
    "report d": "d cannot be read",
    "report good.npy": "good.npy cannot be read",
    "report binary.json": "binary.json cannot be read",
    "report broken.json": "a record is a JSON object, or one a line; broken.json, line 1",
    "report list.json": "list.json holds something else",
    "report null.json": "null.json holds something else",
    "report nothing.json": "nothing",
    "report object.json": "object.json holds an object, without counts",
    "report record.jsonl": "record.jsonl holds an object, without counts",
    "report record.jsonl -o x.txt": "-o/--output: the file must end in .html; got x.txt",
    "new": "the following arguments are required: FILE",
    "new x.txt": "argument FILE: the file must end in .py; got x.txt",
    "new .py": "argument FILE: the file must end in .py; got .py",
    "new ''": "argument FILE: the file must end in .py; got ''",
    "new p.py": "p.py is there already: name another file, or pass --force",
    "new folder.py --force": "folder.py is a folder",
    "new q.py --json q.py": "--json and FILE both name q.py",
    "completion": "the following arguments are required: shell",
    "completion tcsh": "invalid choice: 'tcsh'",
    "doctor x": "unrecognized arguments: x",
    "download x": "unrecognized arguments: x",
    "train digits": "the following arguments are required: --output",
    "train x --output a.safetensors": "train knows the built-in problems only, digits and mnist; got 'x'",
    "train good.npy --output a.safetensors": "train knows the built-in problems only, digits and mnist; got 'good.npy'",
    "train p.py:small --output a.safetensors": "train knows the built-in problems only",
    "train digits --output a.pt": "argument --output: the file must end in .safetensors; got a.pt",
    "reproduce": "the following arguments are required: NAME",
    "reproduce table0": "argument NAME: invalid choice: 'table0'",
    "reproduce table1 --datasets x": "--datasets: a dataset is one of digits, mnist",
    "reproduce table1 --datasets absent.npz": "there is no data file absent.npz",
    "reproduce table1 --datasets good.npz --store none": "good.npz must hold x_train",
    "reproduce table1 --trials 0": "--trials: a number of them must be at least 1; got 0",
    "reproduce table1 --report-only --store none": "--report-only prints what a store has",
    "reproduce table1 --store good.npy": "good.npy is a file: name another folder",
    "landscapes --limit 0": "--limit must be at least 1",
    "landscapes --output good.npy": "good.npy is a file: name another folder",
    "demo --output good.npy": "good.npy is a file: name another folder",
}

CASES = [
    *((T.format(f"p.py:{name}"), said) for name, said in FUNCTIONS.items()),
    *((T.format(name or "''"), said) for name, said in FILES.items()),
    *((T.format(name), said) for name, said in MATRICES.items()),
    *((f"{GOOD}{options}", said) for options, said in OPTIONS.items()),
    *COMMANDS.items(),
]


def words(line: str) -> list[str]:
    return ["" if word == "''" else word for word in line.split()]


def test_there_are_many():
    assert len(CASES) == len(dict(CASES)) > 200


@pytest.mark.parametrize(("line", "said"), CASES, ids=[repr(line) for line, _ in CASES])
def test_malformed_input_takes_one_line(here, capsys, monkeypatch, line, said):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    before = state_of(here)
    assert main([*words(line)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("lanczos-saddle: ")
    assert err.count("\n") == 1
    assert said in err
    assert "Traceback" not in err
    assert state_of(here) == before


@pytest.mark.parametrize("name", ["boom", "refuses", "leaves"])
def test_a_traceback_shows_where_a_problem_failed(here, name):
    with pytest.raises(ValueError, match="must return") as caught:
        main(["--traceback", "count", f"p.py:{name}", "--threshold", "1"])
    assert isinstance(caught.value.__cause__, RuntimeError | ValueError | SystemExit)


def test_what_a_problem_prints_stands_before_the_counts(here, capsys):
    assert main(["count", "p.py:prints", "--threshold", "1"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("hello\n negative")
    assert err == ""


def test_a_problem_that_closes_the_output_keeps_no_counts_from_it(here, capsys):
    assert main(["count", "p.py:closes", "--threshold", "1"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(" negative")
    assert err == ""


def test_the_threshold_that_is_told_is_the_one_that_was_asked_for(here, capsys):
    for tau in ("1", "1e200"):  # of a matrix at 1e300, which is counted as 2^-998 of it
        assert main(["count", "large.npy", "--threshold", tau]) == 0
        values = np.linalg.eigvalsh(np.load("good.npy")) * 1e300
        out = capsys.readouterr().out.splitlines()
        assert [line.split()[-1] for line in out[:3]] == [
            str(int(n)) for n in ((values < -float(tau)).sum(), (abs(values) <= float(tau)).sum(), (values > 1).sum())
        ]
        assert f"lambda < -{float(tau):.3e}" in out[0]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("line", ["--version", "count --help", "", "count good.npy --threshold 1"])
def test_an_output_that_takes_nothing_is_a_failure(here, capsys, monkeypatch, line):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(line.split()) == 1
    err = capsys.readouterr().err
    assert err.startswith("lanczos-saddle: standard output took not all: ")
    assert err.count("\n") == 1


NAMES = ["with space.npy", "semi;colon.npy", "-dash.npy", "été.npy", os.fsdecode(b"\xff\xfe.npy"), "new\nline.npy"]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_files_are_taken_as_they_are(folder, tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes((folder / "good.npy").read_bytes())
    given = name if not name.startswith("-") else f"./{name}"
    assert main(["count", given, "--threshold", "1", "--json", f"{given}.json"]) == 0
    assert main(["count", f"{given}x.npy", "--threshold", "1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert (tmp_path / f"{name}.json").stat().st_size > 100


@pytest.mark.parametrize("columns", ["1", "20", "9999", "x"])
def test_a_terminal_of_any_width_gets_counts_and_help(here, capsys, monkeypatch, columns):
    for name, value in {"COLUMNS": columns, "TERM": "dumb", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    assert main(["count", "good.npy", "--threshold", "1"]) == 0
    out = capsys.readouterr().out
    assert "near zero" in out
    assert "\x1b" not in out
    assert main([]) == 0
    assert "count" in capsys.readouterr().out


COMMAND = [sys.executable, "-m", "lanczos_saddle"]


@pytest.mark.slow
@pytest.mark.parametrize("locale", ["C", "POSIX", "en_US.ISO-8859-1"])
def test_a_locale_without_utf8_prints_what_it_can(here, locale):
    surroundings = {**os.environ, "LANG": locale, "LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for name, status in (("été.npy", 2), ("good.npy", 0)):
        done = subprocess.run([*COMMAND, "count", name, "--threshold", "1"], capture_output=True, env=surroundings)
        assert done.returncode == status
        assert b"Traceback" not in done.stderr
        assert done.stderr.count(b"\n") == (1 if status else 0)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_before_anything_is_known(here, tmp_path, number, status):
    (tmp_path / "slow.py").write_text(
        "import pathlib, time\ndef f():\n  pathlib.Path('on').touch()\n  time.sleep(99)\n"
    )
    line = ["count", "slow.py:f", "--threshold", "1", "--json", "new/c.json", "--record", "r.jsonl"]
    process = subprocess.Popen([*COMMAND, *line], cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    while not (tmp_path / "on").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (status, b"")
    assert err == f"lanczos-saddle: interrupted by {number.name}\n".encode()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == ["on", "slow.py"]


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(here, tmp_path, capsys):
    (tmp_path / "ro").mkdir(mode=0o500)
    assert main(["count", "good.npy", "--threshold", "1", "--json", f"{tmp_path}/ro/c.json"]) == 2
    assert "Permission denied" in capsys.readouterr().err
