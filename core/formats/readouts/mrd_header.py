"""Header of an MRD (ISMRMRD) measurement (XML): its encodings with matrix, field of view and limits; its receiver."""

from collections.abc import Mapping
from xml.sax.xmlreader import AttributesImpl

from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.header_identity import identity_of_header
from udig_recon.core.formats.kspace.ismrmrd_header import HeaderTexts, parse_header, read_number, read_space
from udig_recon.core.formats.readouts.readouts import Limit, ReadoutEncoding, ReadoutHeader

_MOST_ENCODINGS = 16
_MOST_STEPS = 1 << 16
_MODES = ("embedded", "interleaved", "separate", "external", "other")
_TRAJECTORIES = ("cartesian", "epi", "radial", "goldenangle", "spiral")


def read_mrd_header(xml: bytes) -> ReadoutHeader:
    """The header of a measurement. Raises UnreadableScan for broken XML, and where it has no encoding."""
    reader = _AllEncodings()
    parse_header(xml, reader, "xml")
    if not 1 <= len(reader.encodings) <= _MOST_ENCODINGS:
        found = f"{len(reader.encodings)} encodings"
        raise UnreadableScan.at("xml", found, f"1 to {_MOST_ENCODINGS} elements named encoding")
    bandwidth = read_number(reader.outside.get("acquisitionSystemInformation/relativeReceiverNoiseBandwidth", ""))
    return ReadoutHeader(
        encodings=tuple(map(_encoding, reader.encodings)),
        relative_noise_bandwidth=bandwidth if bandwidth is not None and bandwidth > 0 else 1.0,
        identity=identity_of_header(xml),
    )


def _encoding(texts: Mapping[str, str]) -> ReadoutEncoding:
    encoded = read_space(texts, "encodedSpace", "xml")
    if encoded is None:
        raise UnreadableScan.at("xml", "an encoding without encodedSpace/matrixSize", "its x and y")
    if max(encoded.matrix) >= _MOST_STEPS:
        raise UnreadableScan.at("xml", f"an encoded matrix of {encoded.matrix}", f"sides below {_MOST_STEPS}")
    trajectory = texts.get("trajectory", "cartesian").lower()
    mode = texts.get("parallelImaging/calibrationMode", "").lower()
    names = {path.split("/")[1] for path in texts if path.startswith("encodingLimits/")}
    limits = {name: _limit(texts, f"encodingLimits/{name}") for name in names}
    return ReadoutEncoding(
        encoded=encoded,
        recon=read_space(texts, "reconSpace", "xml"),
        trajectory=trajectory if trajectory in _TRAJECTORIES else "other",
        limits={name: limit for name, limit in limits.items() if limit is not None},
        calibration_mode=mode if mode in _MODES else None,
    )


def _limit(texts: Mapping[str, str], path: str) -> Limit | None:
    numbers = [read_number(texts.get(f"{path}/{name}", "")) for name in ("minimum", "maximum", "center")]
    low, high, middle = (None if each is None else int(each) for each in numbers)
    if low is None or high is None or middle is None or not 0 <= low <= high < _MOST_STEPS > middle >= 0:
        return None
    return Limit(low, high, middle)


class _AllEncodings(HeaderTexts):
    """Collects the texts of each element `encoding`, and those outside of them."""

    def __init__(self) -> None:
        super().__init__()
        self.encodings: list[dict[str, str]] = []
        self.outside: dict[str, str] = {}

    def startElement(self, name: str, attrs: AttributesImpl) -> None:  # noqa: N802
        """Go down."""
        super().startElement(name, attrs)
        if self.path[1:] == ["encoding"]:
            self.encodings.append({})

    def keep(self, path: list[str], content: str) -> None:
        """Keep a text, or a further piece of one."""
        inside = len(path) > 2 and path[1] == "encoding"
        texts, key = (self.encodings[-1], "/".join(path[2:])) if inside else (self.outside, "/".join(path[1:]))
        texts[key] = texts.get(key, "") + content
