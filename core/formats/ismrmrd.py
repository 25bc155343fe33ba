"""The few facts that a reconstruction takes from an ISMRMRD header, as fastMRI files carry it."""

from dataclasses import dataclass
from typing import NoReturn
from xml.parsers import expat

from core.errors import UnsupportedScan
from core.formats.limits import quoted, unreadable

_TRAJECTORIES = ("epi", "radial", "goldenangle", "spiral", "other")


@dataclass(frozen=True)
class ReconSpace:
    """Matrix and field of view of the image; fastMRI stores readout (the header's x) along rows."""

    matrix: tuple[int, int]  # (rows, columns) = the header's (x, y)
    field_of_view_mm: tuple[float, float] | None


def recon_space(header: bytes) -> ReconSpace | None:
    """The first encoding's reconSpace. Raises UnreadableScan for broken XML, UnsupportedScan unless Cartesian."""
    texts = _texts(header)
    trajectory = texts.get("trajectory", "cartesian")
    if trajectory.lower() != "cartesian":
        found = quoted(trajectory, *_TRAJECTORIES)
        raise UnsupportedScan(
            f"ismrmrd_header: found {found} as trajectory, expected cartesian",
            field="ismrmrd_header",
            found=found,
            expected="cartesian",
        )
    size = [_number(texts.get(f"reconSpace/matrixSize/{axis}", "")) for axis in "xy"]
    field = [_number(texts.get(f"reconSpace/fieldOfView_mm/{axis}", "")) for axis in "xy"]
    if None in size:
        return None
    rows, columns = (int(value or 0) for value in size)
    known = field[0] is not None and field[1] is not None and 0 < field[0] < 1e4 and 0 < field[1] < 1e4
    if rows < 1 or columns < 1:
        raise unreadable("ismrmrd_header", f"a reconstruction matrix of {rows} x {columns}", "a positive size")
    return ReconSpace((rows, columns), (float(field[0] or 0), float(field[1] or 0)) if known else None)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < 1e6 else None


def _texts(header: bytes) -> dict[str, str]:
    """Texts of the first encoding by their path below it."""
    path: list[str] = []
    texts: dict[str, str] = {}

    def start(name: str, _attributes: dict[str, str]) -> None:
        path.append(name.rpartition(":")[2])

    def end(_name: str) -> None:
        if path.pop() == "encoding":
            texts["done"] = ""

    def text(content: str) -> None:
        if "encoding" in path and "done" not in texts and len(path) < 16:
            key = "/".join(path[path.index("encoding") + 1 :])
            texts[key] = texts.get(key, "") + content.strip()

    def refuse(*_: object) -> NoReturn:
        raise unreadable("ismrmrd_header", "a document type or entity", "plain XML")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = parser.ExternalEntityRefHandler = refuse
    try:
        parser.Parse(header.rstrip(b"\0 \r\n\t"), True)
    except expat.ExpatError as error:
        raise unreadable("ismrmrd_header", f"broken XML ({error})", "well-formed XML") from error
    return texts
