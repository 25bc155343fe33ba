"""ISMRMRD header (XML): trajectory, matrix and field of view, as fastMRI files carry it."""

from collections.abc import Mapping
from dataclasses import dataclass
from xml.sax import SAXParseException
from xml.sax.handler import ContentHandler
from xml.sax.xmlreader import AttributesImpl

from defusedxml.common import DefusedXmlException
from defusedxml.sax import parseString

from udig_recon.core.errors import UnreadableScan, UnsupportedScan
from udig_recon.core.formats.limits import quote_safely

_TRAJECTORIES = ("epi", "radial", "goldenangle", "spiral", "other")
_LONGEST_MM = 1e4
_DEEPEST = 16


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


def read_encoding(header: bytes) -> Encoding:
    """The first encoding. Raises UnreadableScan for broken XML, UnsupportedScan unless Cartesian."""
    texts = header_texts(header)
    trajectory = texts.get("trajectory", "cartesian")
    if trajectory.lower() != "cartesian":
        found = quote_safely(trajectory, *_TRAJECTORIES)
        expected = "cartesian, or the frequencies (kx, ky) of all samples beside kspace, as trajectory"
        raise UnsupportedScan.at("ismrmrd_header", f"{found} as trajectory", expected)
    return Encoding(read_space(texts, "encodedSpace"), read_space(texts, "reconSpace"))


def read_space(texts: Mapping[str, str], name: str, field: str = "ismrmrd_header") -> Space | None:
    """A space (encodedSpace, reconSpace) of an encoding; None where it has no matrix.

    Raises UnreadableScan, which names the `field` of the file that holds the header.
    """
    sides = [read_number(texts.get(f"{name}/matrixSize/{axis}", "")) for axis in "xy"]
    if None in sides:
        return None
    x, y = (int(side or 0) for side in sides)
    if x < 1 or y < 1:
        kind = "a reconstruction matrix" if name == "reconSpace" else "an encoded matrix"
        raise UnreadableScan.at(field, f"{kind} of {x} x {y}", "a positive size")
    z = int(read_number(texts.get(f"{name}/matrixSize/z", "")) or 1)
    lengths = [read_number(texts.get(f"{name}/fieldOfView_mm/{axis}", "")) for axis in "xyz"]
    known = [length if length is not None and 0 < length < _LONGEST_MM else None for length in lengths]
    return Space((x, y, max(z, 1)), (known[0], known[1], known[2]))


def read_number(text: str) -> float | None:
    """A number of moderate size; None for what is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < 1e6 else None


def header_texts(header: bytes) -> dict[str, str]:
    """Texts of the first encoding by their path below it. Raises UnreadableScan for broken XML."""
    reader = _FirstEncoding()
    parse_header(header, reader)
    return reader.texts


class HeaderTexts(ContentHandler):
    """Follows the path of an XML header's elements, whatever prefixes their names have, and hands over their texts."""

    def __init__(self) -> None:
        super().__init__()
        self.path: list[str] = []

    def startElement(self, name: str, attrs: AttributesImpl) -> None:  # noqa: ARG002, N802
        """Go down."""
        self.path.append(name.rpartition(":")[2])

    def endElement(self, name: str) -> None:  # noqa: ARG002, N802
        """Go up."""
        self.path.pop()

    def characters(self, content: str) -> None:
        """Hand over a text, or a further piece of one, without the white space about it."""
        if len(self.path) < _DEEPEST and (text := content.strip()):
            self.keep(self.path, text)

    def keep(self, path: list[str], content: str) -> None:
        """Keep a text at this path of elements, or a further piece of one."""


def parse_header(header: bytes, reader: HeaderTexts, field: str = "ismrmrd_header") -> None:
    """Read the XML header in the `field` of a file.

    Raises UnreadableScan where it is broken, or has a document type.
    """
    try:
        parseString(header.rstrip(b"\0 \r\n\t"), reader, forbid_dtd=True)
    except DefusedXmlException as error:
        raise UnreadableScan.at(field, "a document type or entity", "plain XML") from error
    except SAXParseException as error:
        found = f"broken XML ({error.getMessage()}, line {error.getLineNumber()})"
        raise UnreadableScan.at(field, found, "well-formed XML") from error


class _FirstEncoding(HeaderTexts):
    """Collects the texts of the first element `encoding`; the rest is skipped."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}
        self._is_over = False

    def endElement(self, name: str) -> None:  # noqa: N802
        """Go up."""
        super().endElement(name)
        self._is_over |= name.rpartition(":")[2] == "encoding"

    def keep(self, path: list[str], content: str) -> None:
        """Keep a text, or a further piece of one."""
        if not self._is_over and "encoding" in path:
            key = "/".join(path[path.index("encoding") + 1 :])
            self.texts[key] = self.texts.get(key, "") + content
