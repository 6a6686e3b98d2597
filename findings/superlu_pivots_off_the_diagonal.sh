#!/usr/bin/env bash
# scipy 1.17.1: scipy.sparse.linalg.splu in its symmetric mode, without threshold pivoting, is taken for L D L' with D = diag(U), whose
# signs count negative eigenvalues. Where a pivot is zero it leaves the diagonal without a word, and the signs mean nothing.
#
#     [[0, I], [I, 0]] of dimension 6: three eigenvalues -1, three 1. permc_spec="NATURAL", diag_pivot_thresh=0, SymmetricMode=True
#     expected:  an error for the zero pivot, or three negative numbers in U
#     seen:      six ones in U: "positive definite". The rows were exchanged; only perm_r != perm_c shows it
#
# Zero diagonals are usual: bordered and saddle-point systems, Hessians of products of parameters. Signs count where perm_r equals
# perm_c, and pivots are not small. scipy.linalg.ldl, with blocks of two, is right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet numpy==2.4.6 scipy==1.17.1
"$folder/venv/bin/python" - <<'P'
import numpy as np
import scipy
from scipy.linalg import ldl
from scipy.sparse import block_array, csc_array, eye_array
from scipy.sparse.linalg import splu

options = {"permc_spec": "NATURAL", "diag_pivot_thresh": 0.0, "options": {"SymmetricMode": True}}
rng = np.random.default_rng(0)
generic = rng.standard_normal((30, 30))
print("scipy", scipy.__version__)
seen = {}
for name, matrix in (("generic", csc_array(generic + generic.T)), ("saddle", csc_array(block_array([[None, eye_array(3)], [eye_array(3), None]])))):
    true = int((np.linalg.eigvalsh(matrix.toarray()) < 0).sum())
    factors = splu(matrix, **options)
    signs = int((factors.U.diagonal() < 0).sum())
    blocks = int((np.linalg.eigvalsh(ldl(matrix.toarray())[1]) < 0).sum())
    same = bool(np.array_equal(factors.perm_r, factors.perm_c))
    print(f"{name}: {true} negative eigenvalues, {signs} negative numbers in U, {blocks} by ldl; pivots on the diagonal: {same}")
    assert blocks == true
    seen[name] = true, signs, same
assert seen["generic"][0] == seen["generic"][1] and seen["generic"][2], "where pivots are on the diagonal, signs count"
assert seen["saddle"] == (3, 0, False), "this behaviour has changed"
P
