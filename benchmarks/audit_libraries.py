"""Look the C libraries inside wheels up among known weaknesses.

`python -m benchmarks.audit_libraries`, part of `make audit`.

Indexes of Python packages know nothing of what wheels bring along. Versions are those that the modules themselves tell,
or that stand in the libraries; advisories are asked for by repository and release tag, as OSV keeps those of C code.
"""

import argparse
import json
import re
import ssl
import sys
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import NamedTuple

# Library -> repository, release tag of a version, and what stands in its file before the version.
KNOWN = {
    "hdf5": ("https://github.com/HDFGroup/hdf5", "{}", rb"HDF5 (?:library )?[Vv]ersion:? *(\d+\.\d+\.\d+)"),
    "openssl": ("https://github.com/openssl/openssl", "openssl-{}", rb"OpenSSL (\d+\.\d+\.\d+) "),
    "libpq": ("https://git.postgresql.org/git/postgresql.git", "REL_{}", rb"PostgreSQL (\d+\.\d+)"),
    "libjpeg-turbo": (
        "https://github.com/libjpeg-turbo/libjpeg-turbo",
        "{}",
        rb"libjpeg-turbo version (\d+\.\d+\.\d+)",
    ),
    "libpng": ("https://github.com/pnggroup/libpng", "v{}", rb"libpng version (\d+\.\d+\.\d+)"),
    "zlib": ("https://github.com/madler/zlib", "v{}", rb"deflate (\d+\.\d+\.\d+(?:\.\d+)?) Copyright"),
    "libtiff": ("https://gitlab.com/libtiff/libtiff", "v{}", rb"LIBTIFF, Version (\d+\.\d+\.\d+)"),
    "freetype": ("https://gitlab.freedesktop.org/freetype/freetype", "VER-{}", None),
    "harfbuzz": ("https://github.com/harfbuzz/harfbuzz", "{}", None),
    "libwebp": ("https://chromium.googlesource.com/webm/libwebp", "v{}", None),
    "libavif": ("https://github.com/AOMediaCodec/libavif", "v{}", None),
    "openjpeg": ("https://github.com/uclouvain/openjpeg", "v{}", None),
    "lcms2": ("https://github.com/mm2/Little-CMS", "lcms{}", None),
    "expat": ("https://github.com/libexpat/libexpat", "R_{}", None),
    "openblas": ("https://github.com/OpenMathLib/OpenBLAS", "v{}", rb"OpenBLAS (\d+\.\d+\.\d+)"),
    "krb5": ("https://github.com/krb5/krb5", "krb5-{}-final", rb"KRB5_BRAND: krb5-(\d+\.\d+(?:\.\d+)?)-final"),
    "openldap": (
        "https://git.openldap.org/openldap/openldap",
        "OPENLDAP_REL_ENG_{}",
        rb"OpenLDAP: [^\0]{0,80}?(\d+\.\d+\.\d+)",
    ),
    "libcurl": ("https://github.com/curl/curl", "curl-{}", rb"libcurl/(\d+\.\d+\.\d+)"),
}
_WITH_UNDERSCORES = ("curl-{}", "VER-{}", "R_{}", "REL_{}", "OPENLDAP_REL_ENG_{}")
_FILES = {  # beginnings of names in *.libs folders
    "libhdf5-": "hdf5",
    "libcrypto": "openssl",
    "libpq": "libpq",
    "libjpeg": "libjpeg-turbo",
    "libpng": "libpng",
    "libz-": "zlib",
    "libtiff": "libtiff",
    "libscipy_openblas": "openblas",
    "libopenblas": "openblas",
    "libkrb5-": "krb5",
    "libldap": "openldap",
    "libcurl": "libcurl",
}
# Never loaded: of netCDF4 its HDF5 alone is, and then h5py's own is not called:
# core/formats/containers/hdf5_library.py.
_IDLE = {("hdf5", "h5py"), ("openssl", "netcdf4"), ("libcurl", "netcdf4")}
_SECONDS = 20


class Library(NamedTuple):
    """A C library that is called, its version ('' where it cannot be told), and which wheel or program brings it."""

    name: str
    version: str
    brought_by: str


