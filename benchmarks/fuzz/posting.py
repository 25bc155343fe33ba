"""Client that posts malformed files, checks every answer, and reconstructs some of the accepted files."""

import hashlib
import http.client
import json
import time
from base64 import b64encode
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from benchmarks.fuzz.drafts import Spoilt
from benchmarks.fuzz.mutators import CANARY
from benchmarks.fuzz.target import Target

ACCEPTED = (200, 201)
REFUSED = (400, 413, 415, 422)
MOST_PIECES = 4  # of an upload that is sent in pieces
MOST_SECONDS = 10.0
JOB_SECONDS = 60.0
MOST_ANSWER_BYTES = 4096  # of a refusal
MOST_HEADER_BYTES = 256 << 10  # of a scan that was taken: it lists a thousand frames
FILENAMES = (
    "scan.h5",
    "../../canary.bin",
    "/etc/passwd",
    "..\\..\\canary.h5",
    "a\x01\x1b[31m.npz",
    "\u202e5h.nacs",
    "x" * 3000,
    "%00.h5",
    "",
)
METHODS = {"mri": ("zero_filled", "cg_sense"), "ct": ("fbp", "sirt")}
SLOW_SHARE, SLOW_SIDE = 0.1, 64  # of the jobs, on small scans alone, are of a method that takes seconds
GUIDED_SHARE = 0.5  # of those on small scans that bring a guide are guided by it
PROBLEM_FIELDS = {"type": str, "title": str, "status": int, "detail": str, "instance": str}


