"""A forward model small enough to be held as a matrix."""

import math

import torch

from udig_recon.core.acquisition import Modality
from udig_recon.core.operators import LinearOperator

SHAPE = (1, 2, 3)
VARIANCE = 0.04
LEVEL = math.sqrt(VARIANCE)


class Matrix(LinearOperator):
    """y = H x with H (m, n) of norm 1, and noise of known level."""

    modality = Modality.CT

    def __init__(self, H, shape=SHAPE, level=LEVEL):
        self.H, self.image_shape, self.level, self.scale = H, shape, level, 1.0
        self.measured = torch.ones(1, len(H), dtype=torch.bool)

    def restrict(self, kept):
        raise NotImplementedError

    def noise_level(self, y):
        return self.level

    def _forward(self, x):
        return (x.flatten(1) @ self.H.T).reshape(len(x), 1, 1, -1)

    def _adjoint(self, y):
        return (y.flatten(1) @ self.H).reshape(-1, *self.image_shape)
