"""DICOM objects of a result, taken one after the other from its zip, with memory for one."""

import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, BinaryIO, Self

Identify = Callable[[IO[bytes], BinaryIO], None]
"""Reads an object and writes it with the identifiers of patient and study."""

SUFFIX = ".dcm"


class ResultObjects:
    """The DICOM objects of a result file. `identify` is applied to each; None: they are sent as they are stored."""

    def __init__(self, archive: Path, identify: Identify | None = None) -> None:
        self._zip, self._identify = zipfile.ZipFile(archive), identify
        self._members = [member for member in self._zip.infolist() if member.filename.endswith(SUFFIX)]
        self._members.sort(key=lambda member: member.filename)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._zip.close()

    def __len__(self) -> int:
        return len(self._members)

    @property
    def size_bytes(self) -> int:
        """Bytes of all objects."""
        return sum(member.file_size for member in self._members)

    def batches(self, most_bytes: int) -> Iterator[range]:
        """Numbers of objects, in ranges of at most so many bytes, or of one object."""
        start, filled = 0, 0
        for number, member in enumerate(self._members):
            if number > start and filled + member.file_size > most_bytes:
                yield range(start, number)
                start, filled = number, 0
            filled += member.file_size
        if self._members:
            yield range(start, len(self._members))

    def open(self, number: int) -> IO[bytes]:
        """An object as it is stored, for reading and seeking."""
        return self._zip.open(self._members[number])

    def append(self, number: int, path: Path) -> int:
        """Write an object to the end of a file; gives its bytes."""
        with path.open("ab") as file, self.open(number) as stored:
            start = file.tell()
            if self._identify is None:
                shutil.copyfileobj(stored, file, 1 << 20)
            else:
                self._identify(stored, file)
            return file.tell() - start