class Answer(NamedTuple):
    """What the service said."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float


class Refusal(NamedTuple):
    """A request to append that must be refused, and by what."""

    statuses: tuple[int, ...]
    headers: dict[str, str]
    body: bytes


@dataclass
class Outcome:
    """What became of one file."""

    file: Spoilt
    status: int
    seconds: float
    job: str | None = None  # "succeeded", "failed"
    violations: list[str] = field(default_factory=list)


class Client:
    """One connection that is kept alive."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=MOST_SECONDS * 6)

    def close(self) -> None:
        self._connection.close()

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """One request; sent again if the server had closed the connection while it was idle."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        for again in (True, False):
            began = time.perf_counter()
            try:
                self._connection.request(method, path, body, named)
                answer = self._connection.getresponse()
                content = answer.read()
            except (http.client.HTTPException, ConnectionError):
                self._connection.close()
                if not again:
                    raise
            else:
                return Answer(answer.status, dict(answer.headers), content, time.perf_counter() - began)
        raise AssertionError

    def judge(self, file: Spoilt, *, with_job: bool) -> Outcome:
        """Post the file, see that the answer is one that may be given, and leave nothing behind."""
        rng = np.random.default_rng(file.number)
        try:
            answer = self._post(file, rng)
        except (http.client.HTTPException, OSError) as error:
            return Outcome(file, 0, 0.0, None, [f"no answer: {error!r}"])
        outcome = Outcome(file, answer.status, answer.seconds)
        outcome.violations += wrongs(answer)
        if answer.status in ACCEPTED:
            if file.mutator.must_be_refused:
                outcome.violations.append("accepted, though it must be refused")
            self._use_up(json.loads(answer.body), outcome, rng, with_job=with_job)
        elif (self._target.data / "scans" / hashlib.sha256(file.content).hexdigest()).exists():
            outcome.violations.append("refused, but stored")
        return outcome

    def _post(self, file: Spoilt, rng: np.random.Generator) -> Answer:
        """As a body, as a form or in pieces, under a name that may be a trick."""
        name = FILENAMES[rng.integers(len(FILENAMES))]
        way = rng.integers(4)
        if way == 3:
            return self._post_in_pieces(file.content, name, rng)
        if way == 0:
            plain = "".join(character for character in name if character.isprintable()).encode().decode("latin-1")
            return self.ask("POST", "/v1/scans", file.content, X_Filename=plain)
        if way == 1:
            return self.ask("POST", f"/v1/scans?filename={quote(name)}", file.content)
        boundary = f"b{rng.integers(1 << 62):x}"
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{quote(name, safe="/.")}"\r\n\r\n'
        )
        body = head.encode() + file.content + f"\r\n--{boundary}--\r\n".encode()
        return self.ask("POST", "/v1/scans", body, Content_Type=f"multipart/form-data; boundary={boundary}")

    def _post_in_pieces(self, content: bytes, name: str, rng: np.random.Generator) -> Answer:
        """As a resumable upload, among requests that are refused: wrong offsets, checksums and lengths."""
        metadata = f"filename {b64encode(name.encode()).decode()}"
        begun = self.ask("POST", "/v1/uploads", Upload_Length=str(len(content)), Upload_Metadata=metadata)
        if begun.status != 201:
            return begun
        upload, offset = json.loads(begun.body)["id"], 0
        for _ in range(MOST_PIECES):
            piece = content[offset : offset + int(rng.integers(len(content) + 1))]
            offset = self._append(upload, offset, piece, _expected_refusal(rng, len(content)))
        self._append(upload, offset, content[offset:], None)
        asked = json.dumps({"upload_id": upload}).encode()
        answer = self.ask("POST", "/v1/scans", asked, Content_Type="application/json")
        deleted = self.ask("DELETE", f"/v1/uploads/{upload}")
        return answer if deleted.status == (204 if answer.status in ACCEPTED else 404) else deleted

    def _append(self, upload: str, offset: int, piece: bytes, refusal: "Refusal | None") -> int:
        """Send a piece, or what is to be refused; gives the offset that the upload has then. Raises HTTPException."""
        path, headers = f"/v1/uploads/{upload}", {"Content_Type": "application/offset+octet-stream"}
        if refusal is not None:
            answer = self.ask("PATCH", path, refusal.body, **headers, **refusal.headers)
            if answer.status not in refusal.statuses:
                raise http.client.HTTPException(f"{refusal} was answered with {answer.status}")
        headers["Upload_Offset"] = str(offset)
        answer = self.ask("PATCH", path, piece, **headers)
        told = int(self.ask("HEAD", path).headers["upload-offset"])
        if answer.status != 204 or told != offset + len(piece):
            raise http.client.HTTPException(
                f"{len(piece)} bytes at {offset} were answered with {answer.status}: {told}"
            )
        return told

    def _use_up(self, scan: dict[str, Any], outcome: Outcome, rng: np.random.Generator, *, with_job: bool) -> None:
        """Reconstruct a slice if asked to, then delete all of it."""
        if with_job:
            asked = {
                "scan_id": scan["id"],
                "parameters": _parameters(scan, rng),
                "slices": [int(rng.integers(scan["slices"]))],
            }
            answer = self.ask("POST", "/v1/jobs", json.dumps(asked).encode(), Content_Type="application/json")
            if answer.status == 202:
                self._follow(json.loads(answer.body)["links"]["self"], outcome)
            else:
                outcome.violations.append(f"its job was answered with {answer.status}: {answer.body.decode()[:300]}")
        deleted = self.ask("DELETE", f"/v1/scans/{scan['id']}")
        if deleted.status != 204:
            outcome.violations.append(f"its deletion was answered with {deleted.status}")

    def _follow(self, job: str, outcome: Outcome) -> None:
        deadline = time.monotonic() + JOB_SECONDS
        while True:
            answer = self.ask("GET", f"{job}?wait=10")
            told = json.loads(answer.body)
            outcome.job = told["status"]
            if outcome.job in ("succeeded", "failed") or time.monotonic() > deadline:
                break
        if CANARY in answer.body:
            outcome.violations.append("the canary is in its job")
        if outcome.job == "failed" and told["error"]["status"] >= 500:
            outcome.violations.append(f"its job failed without a clear problem: {told['error']['detail']}")
        elif outcome.job == "succeeded":
            result = self.ask("GET", f"{job}/result?format=h5")
            if result.status != 200 or CANARY in result.body:
                outcome.violations.append(f"its result was answered with {result.status}")
        elif outcome.job != "failed":
            outcome.violations.append(f"its job is {outcome.job} after {JOB_SECONDS:g} s")
        self.ask("DELETE", job)


def _expected_refusal(rng: np.random.Generator, size: int) -> Refusal | None:
    """A request that no upload of this size takes."""
    odd = (-1, 1 << 62, 10**30, size + 1)[rng.integers(4)]
    return (
        None,
        Refusal((409, 422), {"Upload_Offset": str(odd)}, b"x"),
        Refusal((409, 413), {"Upload_Offset": "0"}, bytes(size + 1)),
        Refusal((400, 409), {"Upload_Offset": "0", "Upload_Checksum": f"crc{rng.integers(99)} ?"}, b"x"),
        Refusal((409, 460), {"Upload_Offset": "0", "Upload_Checksum": "sha256 AAAA"}, b"x"),
        Refusal((422,), {}, b"x"),
    )[rng.integers(6)]


def wrongs(answer: Answer) -> list[str]:
    """What may not be in an answer to an upload."""
    found = []
    if answer.status not in (*ACCEPTED, *REFUSED):
        found.append(f"status {answer.status}: {answer.body.decode('utf-8', 'replace')[:300]}")
    if answer.seconds > MOST_SECONDS:
        found.append(f"answered after {answer.seconds:.1f} s")
    if CANARY in answer.body or CANARY.decode() in str(answer.headers):
        found.append("the canary is in the answer")
    if len(answer.body) > (MOST_HEADER_BYTES if answer.status in ACCEPTED else MOST_ANSWER_BYTES):
        found.append(f"an answer of {len(answer.body)} bytes")
    if answer.status >= 400:
        found += _wrongs_of_problem(answer)
    return found


def _wrongs_of_problem(answer: Answer) -> list[str]:
    if answer.headers.get("content-type") != "application/problem+json":
        return [f"a problem of type {answer.headers.get('content-type')}"]
    told = json.loads(answer.body)
    found = [
        f"a problem without {name}" for name, kind in PROBLEM_FIELDS.items() if not isinstance(told.get(name), kind)
    ]
    if told.get("status") != answer.status:
        found.append("a problem of another status")
    if answer.status == 422:
        fields = told.get("errors") or [{}]
        if not all(
            isinstance(each.get(name), str) and each[name] for each in fields for name in ("field", "found", "expected")
        ):
            found.append(f"422 without the fields that are wrong: {answer.body.decode()[:300]}")
    return found


def _parameters(scan: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """A method that is soon done; for small scans now and then one that reads more of the file or takes longer."""
    if max(scan["kspace_matrix"] or scan["matrix"]) <= SLOW_SIDE:
        if scan["has_guide"] and rng.random() < GUIDED_SHARE:
            return {"method": "ref_guided_dip", "guide": "file", "iterations": 2}
        if rng.random() < SLOW_SHARE:
            return {"method": "tv"}
    return {"method": str(rng.choice(METHODS[scan["modality"]]))}
