"""Geometry of a slice as DICOM has it (Image Plane Module): images as radiologists view them, by index alone.

Axial images show the patient's left at the right and the back below, coronal ones left and feet, sagittal ones back and
feet. Rows and columns are exchanged and reversed for that; no value is interpolated.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_VIEWS = {
    0: ((0, 1, 0), (0, 0, -1)),  # sagittal: columns run to the back, rows to the feet
    1: ((1, 0, 0), (0, 0, -1)),  # coronal: columns run to the left, rows to the feet
    2: ((1, 0, 0), (0, 1, 0)),  # axial: columns run to the left, rows to the back
}
"""By the axis (L, P, S) that slices are stacked along: directions of columns and rows on the screen."""

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class SliceGeometry:
    """Where the slices of an affine lie, and how their images (y, x) are turned to be viewed."""

    affine: NDArray[np.float64]  # (4, 4): (column, row, slice position, 1) to mm (L, P, S)
    transposed: bool
    rows_reversed: bool  # of the image that is viewed
    columns_reversed: bool

    @classmethod
    def of(cls, affine: Any) -> "SliceGeometry":
        """The geometry of an affine whose first two columns are not zero."""
        matrix = np.asarray(affine, float)
        x, y = _unit(matrix[:3, 0]), _unit(matrix[:3, 1])
        right, down = map(np.array, _VIEWS[int(np.abs(np.cross(x, y)).argmax())])
        transposed = bool(abs(y @ right) + abs(x @ down) > abs(x @ right) + abs(y @ down))
        across, along = (y, x) if transposed else (x, y)
        return cls(matrix, transposed, bool(along @ down < 0), bool(across @ right < 0))

    @property
    def row_direction(self) -> Vector:
        """Unit vector along which the column index of a viewed image grows: the first of ImageOrientationPatient."""
        direction = _unit(self.affine[:3, 1 if self.transposed else 0])
        return -direction if self.columns_reversed else direction

    @property
    def column_direction(self) -> Vector:
        """Unit vector along which the row index of a viewed image grows: the second of ImageOrientationPatient."""
        direction = _unit(self.affine[:3, 0 if self.transposed else 1])
        return -direction if self.rows_reversed else direction

    @property
    def spacing_mm(self) -> tuple[float, float]:
        """From row to row and from column to column of a viewed image: PixelSpacing."""
        x, y = (float(np.linalg.norm(self.affine[:3, axis])) for axis in (0, 1))
        return (x, y) if self.transposed else (y, x)

    def view(self, image: NDArray[Any]) -> NDArray[Any]:
        """An image (y, x) as it is viewed."""
        turned = image.T if self.transposed else image
        return turned[:: -1 if self.rows_reversed else 1, :: -1 if self.columns_reversed else 1]

    def position(self, shape: tuple[int, ...], slice_position: int) -> Vector:
        """The centre of the first pixel of a viewed image: ImagePositionPatient. `shape` (y, x) is of the image."""
        rows, columns = shape
        reversed_x, reversed_y = self.columns_reversed, self.rows_reversed
        if self.transposed:
            reversed_x, reversed_y = reversed_y, reversed_x
        corner = (columns - 1 if reversed_x else 0, rows - 1 if reversed_y else 0, slice_position, 1)
        return np.asarray(self.affine @ corner, float)[:3]

    def depth(self, slice_position: int) -> float:
        """Millimetres along the normal of viewed images, by which slices are put in order."""
        normal = np.cross(self.row_direction, self.column_direction)
        return float(normal @ (self.affine @ (0, 0, slice_position, 1))[:3])


def assumed_affine(pixel_spacing_mm: tuple[float, float], slice_spacing_mm: float | None) -> NDArray[np.float64]:
    """The affine of a scan that does not tell how the patient lay: axial slices seen from the feet, as in NIfTI."""
    down, right = pixel_spacing_mm
    return np.diag([right, down, 1.0 if slice_spacing_mm is None else slice_spacing_mm, 1.0])


def _unit(vector: Vector) -> Vector:
    return vector / np.linalg.norm(vector)
