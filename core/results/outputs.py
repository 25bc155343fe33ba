"""Registry of output formats, and the functions that write results in them.

A new format is one module with a `FORMAT` and one line in `BUILT_IN`; another distribution adds one by an entry point
in the group `udig_recon.outputs` that names an `OutputFormat`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from udig_recon.core.errors import ReconstructionError
from udig_recon.core.extensions import BrokenExtension, load_extensions
from udig_recon.core.files.atomic import Digest, atomic_write
from udig_recon.core.interruption import check_interruption
from udig_recon.core.results import cfl, hdf5, mrd, nifti, npy, png
from udig_recon.core.results.dicom import formats as dicom
from udig_recon.core.results.output_format import OutputFormat, ResultInfo, ResultSlice, ResultWriter

ENTRY_POINTS = "udig_recon.outputs"
BUILT_IN = (hdf5.FORMAT, npy.FORMAT, nifti.FORMAT, png.FORMAT, *dicom.FORMATS, cfl.FORMAT, mrd.FORMAT)


def _registry(built_in: Sequence[OutputFormat]) -> dict[str, OutputFormat]:
    """Formats by name, those of other distributions last. Raises BrokenExtension."""
    registry = {each.name: each for each in built_in}
    for name, extension in load_extensions(ENTRY_POINTS).items():
        if not isinstance(extension, OutputFormat) or extension.name != name:
            raise BrokenExtension(f"{ENTRY_POINTS}: {name} is {extension!r}, expected an OutputFormat of this name")
        same = next((each for each in registry.values() if each.suffix == extension.suffix), registry.get(name))
        if same is not None:
            raise BrokenExtension(f"{ENTRY_POINTS}: {name} has the name or the suffix of the format {same.name}")
        registry[name] = extension
    return registry


OUTPUTS: Mapping[str, OutputFormat] = _registry(BUILT_IN)
"""Every format in which a result can be downloaded, by its name."""


def output_for(name: str) -> OutputFormat:
    """The format of a file with this name, by its suffix. Raises ReconstructionError where no format has it."""
    for output in OUTPUTS.values():
        if name.endswith(output.suffix):
            return output
    suffixes = ", ".join(output.suffix for output in OUTPUTS.values())
    raise ReconstructionError.at("output", name, f"a name that ends in one of {suffixes}")


class _Target:
    """A file that is being written; `digest` is known when its context has ended."""

    def __init__(self, writer: ResultWriter) -> None:
        self.writer = writer
        self.digest: Digest | None = None


@contextmanager
def _open_target(path: Path, output: OutputFormat, info: ResultInfo) -> Iterator[_Target]:
    """The file takes its name only when all of it is on the disk."""
    with atomic_write(path) as part:
        with output.open_writer(part, info) as writer:
            target = _Target(writer)
            yield target
        target.digest = Digest.of(part)


def write_result(
    slices: Iterable[ResultSlice], info: ResultInfo, targets: Mapping[Path, OutputFormat]
) -> dict[Path, Digest]:
    """Write a result in several formats in one pass over its slices, with memory for one slice.

    Each file is whole, or it is not there. Raises OSError, and what `slices` raises.
    """
    with ExitStack() as stack:
        opened = {path: stack.enter_context(_open_target(path, output, info)) for path, output in targets.items()}
        for result in slices:
            check_interruption()
            for target in opened.values():
                target.writer.add(result)
    return {path: target.digest for path, target in opened.items() if target.digest is not None}


def convert(result: Path, path: Path, output: OutputFormat) -> Digest:
    """Write the reconstruction in the HDF5 result file `result` to `path` in another format."""
    with hdf5.open_result(result) as stored:
        return write_result(stored.slices(), stored.info, {path: output})[path]
