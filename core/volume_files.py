"""Reads volumes back from files that were written here, or by others: HDF5 results, NIfTI, .npy, zips of DICOM."""

import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from udig_recon.core.errors import ReconstructionError
from udig_recon.core.files.checksummed_arrays import ARCHIVE_ERRORS
from udig_recon.core.results import hdf5
from udig_recon.core.results.output_format import Image, ResultInfo, ResultSlice
from udig_recon.core.results.store import SliceResult


@dataclass(frozen=True, eq=False)
class OpenedVolume:
    """A volume whose file is open: its slices, and what the file says of all."""

    slices: Sequence[ResultSlice]
    info: ResultInfo
    notes: Sequence[str] = ()  # what of the file is not in it


@contextmanager
def open_volume(path: Path) -> Iterator[OpenedVolume]:
    """Open a volume by the suffix of its file. Raises ReconstructionError where it is none or damaged, and OSError."""
    opener = next((each for suffix, each in _OPENERS.items() if path.name.endswith(suffix)), None)
    if opener is None:
        raise ReconstructionError.at("file", path.name, f"a volume that ends in one of {', '.join(_OPENERS)}")
    with _damage_as_error(path):
        opened = opener(path)
        volume = opened.__enter__()
    try:
        yield volume
    finally:
        opened.__exit__(None, None, None)


@contextmanager
def _damage_as_error(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except ARCHIVE_ERRORS as error:
        raise ReconstructionError(f"{path.name} is no such volume, or it is damaged: {error}") from error


@contextmanager
def _open_hdf5(path: Path) -> Iterator[OpenedVolume]:
    with hdf5.open_result(path) as stored:
        try:
            info = stored.info
        except KeyError:
            found = "an HDF5 file without a reconstruction (`udig run` makes one of a scan)"
            raise ReconstructionError.at("file", found, "a result of this software", subject=path.name) from None
        yield OpenedVolume([*stored.slices()], info)


@contextmanager
def _open_npy(path: Path) -> Iterator[OpenedVolume]:
    values = np.load(path, mmap_mode="r", allow_pickle=False)
    volume = values[None] if values.ndim == 2 else values
    if volume.ndim != 3 or volume.dtype.kind not in "fiucb" or not volume.size:
        found = f"an array {values.shape} of {values.dtype}"
        raise ReconstructionError.at("file", found, "numbers (slices, y, x) or (y, x)", subject=path.name)
    read: Callable[[int], Any] = volume.__getitem__
    yield OpenedVolume(_Images(read, len(volume)), ResultInfo(len(volume), {}), ["a .npy file tells no spacing"])


@contextmanager
def _open_nifti(path: Path) -> Iterator[OpenedVolume]:
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    try:
        image: Any = nibabel.load(path)
    except ImageFileError as error:
        raise ValueError(str(error)) from error
    header, shape = image.header, image.shape
    if not 2 <= len(shape) <= 4 or 0 in shape:
        raise ReconstructionError.at("file", f"an image of shape {shape}", "(x, y, z) or (x, y, z, volume)")
    shape = (*shape, 1, 1)[:4]
    values = image.get_fdata(dtype=np.float32, caching="unchanged").reshape(shape)
    spacing = [float(each) for each in (*header.get_zooms(), 1.0, 1.0)[:3]]
    attributes: dict[str, Any] = {"pixel_spacing_mm": spacing[1::-1], "slice_spacing_mm": spacing[2]}
    if int(header["sform_code"]) or int(header["qform_code"]):
        attributes["affine"] = (np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine).tolist()
    if shape[3] > 1:
        attributes["frames"] = [{"slice": z, "repetition": t} for t in range(shape[3]) for z in range(shape[2])]
    count = shape[2] * shape[3]
    yield OpenedVolume(
        _Images(lambda index: values[:, :, index % shape[2], index // shape[2]].T, count),
        ResultInfo(count, {"slice_numbers": list(range(count)), **attributes}),
    )


@contextmanager
def _open_dicom_zip(path: Path) -> Iterator[OpenedVolume]:
    """The series of the folder `reconstruction`, or else of the first folder."""
    from udig_recon.core.training.dicom import series

    with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
        names = sorted(each for each in archive.namelist() if each.endswith(".dcm"))
        folders = list(dict.fromkeys(str(PurePosixPath(each).parent) for each in names))
        if not folders:
            raise ReconstructionError.at("file", "no .dcm file in it", "a zip of DICOM series", subject=path.name)
        shown = next((each for each in folders if each.startswith("reconstruction")), folders[0])
        files = []
        for number, name in enumerate(each for each in names if str(PurePosixPath(each).parent) == shown):
            files.append(Path(folder) / f"{number}.dcm")
            files[-1].write_bytes(archive.read(name))
        found = next(series(files), None)
        if found is None:
            raise ReconstructionError.at(
                "file", f"no grey image in {shown}", "a zip of DICOM series", subject=path.name
            )
        values, spacing = found
        others = ", ".join(each for each in folders if each != shown)
        attributes = {} if spacing is None else {"pixel_spacing_mm": spacing[:2], "slice_spacing_mm": spacing[2]}
        count = values.shape[2]
        yield OpenedVolume(
            _Images(lambda index: values[:, :, index], count),
            ResultInfo(count, attributes),
            [f"shown is the series {shown}; not shown: {others}"] if others else [],
        )


class _Images(Sequence[ResultSlice]):
    """Slices that are an image (y, x) and nothing else."""

    def __init__(self, read: Callable[[int], Any], count: int) -> None:
        self._read, self._count = read, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(self._count))]
        if not 0 <= index < self._count:
            raise IndexError(index)
        values = np.asarray(self._read(index))
        image: Image = np.ascontiguousarray(np.abs(values) if np.iscomplexobj(values) else values, np.float32)
        return SliceResult(image=image, image_complex=None, direct=image, reference=None, curves={})


_OPENERS: dict[str, Callable[[Path], AbstractContextManager[OpenedVolume]]] = {
    ".h5": _open_hdf5,
    ".npy": _open_npy,
    ".nii.gz": _open_nifti,
    ".nii": _open_nifti,
    ".dicom.zip": _open_dicom_zip,
}
