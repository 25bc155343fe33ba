"""STOW-RS: send DICOM objects to an archive over HTTP (DICOM PS3.18, 10.5), streamed with bounded memory."""

import json
import ssl
import uuid
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx2
from defusedxml import DefusedXmlException, ElementTree

from udig_recon.api.destinations.objects import ResultObjects
from udig_recon.api.destinations.refusals import NotStored, refused
from udig_recon.api.http.threads import LimitedThreadPool
from udig_recon.worker.access.destinations import DICOMwebDestination, read_secret
from udig_recon.worker.storage.base import Storage

BATCH_BYTES = 32 << 20  # of one request: archives limit bodies
READ_BYTES = 256 << 10
MOST_ANSWER_BYTES = 4 << 20
MOST_REASON = 0xFFFF
FAILED_SEQUENCE, FAILURE_REASON = "00081198", "00081197"
UNKNOWN_REASON = 0x0110


async def store(
    destination: DICOMwebDestination, objects: ResultObjects, storage: Storage, threads: LimitedThreadPool
) -> None:
    """Send all objects, in as many requests as they need. Raises NotStored."""
    headers, auth = await threads.run(_credentials, destination)
    context = await threads.run(destination.ssl_context)
    async with httpx2.AsyncClient(
        verify=context,
        timeout=destination.timeout_seconds,
        follow_redirects=False,
        trust_env=False,  # what the operator named is what is called
        headers=headers,
        auth=auth,
    ) as client:
        failures: list[int] = []
        for batch in objects.batches(BATCH_BYTES):
            scratch = await threads.run(storage.scratch)
            try:
                sizes = [await threads.run(objects.append, number, scratch.path) for number in batch]
                failures += await _post(client, destination, scratch.path, sizes, threads)
            finally:
                await threads.run(scratch.close)
    if failures:
        raise refused(failures, len(objects))


def _credentials(destination: DICOMwebDestination) -> tuple[Mapping[str, str], httpx2.BasicAuth | None]:
    """Headers and login, from the files as they are now. Raises NotStored."""
    try:
        if destination.token_file is not None:
            return {"authorization": f"Bearer {read_secret(destination.token_file)}"}, None
        if destination.username is not None and destination.password_file is not None:
            return {}, httpx2.BasicAuth(destination.username, read_secret(destination.password_file))
    except OSError as error:
        raise NotStored(f"the file with its token or password cannot be read: {error.strerror}") from error
    return {}, None


async def _post(
    client: httpx2.AsyncClient,
    destination: DICOMwebDestination,
    path: Path,
    sizes: list[int],
    threads: LimitedThreadPool,
) -> list[int]:
    """Send one request; reasons of the objects that it refused. Raises NotStored."""
    boundary = uuid.uuid4().hex
    opening = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    closing = f"--{boundary}--\r\n".encode()

    async def body() -> AsyncIterator[bytes]:
        with path.open("rb") as file:
            for size in sizes:
                yield opening
                for start in range(0, size, READ_BYTES):
                    yield await threads.run(file.read, min(size - start, READ_BYTES))
                yield b"\r\n"
        yield closing

    length = sum(sizes) + len(sizes) * (len(opening) + 2) + len(closing)
    headers = {
        "content-type": f'multipart/related; type="application/dicom"; boundary={boundary}',
        "content-length": str(length),  # archives refuse bodies of unknown length
        "accept": "application/dicom+json",
        "accept-encoding": "identity",  # a few bytes could become any number of them
    }
    try:
        async with client.stream("POST", f"{destination.url}/studies", content=body(), headers=headers) as answer:
            text = await _read(answer)
    except httpx2.TimeoutException:
        raise NotStored(f"no answer within {destination.timeout_seconds:g} s") from None
    except httpx2.ConnectError as error:
        if isinstance(_root(error), ssl.SSLError):
            raise NotStored("no TLS connection: its certificate is not trusted, or it wants one of ours") from None
        raise NotStored("no connection") from None
    except httpx2.TransportError:
        raise NotStored("the connection broke off") from None
    return await threads.run(_failures, answer.status_code, text, len(sizes))


async def _read(answer: httpx2.Response) -> bytes:
    text = bytearray()
    async for part in answer.aiter_raw():
        text += part
        if len(text) > MOST_ANSWER_BYTES:
            raise NotStored(f"answered {answer.status_code} with more than {MOST_ANSWER_BYTES} bytes")
    return bytes(text)


def _failures(status: int, text: bytes, count: int) -> list[int]:
    """Reasons of refused objects in an answer: 200 all stored, 202 some, 409 none (PS3.18, 10.5.3)."""
    if status not in (HTTPStatus.OK, HTTPStatus.ACCEPTED, HTTPStatus.CONFLICT):
        phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else ""
        raise NotStored(f"answered {status} {phrase}".strip())
    found = _reasons(text)
    if status == HTTPStatus.CONFLICT and not found:
        return [UNKNOWN_REASON] * count
    if found is None and status == HTTPStatus.ACCEPTED:
        raise NotStored("answered 202 Accepted without saying which objects it stored")
    return (found or [])[:count]


def _reasons(text: bytes) -> list[int] | None:
    """Failure reasons of the Failed SOP Sequence, in DICOM's JSON or XML; None where the text is neither."""
    try:
        return _reasons_of_json(json.loads(text))
    except (ValueError, RecursionError):
        pass
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, DefusedXmlException, ValueError):
        return None
    tags = [each for each in root.iter() if each.get("tag") == FAILURE_REASON]
    return [_number("".join(each.itertext())) for each in tags]


def _reasons_of_json(answer: Any) -> list[int]:
    reasons = []
    for data in answer if isinstance(answer, list) else [answer]:
        for item in _values(data, FAILED_SEQUENCE):
            values = _values(item, FAILURE_REASON)
            reasons.append(_number(values[0] if values else None))
    return reasons


def _values(data: object, tag: str) -> list[Any]:
    """Values of an attribute of a data set, of which an archive may make anything."""
    attribute = data.get(tag) if isinstance(data, dict) else None
    values = attribute.get("Value") if isinstance(attribute, dict) else None
    return values if isinstance(values, list) else []


def _number(value: object) -> int:
    try:
        number = int(str(value).strip())
    except ValueError:
        return UNKNOWN_REASON
    return number if 0 <= number <= MOST_REASON else UNKNOWN_REASON


def _root(error: BaseException) -> BaseException:
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error
