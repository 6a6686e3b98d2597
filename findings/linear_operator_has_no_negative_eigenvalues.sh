#!/usr/bin/env bash
# linear_operator 0.6.1 (the matrices of GPyTorch): the negative eigenvalues of a symmetric matrix come back as 0.
#
#     diag(-1 five times, 1 to 2 in 95 steps) as to_linear_operator(matrix)
#     expected:  eigvalsh() begins with -1, as that of torch, or the matrix is refused
#     seen:      eigvalsh() and eigh() begin with five zeros; no error, no warning: five directions of descent are degenerate ones
#
# Its classes are made for covariances. Ask torch.linalg.eigvalsh(operator.to_dense()).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6 scipy==1.17.1 mpmath==1.3.0 jaxtyping==0.3.11
"$folder/venv/bin/python" -m pip install --quiet --no-deps linear_operator==0.6.1
"$folder/venv/bin/python" - <<'P'
import torch
from linear_operator import __version__, to_linear_operator

matrix = torch.diag(torch.cat([-torch.ones(5), torch.linspace(1, 2, 95)])).double()
operator = to_linear_operator(matrix)
values, (from_eigh, vectors) = operator.eigvalsh(), operator.eigh()
print("linear_operator", __version__)
print("torch           ", torch.linalg.eigvalsh(matrix)[:7].tolist())
print("eigvalsh()      ", values[:7].tolist())
print("eigh()          ", from_eigh[:7].tolist())
basis = vectors.to_dense()
print("vector 0 by the matrix:", float(basis[:, 0] @ matrix @ basis[:, 0]))
assert torch.equal(operator.to_dense(), matrix)
assert abs(float(basis[:, 0] @ matrix @ basis[:, 0]) + 1) < 1e-9, "its own vectors know better"
for found in (values, from_eigh):
    assert bool((found[:5].abs() < 1e-9).all()), "this behaviour has changed"
P
