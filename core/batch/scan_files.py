"""Scan files among the files and folders that a command was given, each under a name of its own."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from udig_recon.core.errors import ReconstructionError
from udig_recon.core.formats.sandbox.local import BART_PAIR


@dataclass(frozen=True)
class ScanFile:
    """A file that may be a scan."""

    path: Path
    name: str  # of its results: the file's name without suffix, below a folder that was given with its path there
    asked_for: bool  # whether the file itself was given, and not a folder that holds it


def find_scan_files(paths: Sequence[Path], leave_out: Path | None = None) -> list[ScanFile]:
    """The files given and those in the folders given and their sub-folders, in order, each once.

    Hidden files and what lies in the folder of results `leave_out` do not count, and of a BART scan only the .cfl does.
    Files that would have one name keep their suffixes. Raises FileNotFoundError, and ReconstructionError where two
    names are still equal, there is no file, or the folder of results is one of those given.
    """
    found: dict[Path, _Found] = {}
    for path in paths:
        for each in _files(path, leave_out):
            found.setdefault(each.path.resolve(), each)
    if not found:
        raise ReconstructionError(f"{', '.join(map(str, paths))}: found no file; expected scans, or folders of scans")
    short = Counter(each.short for each in found.values())
    files = [
        ScanFile(each.path, each.short if short[each.short] == 1 else each.place, each.asked_for)
        for each in found.values()
    ]
    names = Counter(each.name for each in files)
    if twice := [str(file.path) for file in files if names[file.name] > 1]:
        raise ReconstructionError(f"{', '.join(twice)}: their results would have the same name; rename one")
    return files


@dataclass(frozen=True)
class _Found:
    path: Path
    place: str  # below the folder given
    asked_for: bool

    @property
    def short(self) -> str:
        place = PurePath(self.place.removesuffix(".gz"))
        return place.with_suffix("").as_posix()


def _files(path: Path, leave_out: Path | None) -> Iterator[_Found]:
    if not path.is_dir():
        path.stat()  # raises FileNotFoundError
        data = path.with_suffix(".cfl")
        if path.suffix == ".hdr" and data.is_file():
            path = data
        yield _Found(path, path.name, True)
        return
    results = None if leave_out is None else leave_out.resolve()
    if results == path.resolve():
        raise ReconstructionError(f"{path}: results are kept apart from scans; name another folder for them")
    if results is not None and path.resolve().is_relative_to(results):
        results = None
    for each in sorted(path.rglob("*")):
        place = each.relative_to(path)
        if any(part.startswith(".") for part in place.parts) or not each.is_file():
            continue
        if results is not None and each.resolve().is_relative_to(results):
            continue
        header, data = (each.with_suffix(suffix) for suffix in BART_PAIR)
        if each == header and data.is_file():
            continue
        yield _Found(each, place.as_posix(), False)
