#!/usr/bin/env bash
# torch 2.13.0: torch.linalg.ldl_factor of an exactly singular symmetric matrix is an internal error, though the factorization exists and
# LAPACK has completed it.
#
#     [[1, 1], [1, 1]] and a matrix of zeros, on a CPU
#     expected:  L and D with a zero in D, as scipy.linalg.ldl has it, or a LinAlgError as of the other factorizations
#     seen:      RuntimeError "INTERNAL ASSERT FAILED ... Unknown error code: 2, please report a bug to PyTorch". It is no LinAlgError
#
# Inertia is asked of singular matrices: a Hessian with dead coordinates has rows of zeros. ldl_factor_ex returns the same factors,
# with an `info` that says where the first zero is; they are right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'P'
import torch

print("torch", torch.__version__)
for matrix in (torch.ones(2, 2), torch.zeros(2, 2)):
    matrix = matrix.double()
    try:
        torch.linalg.ldl_factor(matrix)
        said = None
    except torch.linalg.LinAlgError:
        said = "LinAlgError"
    except RuntimeError as error:
        said = str(error)
    print(said)
    assert said is not None and "INTERNAL ASSERT FAILED" in said, "this behaviour has changed"
    factors, pivots, info = torch.linalg.ldl_factor_ex(matrix)
    lower = torch.tril(factors, -1) + torch.eye(2, dtype=torch.float64)
    print("    ldl_factor_ex: D", factors.diagonal().tolist(), "info", int(info))
    assert pivots.tolist() == [1, 2] and torch.equal(lower @ torch.diag(factors.diagonal()) @ lower.T, matrix)
P
