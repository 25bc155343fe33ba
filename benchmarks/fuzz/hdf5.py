"""Mutators of HDF5 files: links, declared sizes and types, contents, attributes and headers."""

import zlib
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np

from benchmarks.fuzz.mutators import Draft, registered, spoilt_array

Change = Callable[[h5py.File, Draft], None]
ARRAYS = (
    "kspace", "sinogram", "mask", "angles", "sensitivity_maps", "reference", "reconstruction_rss", "guide", "flat",
    "dark", "noise", "exchange/data", "exchange/theta", "exchange/data_white", "exchange/data_dark",
    "entry/instrument/detector/data", "entry/instrument/detector/image_key", "entry/sample/rotation_angle",
)  # fmt: skip
ATTRIBUTES = (
    "geometry", "quantity", "i0", "image_size", "pixel_size_mm", "detector_spacing_mm", "pixel_spacing_mm",
    "rotation_center", "flat", "dark", "slice_spacing_mm", "slice_thickness_mm", "source_origin_mm",
    "source_detector_mm", "origin_detector_mm", "detector_shape", "SOD", "SDD",
)  # fmt: skip
NUMBERS = (np.nan, np.inf, -np.inf, 0.0, -1.0, 1e-30, 1e30, 1e308, 4e-3, 4e3, 180.0, 2.0**31, 2.0**63)
ODD_TYPES: tuple[Any, ...] = (
    "?", "i1", "u2", ">i4", "u8", "f2", ">f4", "f8", "g", "c16", ">c8", "S5", h5py.string_dtype(), h5py.ref_dtype,
    h5py.vlen_dtype(np.float32), [("r", "f4"), ("i", "f4"), ("k", "f4")], ("f4", (2,)), "V8",
    h5py.enum_dtype({"a": 1, "b": 2}, "i4"),
)  # fmt: skip
XML = "<h><encoding><reconSpace><matrixSize><x>{}</x><y>{}</y></matrixSize></reconSpace></encoding></h>"
LAUGHS = "".join(f'<!ENTITY l{i + 1} "{f"&l{i};" * 10}">' for i in range(9))
PACKINGS: tuple[dict[str, Any], ...] = ({"compression": "gzip"}, {"compression": "lzf"}, {"shuffle": True})
HEADERS = (
    XML.format("4", "4"), XML.format("1", "32"),
    XML.format("32", "NaN"), XML.format("-5", "1e999"), XML.format("1" * 100_000, "32"), XML.format("0x20", "32"),
    XML.format("&#0;", "32"), XML.format("32", "32").encode("utf-16"), "<h>" * 50_000, "<h " + 'a="b" ' * 9999 + "/>",
    "<h><encoding>" + "<a>" * 5000, "", "\0" * 1000, "\ufeff<h/>", "<?xml version='1.0' encoding='klingon'?><h/>",
    "<h xmlns:a='b'><a:encoding><trajectory>spiral</trajectory></a:encoding></h>", "x" * (2 << 20),
)  # fmt: skip
ENTITIES = (
    f'<?xml version="1.0"?><!DOCTYPE h [<!ENTITY l0 "ha">{LAUGHS}]><h><encoding>&l9;</encoding></h>',
    '<?xml version="1.0"?><!DOCTYPE h [<!ENTITY a SYSTEM "file://{trap}">]><h><encoding>&a;</encoding></h>',
    '<?xml version="1.0"?><!DOCTYPE h SYSTEM "file://{trap}"><h/>',
    '<?xml version="1.0"?><!DOCTYPE h [<!ENTITY % a SYSTEM "file://{trap}"> %a;]><h/>',
)


def hdf5(must_be_refused: bool) -> Callable[[Change], Change]:
    """Register a change of an HDF5 file that is open for it."""

    def register(change: Change) -> Change:
        def mutate(draft: Draft) -> None:
            with h5py.File(draft.path, "a") as file:
                change(file, draft)
                file.attrs["serial"] = draft.rng.integers(1 << 62)

        registered("hdf5", must_be_refused, change.__name__, mutate)
        return change

    return register


