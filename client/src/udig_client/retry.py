"""Retries: whether a request is sent again, and how long to wait before (RFC 9110, 9.2.2 and 10.2.3)."""

from __future__ import annotations

import random
from collections.abc import Mapping
from time import monotonic

import httpx

from udig_client.errors import OutcomeUnknown, ProblemError, ServiceUnreachable, UdigError, problem_of

TRANSIENT = frozenset({408, 423, 429, 502, 503, 504})
"""Statuses after which the same request may succeed later."""
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_HOPELESS = (httpx.UnsupportedProtocol, httpx.LocalProtocolError)
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.25, 5.0
PATIENCE_BEFORE_ANY_ANSWER = 3.0
"""Seconds of trying where no request was ever answered: then the URL is wrong more often than the service away."""


class Attempts:
    """The attempts at one request. Each `after_*` gives the seconds to wait before the next one, or raises.

    `patience` is how many seconds may go by without progress, less before any answer `was_answered`. `Retry-After` is
    obeyed where it fits into that.
    """

    def __init__(
        self,
        url: str,
        patience: float,
        *,
        was_answered: bool = True,
        repeatable: bool = True,
        problems: Mapping[int, type[ProblemError]] | None = None,
    ) -> None:
        self.repeatable, self.problems = repeatable, problems
        self.where = url if was_answered else f"{url} (is that the URL of the service, and does it run?)"
        self.patience = patience if was_answered else min(patience, PATIENCE_BEFORE_ANY_ANSWER)
        self.answer_lost = False
        """Whether an attempt may have taken effect although its answer never came."""
        self._since = monotonic()
        self._failures = 0

    def progressed(self) -> None:
        """Begin to count anew: something came."""
        self._since, self._failures = monotonic(), 0

    def after_error(self, error: httpx.TransportError) -> float:
        """After a connection that failed. Raises ServiceUnreachable."""
        sent = not isinstance(error, _NOT_SENT)
        self.answer_lost |= sent
        failed = ServiceUnreachable(f"{self.where} does not answer: {reason_of(error)}")
        if isinstance(error, _HOPELESS) or (sent and not self.repeatable):
            raise failed from error
        return self._wait(failed, None)

    def after_cut(self, error: httpx.TransportError) -> float:
        """After a piece of an upload that was cut off, which may have come in part. Raises ServiceUnreachable."""
        return self._wait(ServiceUnreachable(f"{self.where} does not answer: {reason_of(error)}"), None)

    def after_part(self, reason: str) -> float:
        """After a part of an upload that the service's bucket did not take. Raises ServiceUnreachable."""
        return self._wait(ServiceUnreachable(f"the bucket of {self.where} did not take a part: {reason}"), None)

    def after_answer(self, response: httpx.Response) -> float:
        """After an answer that refuses. Raises the problem unless it is transient."""
        problem = problem_of(response, self.problems)
        if response.status_code not in TRANSIENT or (isinstance(problem, OutcomeUnknown) and not self.repeatable):
            raise problem
        if response.status_code in (502, 504) and not self.repeatable:  # a gateway that lost the answer
            raise problem
        return self._wait(problem, problem.retry_after)

    def after_close(self, retry_seconds: float | None) -> float:
        """After a stream that ended before its time. Raises ServiceUnreachable."""
        return self._wait(ServiceUnreachable(f"{self.where} closes the stream again and again"), retry_seconds)

    def _wait(self, failed: UdigError, asked: float | None) -> float:
        backoff = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2**self._failures)
        # Spread, so that clients that were cut off together do not come back together.
        seconds = backoff * random.uniform(0.5, 1) if asked is None else asked + random.uniform(0, 0.25)
        self._failures = min(self._failures + 1, 16)
        if monotonic() - self._since + seconds > self.patience:
            raise failed
        return seconds


def reason_of(error: httpx.TransportError) -> str:
    """What failed, in words."""
    return str(error) or {
        "ConnectTimeout": "no connection in time",
        "ReadTimeout": "no answer in time",
        "WriteTimeout": "the bytes were not taken in time",
        "PoolTimeout": "no connection was free in time",
    }.get(type(error).__name__, type(error).__name__)
