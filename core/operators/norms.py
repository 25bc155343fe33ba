"""Root of a sum of squares along some axes."""

import torch
from torch import Tensor


def root_sum_of_squares(x: Tensor, axes: int | tuple[int, ...], *, keepdim: bool = False) -> Tensor:
    """The 2-norm of real or complex x over axes, as float32.

    `torch.linalg.vector_norm` is many times slower on a CPU along other axes than the last. This one has no gradient
    where the norm is 0.
    """
    squares = torch.view_as_real(x).square().sum(-1) if x.is_complex() else x.square()
    return squares.sum(axes, keepdim=keepdim).sqrt()
