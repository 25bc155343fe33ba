"""Sparse matrices in compressed rows, as torch multiplies them."""

import warnings

import torch
from torch import Tensor


def sparse_csr(starts: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int], device: torch.device) -> Tensor:
    """Sparse CSR tensor on a device: `starts` (rows + 1,), `columns` and `values` (entries,), all checked."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state")
        matrix = torch.sparse_csr_tensor(starts, columns, values, shape, check_invariants=True)
    return matrix.to(device)
