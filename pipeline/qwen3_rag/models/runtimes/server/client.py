"""Requests to a model server: authentication, timeouts, retries, and errors that say what to do."""

import logging
import os
import random
import time
import weakref
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from qwen3_rag.arguments import API_KEY, check_url
from qwen3_rag.errors import ModelError, StoppedError
from qwen3_rag.scores import NEVER, Cancellation

__all__ = ["Client", "RefusedError"]

BUSY = (429, 503)
FIRST_WAIT, LONGEST_WAIT = 0.5, 8.0  # seconds; the wait doubles with each attempt
LONGEST_RETRY_AFTER = 60.0  # seconds; a longer Retry-After is an error, so that the user decides
POLL_SECONDS = 0.05
logger = logging.getLogger("qwen3_rag")


class RefusedError(ModelError):
    """The server rejects this request but may accept another: wrong path, wrong format, or too long."""


class Client:
    """An HTTP client for one server; safe to use from many threads.

    Args:
        url: The server's URL, with or without `/v1`.
        options: `api_key_env` (environment variable with the key, sent as a bearer token), `timeout` (seconds to wait
            for an answer, 120 by default) and `retries` (4 by default).
    """

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self.url = check_url(url)
        self.key_name = str(options.get("api_key_env", API_KEY))
        self.timeout, self.retries = float(options.get("timeout", 120.0)), int(options.get("retries", 4))
        key = os.environ.get(self.key_name)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx2.Client(headers=headers)
        weakref.finalize(self, self._http.close).atexit = False

    def get(self, path: str) -> Any:
        """The JSON response to a GET request. Errors as in `post`."""
        return self._ask("GET", path, None, NEVER)

    def post(self, path: str, body: Mapping[str, Any], cancellation: Cancellation = NEVER) -> Any:
        """The JSON response to a POST request.

        Raises:
            RefusedError: The server rejects this request.
            StoppedError: `cancellation` applied first.
            ModelError: The server cannot be reached, stays busy, does not answer in time, or rejects the key.
        """
        return self._ask("POST", path, body, cancellation)

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None, cancellation: Cancellation) -> Any:
        for attempt in range(self.retries + 1):
            outcome, retry_after = self._attempt(method, path, body, cancellation)
            if isinstance(outcome, httpx2.Response):
                return self._read(outcome, path)
            if attempt < self.retries:
                self._pause(self._wait(attempt, retry_after, outcome), cancellation)
        raise ModelError(
            f"the server {self.url} failed in {self.retries + 1} attempts: {outcome}; expected a running server that "
            "is not overloaded"
        )

    def _attempt(
        self, method: str, path: str, body: Mapping[str, Any] | None, cancellation: Cancellation
    ) -> tuple[httpx2.Response | str, float | None]:
        """The response; or the problem, and the seconds of a `Retry-After`."""
        if cancellation.stop_reason:
            raise StoppedError(cancellation.stop_reason)
        left = self.timeout if cancellation.deadline is None else max(cancellation.deadline - time.monotonic(), 1e-3)
        timeout = httpx2.Timeout(min(self.timeout, left), connect=min(self.timeout, left, 10.0))
        try:
            answer = self._http.request(method, self.url + path, json=body, timeout=timeout)
        except httpx2.ConnectError as error:
            return f"cannot connect: {error}", None
        except httpx2.TimeoutException as error:
            if cancellation.stop_reason:
                raise StoppedError(cancellation.stop_reason) from error
            if isinstance(error, httpx2.ConnectTimeout):
                return "cannot connect in time", None
            # The server may still be computing the answer: a retry would only add load.
            raise ModelError(
                f"the server {self.url} gave no answer to {path} within timeout={self.timeout:g} s; raise the option "
                "'timeout' or lower 'batch_size'"
            ) from error
        except httpx2.TransportError as error:
            return f"{type(error).__name__}: {error}", None
        if answer.status_code in BUSY:
            return f"HTTP {answer.status_code}: {_error_message(answer)}", _retry_after(answer)
        return answer, None

    def _wait(self, attempt: int, retry_after: float | None, problem: str) -> float:
        if retry_after is not None and retry_after > LONGEST_RETRY_AFTER:
            raise ModelError(
                f"the server {self.url} asks to wait {retry_after:g} s ({problem}); expected at most "
                f"{LONGEST_RETRY_AFTER:g}"
            )
        # Randomised between half and the whole, so that callers rejected together do not retry together.
        backoff = min(FIRST_WAIT * 2**attempt, LONGEST_WAIT) * random.uniform(0.5, 1.0)
        seconds = backoff if retry_after is None else retry_after
        # Without the server's message, which may repeat texts.
        logger.info("%s: %s; retrying in %.1f s", self.url, problem.partition(":")[0], seconds)
        return seconds

    @staticmethod
    def _pause(seconds: float, cancellation: Cancellation) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if cancellation.stop_reason:
                raise StoppedError(cancellation.stop_reason)
            time.sleep(min(left, POLL_SECONDS))

    def _read(self, answer: httpx2.Response, path: str) -> Any:
        if answer.status_code in (401, 403):
            state = "set" if os.environ.get(self.key_name) else "not set"
            raise ModelError(
                f"the server {self.url} refuses access (HTTP {answer.status_code}); expected its key in the "
                f"environment variable {self.key_name}, which is {state}"
            )
        if answer.status_code != 200:
            raise RefusedError(
                f"the server {self.url} answered {path} with HTTP {answer.status_code}: {_error_message(answer)}"
            )
        try:
            return answer.json()
        except ValueError as error:
            raise ModelError(f"the server {self.url} answered {path} with no JSON: {answer.text[:80]!r}…") from error


def _error_message(answer: httpx2.Response) -> str:
    """The error message in a response, in OpenAI's format or any other."""
    try:
        message = answer.json()
    except ValueError:
        return answer.text[:200].strip()
    for name in ("error", "message", "detail"):
        if isinstance(message, dict) and name in message:
            message = message[name]
    return str(message)[:300]


def _retry_after(answer: httpx2.Response) -> float | None:
    """Seconds to wait according to `Retry-After`, which is a number of seconds or a date."""
    value = answer.headers.get("Retry-After", "").strip()
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