def main_array(file: h5py.File) -> str:
    names = ("kspace", "exchange/data", "entry/instrument/detector/data")
    return next((name for name in names if name in file), "sinogram")


def some_array(file: h5py.File, rng: np.random.Generator) -> str:
    return str(rng.choice([name for name in ARRAYS if name in file]))


def replaced(file: h5py.File, name: str, **how: Any) -> h5py.Dataset:
    """The dataset made anew."""
    del file[name]
    return file.create_dataset(name, **how)


def one(data: h5py.Dataset) -> Any:
    """1 in the dataset's type."""
    return np.ones((), data.dtype)[()]


@hdf5(must_be_refused=True)
def external_link(file: h5py.File, draft: Draft) -> None:
    name = some_array(file, draft.rng)
    del file[name]
    link = h5py.ExternalLink(draft.target(draft.traps.scan), f"/{draft.rng.choice(['kspace', 'mask', 'reference'])}")
    file[str(draft.rng.choice([name, f"a/{'b/' * int(draft.rng.integers(9))}{name}"]))] = link


@hdf5(must_be_refused=True)
def soft_link(file: h5py.File, draft: Draft) -> None:
    name = some_array(file, draft.rng)
    file.move(name, "elsewhere")
    # NXtomo has links: those that lead somewhere are right.
    somewhere = [] if "entry" in file else ["/elsewhere", "elsewhere", "//.//elsewhere"]
    file[name] = h5py.SoftLink(str(draft.rng.choice([*somewhere, "/nowhere", f"/{name}"])))


@hdf5(must_be_refused=True)
def external_storage(file: h5py.File, draft: Draft) -> None:
    plain = ["ismrmrd_header"] if main_array(file) in ("kspace", "sinogram") else []
    name = str(draft.rng.choice([main_array(file), some_array(file, draft.rng), *plain]))
    trap = draft.target(draft.traps.raw)
    if name == "ismrmrd_header":
        if name in file:
            del file[name]
        # Only k-space has one: beside a sinogram it is all the more suspect.
        file.create_dataset(name, (1,), "S46", external=[(trap, 0, 46)])
        return
    shape, dtype = file[name].shape, file[name].dtype
    offset = int(draft.rng.choice([0, 40, 44]))
    replaced(file, name, shape=shape, dtype=dtype, external=[(trap, offset, h5py.h5f.UNLIMITED)])


@hdf5(must_be_refused=True)
def virtual_dataset(file: h5py.File, draft: Draft) -> None:
    name = some_array(file, draft.rng)
    shape, dtype = file[name].shape, file[name].dtype
    layout = h5py.VirtualLayout(shape, dtype)
    own = draft.rng.random() < 0.3
    source = "." if own else draft.target(draft.traps.scan)
    layout[...] = h5py.VirtualSource(source, "elsewhere" if own else "kspace", shape)
    file.move(name, "elsewhere")
    file.create_virtual_dataset(name, layout)


@hdf5(must_be_refused=False)
def link_cycle(file: h5py.File, draft: Draft) -> None:
    group = file.create_group("a/b/c")
    group["again"] = file["a"]
    file["a/root"] = file["/"]
    if draft.rng.random() < 0.5:
        file["a/array"] = file[main_array(file)]


@hdf5(must_be_refused=True)
def many_links(file: h5py.File, draft: Draft) -> None:
    group = file.create_group("many", track_order=bool(draft.rng.random() < 0.5))
    for number in range(10_001):
        group.id.links.create_hard(str(number).encode(), file.id, b"/")


@hdf5(must_be_refused=False)
def deep_groups(file: h5py.File, draft: Draft) -> None:
    group = file
    for _ in range(int(draft.rng.choice([20, 200, 1000, 9000]))):
        group = group.create_group("g")


