"""The few facts that a reconstruction takes from an ISMRMRD header, as fastMRI files carry it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn
from xml.parsers import expat

from udig_recon.core.errors import UnreadableScan, UnsupportedScan
from udig_recon.core.formats.limits import quoted

_TRAJECTORIES = ("epi", "radial", "goldenangle", "spiral", "other")
_LONGEST_MM = 1e4


@dataclass(frozen=True)
class Space:
    """Matrix and field of view of k-space or of the image, (x, y, z) as the header has them; x is the readout."""

    matrix: tuple[int, int, int]
    field_of_view_mm: tuple[float | None, float | None, float | None]


@dataclass(frozen=True)
class Encoding:
    """The first encoding of a header: what was measured, and the image that the scanner made of it."""

    encoded: Space | None
    recon: Space | None


def encoding(header: bytes) -> Encoding:
    """The first encoding. Raises UnreadableScan for broken XML, UnsupportedScan unless Cartesian."""
    texts = header_texts(header)
    trajectory = texts.get("trajectory", "cartesian")
    if trajectory.lower() != "cartesian":
        found = quoted(trajectory, *_TRAJECTORIES)
        raise UnsupportedScan(
            f"ismrmrd_header: found {found} as trajectory, expected cartesian: "
            "k-space of another trajectory is gridded first",
            field="ismrmrd_header",
            found=found,
            expected="cartesian",
        )
    return Encoding(_space(texts, "encodedSpace"), _space(texts, "reconSpace"))


def _space(texts: Mapping[str, str], name: str) -> Space | None:
    sides = [_number(texts.get(f"{name}/matrixSize/{axis}", "")) for axis in "xy"]
    if None in sides:
        return None
    x, y = (int(side or 0) for side in sides)
    if x < 1 or y < 1:
        kind = "a reconstruction matrix" if name == "reconSpace" else "an encoded matrix"
        raise UnreadableScan.at("ismrmrd_header", f"{kind} of {x} x {y}", "a positive size")
    z = int(_number(texts.get(f"{name}/matrixSize/z", "")) or 1)
    lengths = [_number(texts.get(f"{name}/fieldOfView_mm/{axis}", "")) for axis in "xyz"]
    known = [length if length is not None and 0 < length < _LONGEST_MM else None for length in lengths]
    return Space((x, y, max(z, 1)), (known[0], known[1], known[2]))


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < 1e6 else None


def header_texts(header: bytes) -> dict[str, str]:
    """Texts of the first encoding by their path below it. Raises UnreadableScan for broken XML."""
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
        raise UnreadableScan.at("ismrmrd_header", "a document type or entity", "plain XML")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = parser.ExternalEntityRefHandler = refuse
    try:
        parser.Parse(header.rstrip(b"\0 \r\n\t"), True)
    except expat.ExpatError as error:
        raise UnreadableScan.at("ismrmrd_header", f"broken XML ({error})", "well-formed XML") from error
    return texts
