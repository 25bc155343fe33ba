"""Results of slices on disk: one .npz file for each finished slice and for each preview, while a job runs."""

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.files.atomic import DamagedFile
from udig_recon.core.files.checksummed_arrays import open_archive, seal
from udig_recon.core.prior_check import PriorCheck
from udig_recon.core.quality.rating import Rating
from udig_recon.core.results.output_format import Image

_ARRAYS = ("image", "image_complex", "direct", "reference", "deviation", "hallucination")
_OLDER_NAMES = {"direct": "plain", "prior_check": "verdict", "rating": "grade"}
"""Names in files of versions before 0.2, which are still read."""


@dataclass(frozen=True)
class SliceResult:
    """The reconstruction of one slice, in the scan's own units or 1/mm."""

    image: Image  # (y, x)
    image_complex: NDArray[np.complex64] | None  # (y, x), MRI
    direct: Image  # (y, x): zero-filled or filtered back-projection
    reference: Image | None  # (y, x)
    curves: Mapping[str, list[float]]  # one value per snapshot
    prior_check: PriorCheck | None = None  # of methods that compare their prior with held-out measurements
    rating: Rating | None = None  # once the slice is finished
    deviation: Image | None = None  # (y, x): between several seeds, in the image's unit
    hallucination: Image | None = None  # (y, x): of methods with a prior, see core/quality/hallucination.py
    versions: Mapping[str, str] | None = None  # of the software and the prior that made it; None: not noted

    def summary(self) -> dict[str, Any]:
        """Rating and prior check as JSON: `quality`, and where there is one `prior_check` and `reference_slice`."""
        summary: dict[str, Any] = {} if self.rating is None else {"quality": self.rating.as_json()}
        if self.prior_check is not None:
            check = self.prior_check.as_json()
            summary |= {"reference_slice": check.pop("reference_slice"), "prior_check": check}
        return summary

    def to_bytes(self, owner: str | None = None) -> bytes:
        """As an .npz archive with a seal, its own digest.

        `owner` names the job and slice that the archive belongs to; `from_bytes` can check it.
        """
        stored = {name: getattr(self, name) for name in _ARRAYS if getattr(self, name) is not None}
        stored |= {f"curve_{name}": np.asarray(values, np.float64) for name, values in self.curves.items()}
        if self.prior_check is not None:
            stored["prior_check"] = np.asarray(json.dumps(asdict(self.prior_check)))
        if self.rating is not None:
            stored["rating"] = np.asarray(json.dumps(self.rating.as_json()))
        if self.versions is not None:
            stored["versions"] = np.asarray(json.dumps(dict(self.versions)))
        if owner is not None:
            stored["owner"] = np.asarray(owner)
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **stored)
        return seal(buffer.getvalue())

    @classmethod
    def from_bytes(
        cls, content: bytes, name: str, sha256: str | None = None, owner: str | None = None
    ) -> "SliceResult":
        """Read what `to_bytes` gave, in this version or an older one. Errors call it `name`.

        Raises DamagedFile where the bytes are others, or have another digest or owner than these. An archive without an
        owner is of an older version, and may be anybody's.
        """
        with open_archive(content, name, sha256) as archive:
            stored = {each: archive[each] for each in archive.files}
        for field, older in _OLDER_NAMES.items():
            if older in stored:
                stored.setdefault(field, stored[older])
        if owner is not None and "owner" in stored and str(stored["owner"]) != owner:
            raise DamagedFile(f"{name} belongs to {stored['owner']}, not to {owner}")
        try:
            known = [each for each in ("prior_check", "rating", "versions") if each in stored]
            texts = {each: json.loads(str(stored[each])) for each in known}
            return cls(
                **{each: stored.get(each) for each in ("image_complex", "reference", "deviation", "hallucination")},
                image=stored["image"],
                direct=stored["direct"],
                curves={
                    each.removeprefix("curve_"): values.tolist()
                    for each, values in stored.items()
                    if each.startswith("curve_")
                },
                prior_check=PriorCheck.from_stored(texts["prior_check"]) if "prior_check" in texts else None,
                rating=Rating.from_json(texts["rating"]) if "rating" in texts else None,
                versions=texts.get("versions"),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedFile(f"{name} cannot be read: {type(error).__name__}") from error

    @classmethod
    def versions_of(cls, content: bytes, name: str, sha256: str | None = None) -> Mapping[str, str]:
        """The versions in what `to_bytes` gave, without its images. Raises DamagedFile as `from_bytes` does."""
        with open_archive(content, name, sha256) as stored:
            known: dict[str, str] = json.loads(str(stored["versions"])) if "versions" in stored.files else {}
        return known