@hdf5(must_be_refused=True)
def foreign_filter(file: h5py.File, draft: Draft) -> None:
    name = some_array(file, draft.rng)
    shape = file[name].shape
    dtype = h5py.h5t.py_create(file[name].dtype, logical=True)
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_chunk(shape)
    code = int(draft.rng.choice([305, 307, 32001, 32004, 32015, 65535]))
    creation.set_filter(code, h5py.h5z.FLAG_OPTIONAL, tuple(range(4)))
    del file[name]
    h5py.h5d.create(file.id, name.encode(), dtype, h5py.h5s.create_simple(shape), creation)


@hdf5(must_be_refused=True)
def declared_bomb(file: h5py.File, draft: Draft) -> None:
    """Gigabytes within every limit of size, of which nothing is stored."""
    name, rng = main_array(file), draft.rng
    sides = tuple(int(side) for side in rng.integers(700, 1000, 2))
    shape = (int(rng.integers(100, 1000)), *([int(rng.integers(1, 32))] if name == "kspace" else []), *sides)
    chunks = None if rng.random() < 0.3 else tuple(min(side, int(rng.choice([1, 64, 1000]))) for side in shape)
    replaced(file, name, shape=shape, dtype=file[name].dtype, chunks=chunks, fillvalue=one(file[name]))


@hdf5(must_be_refused=True)
def packed_bomb(file: h5py.File, draft: Draft) -> None:
    """Equal values, well packed: 72 MiB or more, stored in a thousandth of it, every chunk the same bytes."""
    name = main_array(file)
    rest = (1, 1024, 1024) if name == "kspace" else (1024, 1024)
    count = int(draft.rng.integers(18, 40))
    data = replaced(file, name, shape=(count, *rest), dtype=file[name].dtype, chunks=(1, *rest), compression="gzip")
    data[0] = float(draft.rng.integers(1, 9))
    first = (0,) * len(rest)
    mask, chunk = data.id.read_direct_chunk((0, *first))
    for index in range(1, count):
        data.id.write_direct_chunk((index, *first), chunk, mask)


