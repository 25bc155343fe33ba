import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udig_recon.api.http.multipart import MOST_PARTS, Part, PartReader
from udig_recon.api.http.problems import BadRequest, UnknownMedia

BOUNDARY = "frontier"


def body(parts: list[tuple[str, str | None, bytes]]) -> bytes:
    lines = []
    for name, filename, content in parts:
        named = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename is not None else "")
        lines.append(f"--{BOUNDARY}\r\nContent-Disposition: {named}\r\nX-More: 1\r\n\r\n".encode() + content + b"\r\n")
    return b"".join(lines) + f"--{BOUNDARY}--\r\n".encode()


def read(chunks: list[bytes]) -> list[tuple[str, str | None, bytes]]:
    """The parts, put together again."""

    async def stream() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    async def collect() -> list[tuple[str, str | None, bytes]]:
        parts: list[tuple[str, str | None, bytes]] = []
        head, content = Part("", None), b""
        async for event in PartReader(f"multipart/form-data; boundary={BOUNDARY}").events(stream()):
            if isinstance(event, Part):
                head, content = event, b""
                assert head.headers["x-more"] == "1"
            elif event is None:
                parts.append((head.name, head.filename, content))
            else:
                content += event
        return parts

    return asyncio.run(collect())


@given(
    st.lists(
        st.tuples(st.sampled_from(["file", "job"]), st.sampled_from([None, "a b.h5", "\u00fc.npz"]), st.binary()),
        max_size=MOST_PARTS,
    ),
    st.integers(1, 50),
)
def test_parts_are_the_same_however_the_body_is_cut(parts: list[tuple[str, str | None, bytes]], step: int) -> None:
    whole = body(parts)
    assert read([whole[start : start + step] for start in range(0, len(whole), step)]) == parts


@given(st.integers(1, 80))
def test_a_body_that_is_cut_off_is_refused(missing: int) -> None:
    whole = body([("file", "a", b"x" * 100)])
    with pytest.raises(BadRequest):
        read([whole[: len(whole) - 2 - missing]])


KINDS = ["", "text/plain", "multipart/form-data", "multipart/mixed; boundary=x"]


@pytest.mark.parametrize("kind", [*KINDS, f"multipart/form-data; boundary={'x' * 257}"])
def test_only_a_form_with_a_boundary_is_a_form(kind: str) -> None:
    with pytest.raises(UnknownMedia):
        PartReader(kind)


@pytest.mark.parametrize("content", [b"garbage", b"--frontier\r\nno colon\r\n\r\n", b"--frontier\r\n" + b"A" * 10**6])
def test_what_is_no_form_is_refused(content: bytes) -> None:
    with pytest.raises(BadRequest):
        read([content])


def test_thousands_of_parts_in_one_piece_are_not_taken_apart() -> None:
    made = PartReader(f"multipart/form-data; boundary={BOUNDARY}")

    async def one() -> AsyncIterator[bytes]:
        yield body([("x", None, b"")] * 20_000)

    events: list[object] = []

    async def collect() -> None:
        async for event in made.events(one()):
            events.append(event)

    with pytest.raises(BadRequest, match="more than"):
        asyncio.run(collect())
    assert events == []
