"""Requests to a model server: the key, time-outs, patience with a busy server, and errors that say what to do."""

import logging
import os
import random
import time
import weakref
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from qwen3_rag.errors import ModelError
from qwen3_rag.models.runtimes import NEVER, Until
from qwen3_rag.models.runtimes.address import API_KEY, check_url

__all__ = ["Client", "RefusedError", "StoppedError"]

BUSY = (429, 503)
FIRST_WAIT, LONGEST_WAIT = 0.5, 8.0  # seconds; doubled from attempt to attempt
MOST_ASKED = 60.0  # seconds a server may ask to wait by Retry-After; beyond, waiting is the user's decision
TICK = 0.05
logger = logging.getLogger("qwen3_rag")


class RefusedError(ModelError):
    """The server does not take this request, but may take another: wrong path, wrong form, or too long."""


class StoppedError(Exception):
    """The deadline passed, or the caller cancelled, before the server answered."""


class Client:
    """One server. May be used from many threads at once.

    Args:
        url: Its address, with or without `/v1`.
        options: `api_key_env` (variable with the key, sent as a bearer token), `timeout` (seconds without an answer,
            120 by default) and `retries` (4).
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
        """The JSON found at a path. Errors as in `post`."""
        return self._ask("GET", path, None, NEVER)

    def post(self, path: str, body: Mapping[str, Any], until: Until = NEVER) -> Any:
        """The JSON answer to a request.

        Raises:
            RefusedError: The server does not take this request.
            StoppedError: `until` came first.
            ModelError: It cannot be reached, stays busy, does not answer in time, or refuses the key.
        """
        return self._ask("POST", path, body, until)

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None, until: Until) -> Any:
        for attempt in range(self.retries + 1):
            trouble, wait = self._attempt(method, path, body, until)
            if isinstance(trouble, httpx2.Response):
                return self._read(trouble, path)
            if attempt < self.retries:
                self._pause(self._wait(attempt, wait, trouble), until)
        raise ModelError(
            f"the server {self.url} could not be used in {self.retries + 1} attempts: {trouble}; expected one that is "
            "started and not overloaded"
        )

    def _attempt(
        self, method: str, path: str, body: Mapping[str, Any] | None, until: Until
    ) -> tuple[httpx2.Response | str, float | None]:
        """The answer; or what went wrong, and how long the server asks to wait."""
        if until.reached:
            raise StoppedError
        left = self.timeout if until.deadline is None else max(until.deadline - time.monotonic(), 1e-3)
        timeout = httpx2.Timeout(min(self.timeout, left), connect=min(self.timeout, left, 10.0))
        try:
            answer = self._http.request(method, self.url + path, json=body, timeout=timeout)
        except httpx2.ConnectError as error:
            return f"cannot connect: {error}", None
        except httpx2.TimeoutException as error:
            if until.reached:
                raise StoppedError from error
            if isinstance(error, httpx2.ConnectTimeout):
                return "cannot connect in time", None
            # The work may still be going on there: asking again would only add to it.
            raise ModelError(
                f"the server {self.url} gave no answer to {path} within timeout={self.timeout:g} s; raise the option "
                "'timeout' or lower 'batch_size'"
            ) from error
        except httpx2.TransportError as error:
            return f"{type(error).__name__}: {error}", None
        if answer.status_code in BUSY:
            return f"HTTP {answer.status_code}: {_said(answer)}", _retry_after(answer)
        return answer, None

    def _wait(self, attempt: int, asked: float | None, trouble: str) -> float:
        if asked is not None and asked > MOST_ASKED:
            raise ModelError(
                f"the server {self.url} asks to wait {asked:g} s ({trouble}); expected at most {MOST_ASKED:g}"
            )
        # Half to whole, at random: callers turned away together do not come back together.
        own = min(FIRST_WAIT * 2**attempt, LONGEST_WAIT) * random.uniform(0.5, 1.0)
        seconds = own if asked is None else asked
        logger.info("%s: %s; asking again in %.1f s", self.url, trouble, seconds)
        return seconds

    @staticmethod
    def _pause(seconds: float, until: Until) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if until.reached:
                raise StoppedError
            time.sleep(min(left, TICK))

    def _read(self, answer: httpx2.Response, path: str) -> Any:
        if answer.status_code in (401, 403):
            there = "set" if os.environ.get(self.key_name) else "not set"
            raise ModelError(
                f"the server {self.url} refuses access (HTTP {answer.status_code}); expected its key in the "
                f"environment variable {self.key_name}, which is {there}"
            )
        if answer.status_code != 200:
            raise RefusedError(f"the server {self.url} answered {path} with HTTP {answer.status_code}: {_said(answer)}")
        try:
            return answer.json()
        except ValueError as error:
            raise ModelError(f"the server {self.url} answered {path} with no JSON: {answer.text[:80]!r}…") from error


def _said(answer: httpx2.Response) -> str:
    """A server's own words about an error, in OpenAI's form or any other."""
    try:
        found = answer.json()
    except ValueError:
        return answer.text[:200].strip()
    for name in ("error", "message", "detail"):
        if isinstance(found, dict) and name in found:
            found = found[name]
    return str(found)[:300]


def _retry_after(answer: httpx2.Response) -> float | None:
    """Seconds out of `Retry-After`, which is a number of them or a date."""
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