def inventory() -> list[Library]:
    """The libraries of this environment, those first that tell their version themselves."""
    told = {(each.name, each.brought_by): each for each in _told()}
    for distribution in distributions():
        for file in distribution.files or ():
            if not (file.parts and file.parts[0].endswith(".libs")):
                continue
            name = next((name for start, name in _FILES.items() if file.name.startswith(start)), None)
            key = (name or "", distribution.name.lower())
            if name is not None and key not in told and key not in _IDLE:
                told[key] = Library(name, _written(name, Path(str(file.locate()))), distribution.name.lower())
    return sorted(told.values())


def _told() -> Iterator[Library]:
    """What modules say of the libraries that they were linked with, or that they run on."""
    version = re.search(r"\d+\.\d+\.\d+", ssl.OPENSSL_VERSION)
    yield Library("openssl", version[0] if version else "", "python")
    yield Library("zlib", zlib.ZLIB_RUNTIME_VERSION, "python")
    from pyexpat import EXPAT_VERSION

    yield Library("expat", EXPAT_VERSION.removeprefix("expat_"), "python")
    from udig_recon.core.formats.containers.hdf5_library import h5py

    brought_by = "netcdf4" if h5py.version.hdf5_version_tuple != h5py.version.hdf5_built_version_tuple else "h5py"
    yield Library("hdf5", h5py.version.hdf5_version, brought_by)
    import psycopg

    number = psycopg.pq.version()
    yield Library("libpq", f"{number // 10000}.{number % 10000}", "psycopg-binary")
    from PIL import features

    names = {"libtiff": "libtiff", "freetype2": "freetype", "harfbuzz": "harfbuzz", "webp": "libwebp"}
    for feature, name in {**names, "avif": "libavif", "jpg_2000": "openjpeg", "littlecms2": "lcms2"}.items():
        if (version := features.version(feature)) is not None:
            yield Library(name, version, "pillow")
    if (version := features.version_feature("libjpeg_turbo")) is not None:
        yield Library("libjpeg-turbo", version, "pillow")


def _written(name: str, path: Path) -> str:
    """The version that stands in a library's file."""
    pattern = KNOWN[name][2]
    found = re.search(pattern, path.read_bytes()) if pattern is not None else None
    return "" if found is None else found[1].decode()


def question(library: Library) -> dict[str, object]:
    """What an index is asked."""
    repository, tag, _ = KNOWN[library.name]
    version = library.version.replace(".", "_") if tag in _WITH_UNDERSCORES else library.version
    version = version.replace("_", "-") if tag == "VER-{}" else version
    return {"package": {"name": repository, "ecosystem": "GIT"}, "version": tag.format(version)}


def ask(index: str, library: Library) -> list[str]:
    """Names of the advisories that an index has of a library. Raises OSError, or ValueError for another answer."""
    body = json.dumps(question(library)).encode()
    request = urllib.request.Request(f"{index}/v1/query", data=body, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
        found = json.load(answer)
    return sorted(str(each["id"]) for each in found.get("vulns", ()))


def looked_up(libraries: Sequence[Library], look: Callable[[Library], list[str]]) -> int:
    """Print each library with what is known of it; 1 where something is, 2 where the index did not answer for all."""
    weak, unanswered = 0, 0
    for library in libraries:
        known = "version not told: not looked up"
        if library.version:
            try:
                found = look(library)
            except (OSError, ValueError, KeyError, TypeError):
                known, unanswered = "not looked up", unanswered + 1
            else:
                known, weak = ", ".join(found) or "nothing known", weak + bool(found)
        print(f"{library.name:15} {library.version or '?':12} {library.brought_by:18} {known}")
    if unanswered:
        print(f"the index of advisories did not answer: {unanswered} libraries were not looked up")
    return 1 if weak else 2 if unanswered else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Look all up; without an index only list them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.audit_libraries", description=__doc__)
    parser.add_argument("--index", help="such as https://api.osv.dev; without one nothing is looked up")
    index = parser.parse_args(arguments).index
    if index is not None:
        return looked_up(inventory(), lambda library: ask(index, library))
    for library in inventory():
        print(f"{library.name:15} {library.version or '?':12} {library.brought_by:18} not looked up")
    return 0


if __name__ == "__main__":
    sys.exit(main())