@hdf5(must_be_refused=False)
def tiny_chunks(file: h5py.File, draft: Draft) -> None:
    """Within the size that is never a bomb, in a million pieces of which none is stored."""
    name, rng = main_array(file), draft.rng
    most = (63 << 20) // file[name].dtype.itemsize
    side = int(rng.integers(200, 1000))
    first = max(1, min(1000, most // side**2))
    shape = (first, *([1] if name == "kspace" else []), side, side)
    chunks = tuple(min(length, int(rng.choice([1, 1, 2, 8]))) for length in shape)
    data = replaced(file, name, shape=shape, dtype=file[name].dtype, chunks=chunks, fillvalue=one(file[name]))
    data[(0,) * (len(shape) - 1)] = rng.random(side).astype(data.dtype)
    for other in (*ARRAYS[2:], "ismrmrd_header"):
        if other in file:
            del file[other]
    if name == "sinogram":
        file["angles"] = np.arange(shape[1]) * np.pi / shape[1]


@hdf5(must_be_refused=False)
def lying_shape(file: h5py.File, draft: Draft) -> None:
    name, rng = some_array(file, draft.rng), draft.rng
    shape = list(file[name].shape)
    for _ in range(int(rng.integers(1, 3))):
        shape[int(rng.integers(len(shape)))] = int(rng.choice([0, 1, 2, 7, 8, 31, 33, 65, 200]))
    replaced(file, name, data=rng.random(shape).astype(file[name].dtype))


@hdf5(must_be_refused=False)
def lying_rank(file: h5py.File, draft: Draft) -> None:
    name, rng = some_array(file, draft.rng), draft.rng
    values = file[name][()]
    ranks = [values[None], values[None, None], values.reshape(-1), values[0], values.reshape(-1)[:1].reshape(()), None]
    value = ranks[rng.integers(len(ranks))]
    replaced(file, name, data=h5py.Empty(values.dtype) if value is None else value)


@hdf5(must_be_refused=True)
def absurd_size(file: h5py.File, draft: Draft) -> None:
    name, rng = main_array(file), draft.rng
    shape = list(file[name].shape)
    shape[int(rng.integers(len(shape)))] = int(2.0 ** rng.uniform(12.1, 40))
    sides = tuple(1 if side < 4096 else 4096 for side in shape)
    replaced(file, name, shape=tuple(shape), dtype=file[name].dtype, chunks=sides)


@hdf5(must_be_refused=False)
def odd_type(file: h5py.File, draft: Draft) -> None:
    name, rng = some_array(file, draft.rng), draft.rng
    shape = file[name].shape
    values = np.abs(file[name][()])
    dtype = np.dtype(ODD_TYPES[rng.integers(len(ODD_TYPES))])
    data = replaced(file, name, shape=shape, dtype=dtype, fillvalue=None)
    if dtype.kind in "biufc" and dtype.metadata is None:
        with np.errstate(all="ignore"):
            data[...] = values.astype(dtype)


@hdf5(must_be_refused=True)
def not_a_dataset(file: h5py.File, draft: Draft) -> None:
    name = some_array(file, draft.rng)
    del file[name]
    if draft.rng.random() < 0.5:
        file.create_group(f"{name}/inside")
    else:
        file[name] = np.dtype("f4")


@hdf5(must_be_refused=True)
def not_finite(file: h5py.File, draft: Draft) -> None:
    name, rng = some_array(file, draft.rng), draft.rng
    name = name if file[name].dtype.kind in "fc" else main_array(file)
    replaced(file, name, data=spoilt_array(file[name][()], rng))


@hdf5(must_be_refused=True)
def absurd_values(file: h5py.File, draft: Draft) -> None:
    name, rng = main_array(file), draft.rng
    kind = file[name].dtype if file[name].dtype.kind in "fc" else np.dtype("f4")
    values = file[name][()].astype(kind) * rng.choice([0.0, 1e-30, 1e25]) + rng.choice([0.0, 1e-38])
    replaced(file, name, data=values)


@hdf5(must_be_refused=False)
def wrong_units(file: h5py.File, draft: Draft) -> None:
    """Degrees for radians, metres for millimetres, counts for line integrals, and the reverse."""
    rng = draft.rng
    factor = float(rng.choice([180 / np.pi, 1e-3, 1e3, 1e-6, 1e6, -1.0]))
    if "angles" in file and rng.random() < 0.4:
        file["angles"][...] = file["angles"][()] * factor
        return
    name = str(rng.choice([each for each in ATTRIBUTES if each not in ("geometry", "quantity", "detector_shape")]))
    file.attrs[name] = factor * float(file.attrs.get(name, 1.0))
    if rng.random() < 0.3:
        file.attrs["quantity"] = str(rng.choice(["counts", "line_integrals", "hounsfield"]))


@hdf5(must_be_refused=False)
def any_geometry(file: h5py.File, draft: Draft) -> None:
    """A fan of any distances, to any detector, and words for geometries."""
    rng = draft.rng
    words = ("fan_flat", "fan_curved", "fan", "fanflat_vec", "equiangular", "cone", "helical", "flat", "", "fan" * 9999)
    file.attrs["geometry"] = str(rng.choice(words))
    for name in rng.choice(["source_origin_mm", "source_detector_mm", "origin_detector_mm", "rotation_center"], 3):
        file.attrs[str(name)] = float(rng.choice([*NUMBERS, *10.0 ** rng.uniform(-6, 6, 9)]))


@hdf5(must_be_refused=False)
def faint_or_negative_slice(file: h5py.File, draft: Draft) -> None:
    """Sound as a whole, but one slice is nothing, next to nothing, or the reverse of what it should be."""
    name, rng = main_array(file), draft.rng
    values = file[name][()]
    slice_, factor = int(rng.integers(len(values))), np.float32(rng.choice([0.0, 1e-12, 1e-25, 1e-36, -1.0]))
    values[slice_] *= factor.astype(values.dtype)
    replaced(file, name, data=values)


@hdf5(must_be_refused=False)
def any_i0(file: h5py.File, draft: Draft) -> None:
    file.attrs["quantity"], file.attrs["i0"] = "counts", 10.0 ** draft.rng.uniform(-50, 50)


@hdf5(must_be_refused=False)
def hostile_attribute(file: h5py.File, draft: Draft) -> None:
    rng = draft.rng
    holder = file[main_array(file)] if rng.random() < 0.5 else file
    values: list[Any] = [
        *NUMBERS, "x" * 60_000, "../../canary.bin", "\u202e\u0007", b"\xff\xfe", np.zeros(7000), np.complex64(1j),
        np.array(["a", "b"], object), h5py.Empty("f4"), file["/"].ref, np.array([1.0]), np.array([[1.0]]), True,
    ]  # fmt: skip
    value = values[rng.integers(len(values))]
    holder.attrs[str(rng.choice(ATTRIBUTES))] = value if not isinstance(value, bytes) else np.bytes_(value)


@hdf5(must_be_refused=False)
def hostile_header(file: h5py.File, draft: Draft) -> None:
    write_header(file, HEADERS[draft.rng.integers(len(HEADERS))], draft.rng)


@hdf5(must_be_refused=False)
def header_with_entities(file: h5py.File, draft: Draft) -> None:
    header = ENTITIES[draft.rng.integers(len(ENTITIES))].replace("{trap}", str(draft.traps.raw))
    write_header(file, header, draft.rng)


def write_header(file: h5py.File, header: str | bytes, rng: np.random.Generator) -> None:
    if "ismrmrd_header" in file:
        del file["ismrmrd_header"]
    content = header.encode("utf-8", "surrogatepass") if isinstance(header, str) else header
    if rng.random() < 0.5 and len(content) > 0:
        file["ismrmrd_header"] = np.array([content], f"S{len(content)}")
    else:
        file.create_dataset("ismrmrd_header", (), h5py.string_dtype(), data=content.replace(b"\0", b"?"))


@hdf5(must_be_refused=False)
def nothing_stored(file: h5py.File, draft: Draft) -> None:
    """Declared, and filled by the library with a value that no byte of the file holds."""
    name, rng = some_array(file, draft.rng), draft.rng
    data = file[name]
    fill = (rng.choice([0.0, 1.0, np.nan, 1e-3]) if data.dtype.kind in "fc" else rng.integers(2)).astype(data.dtype)
    chunks = True if rng.random() < 0.5 else None
    replaced(file, name, shape=data.shape, dtype=data.dtype, chunks=chunks, fillvalue=fill)


@hdf5(must_be_refused=False)
def damaged_chunk(file: h5py.File, draft: Draft) -> None:
    """A packed chunk whose bytes do not unpack, or unpack to another size."""
    name, rng = main_array(file), draft.rng
    values = file[name][()]
    packed = {"compression": str(rng.choice(["gzip", "lzf"])), "shuffle": bool(rng.random() < 0.5)}
    data = replaced(
        file, name, data=values, chunks=(1, *values.shape[1:]), fletcher32=bool(rng.random() < 0.5), **packed
    )
    start = (int(rng.integers(values.shape[0])), *([0] * (values.ndim - 1)))
    mask, chunk = data.id.read_direct_chunk(start)
    spoilt = bytearray(chunk)
    for _ in range(int(rng.integers(1, 9))):
        spoilt[int(rng.integers(len(spoilt)))] ^= 1 << int(rng.integers(8))
    kept = max(1, int(rng.choice([len(spoilt), rng.integers(len(spoilt))])))  # HDF5 writes no empty chunk
    data.id.write_direct_chunk(start, bytes(spoilt[:kept]), mask)


@hdf5(must_be_refused=True)
def short_chunk(file: h5py.File, draft: Draft) -> None:
    """A chunk that unpacks to fewer bytes than it must, behind which a careless reader finds other memory."""
    name, rng = main_array(file), draft.rng
    values = file[name][()]
    how = PACKINGS[rng.integers(len(PACKINGS))]
    data = replaced(file, name, data=values, chunks=(1, *values.shape[1:]), **how)
    content = values[0].tobytes()[: int(rng.integers(1, values[0].nbytes))]
    skipped = 0
    match how.get("compression"):
        case "gzip":
            content, skipped = (zlib.compress(content), 0) if rng.random() < 0.7 else (content, 1)
        case "lzf":
            runs = [content[at : at + 32] for at in range(0, len(content), 32)]
            content = b"".join(bytes([len(run) - 1]) + run for run in runs)
    data.id.write_direct_chunk((0,) * values.ndim, content, skipped)


@hdf5(must_be_refused=False)
def other_names(file: h5py.File, draft: Draft) -> None:
    """Arrays under names of other tools, perhaps beside those of ours."""
    theirs = {"kspace": ("ksp", "KSPACE", "kdata"), "mask": ("sampling_mask", "Mask"), "reference": ("target", "mvue")}
    name = str(draft.rng.choice([each for each in theirs if each in file] or [main_array(file)]))
    for _ in range(int(draft.rng.integers(1, 3))):
        other = str(draft.rng.choice(theirs.get(name, ("Sinogram",))))
        if other not in file:
            file.copy(name, other)
    if draft.rng.random() < 0.7:
        del file[name]


@hdf5(must_be_refused=False)
def pairs_of_parts(file: h5py.File, draft: Draft) -> None:
    """Complex numbers as MATLAB keeps them, or almost."""
    rng, name = draft.rng, main_array(file)
    first, second = (str(rng.choice(["<f4", ">f4", "<f8", "<i4", "(2,)<f4"])) for _ in range(2))
    second = first if rng.random() < 0.6 else second
    names = [("real", "imag"), ("real", "imag"), ("imag", "real"), ("r", "i"), ("real", "image")][rng.integers(5)]
    how: dict[str, Any] = {} if rng.random() < 0.5 else {"chunks": True, "compression": "gzip"}
    values = np.zeros(file[name].shape, [(names[0], first), (names[1], second)])
    values[names[0]] = rng.random(values[names[0]].shape) * 9
    replaced(file, name, data=values, **how)


@hdf5(must_be_refused=False)
def masks_and_noise(file: h5py.File, draft: Draft) -> None:
    """A mask and samples of noise of shapes that fit, or nearly."""
    rng, name = draft.rng, main_array(file)
    sides = file[name].shape
    shape = [
        sides[-1:],
        (1, sides[-1]),
        sides[-2:],
        (sides[0], *sides[-2:]),
        (sides[-2], 1),
        sides,
        (1, 1, sides[-1], 1),
    ]
    for each, values in (
        ("mask", rng.random(shape[rng.integers(len(shape))]) < rng.choice([0.1, 0.5, 0.95, 1])),
        ("noise", rng.random((int(rng.integers(1, 9)), int(rng.choice([1, 7, 99]))), np.float32) * np.complex64(1j)),
    ):
        if each in file:
            del file[each]
        file[each] = values


@hdf5(must_be_refused=False)
def samples_left_out(file: h5py.File, draft: Draft) -> None:
    """Zeros, dust and NaN among samples, rolled and scaled coil by coil."""
    rng, name = draft.rng, main_array(file)
    values = file[name][()]
    values = values if values.dtype.kind in "fc" else values.astype(np.float32)
    left = rng.random(values.shape[-2:]) < rng.choice([0.001, 0.3, 0.9])
    left = np.broadcast_to(left[:1], left.shape) if rng.random() < 0.5 else left
    values[..., left] = rng.choice([0.0, 1e-9, np.nan])
    values = np.roll(values, rng.integers(-40, 40, 2), (-2, -1))
    replaced(file, name, data=values * rng.choice([1e-3, 1, 1e3], (values.shape[-3], 1, 1)).astype(values.dtype))
