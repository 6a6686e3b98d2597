"""SLEPc's Krylov-Schur on a Hessian that is never formed, as a PETSc shell matrix; exact eigenvalues are the judge."""

import numpy as np
import torch
from petsc4py import PETSc
from slepc4py import SLEPc
from torch import nn

from lanczos_saddle import Hessian, exact_eigenvalues

torch.manual_seed(0)
x, y = torch.randn(300, 20).double(), torch.randint(4, (300,))
model = nn.Sequential(nn.Linear(20, 15), nn.Tanh(), nn.Linear(15, 4)).double()
H = Hessian(model, nn.CrossEntropyLoss(), (x, y))
exact = exact_eigenvalues(H).numpy()
print(f"N = {len(exact)}, exact: {exact[-3:]}")


class Shell:
    def mult(self, _, given, image):
        image.setArray((H @ torch.from_numpy(given.getArray().copy())).numpy())


matrix = PETSc.Mat().createPython([len(exact)] * 2, Shell(), comm=PETSc.COMM_SELF)
matrix.setUp()
solver = SLEPc.EPS().create(comm=PETSc.COMM_SELF)
solver.setOperators(matrix)
solver.setProblemType(SLEPc.EPS.ProblemType.HEP)
solver.setWhichEigenpairs(SLEPc.EPS.Which.LARGEST_REAL)
solver.setDimensions(nev=3)
solver.setTolerances(tol=1e-10)
solver.solve()
found = np.sort([solver.getEigenvalue(i).real for i in range(3)])
print(f"SLEPc: {found}")
print(f"converged: {solver.getConverged()}, iterations: {solver.getIterationNumber()}")
print(f"differ from the exact ones by {abs(found - exact[-3:]).max():.1e}")
