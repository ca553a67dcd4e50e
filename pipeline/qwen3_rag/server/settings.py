"""Settings of the server, checked when made; and the keys that callers must present."""

import hmac
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from qwen3_rag.arguments import as_path, at_least
from qwen3_rag.errors import InvalidArgumentError

__all__ = ["KEYS", "Keys", "ServerSettings"]

KEYS = "QWEN3_RAG_SERVER_KEYS"  # environment variable with the server's keys, separated by spaces or commas
SHORTEST_KEY = 16  # characters
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


class Keys:
    """The keys that callers may present; only their digests are kept.

    Args:
        keys: The keys; none means that no key is needed.

    Raises:
        InvalidArgumentError: A key is shorter than 16 characters, or not of printable ASCII.
    """

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._digests = []
        for key in keys:
            if len(key) < SHORTEST_KEY or not re.fullmatch(r"[!-~]+", key):
                raise InvalidArgumentError(
                    f"a key of the server has {len(key)} characters; expected at least {SHORTEST_KEY}, all printable "
                    "ASCII: openssl rand -hex 32 makes one"
                )
            self._digests.append(sha256(key.encode()).digest())

    def __bool__(self) -> bool:
        """Whether a key is needed."""
        return bool(self._digests)

    def accept(self, authorization: bytes) -> bool:
        """Whether a request's `Authorization` header has one of the keys, compared in constant time."""
        scheme, _, key = authorization.partition(b" ")
        digest = sha256(key.strip()).digest()
        # Every key is compared, so that the time does not tell which one matched.
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return scheme.lower() == b"bearer" and any(matches)

    @classmethod
    def read(cls, file: Path | None) -> "Keys":
        """The keys of a file, one a line, and of the environment variable `QWEN3_RAG_SERVER_KEYS`.

        Raises:
            InvalidArgumentError: Others may read or change the file, it has no key, or a key is too short.
        """
        keys = re.split(r"[\s,]+", os.environ.get(KEYS, "").strip())
        keys = [key for key in keys if key]
        if file is not None:
            path = as_path(file, "--key-file")
            try:
                mode, text = path.stat().st_mode, path.read_text("utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise InvalidArgumentError(f"--key-file {path} cannot be read: {error}") from None
            mounted = path.resolve().is_relative_to("/run/secrets")  # by container engines, readable and read-only
            if mode & (0o022 if mounted else 0o026):
                raise InvalidArgumentError(
                    f"--key-file {path} has mode {mode & 0o777:o}, so others can read or change it; expected 600: "
                    f"chmod 600 {path}"
                )
            lines = [line.strip() for line in text.splitlines()]
            of_file = [line for line in lines if line and not line.startswith("#")]
            if not of_file:
                raise InvalidArgumentError(f"--key-file {path} has no key; expected one a line")
            keys += of_file
        return cls(keys)


NO_KEYS = Keys()


@dataclass(frozen=True)
class ServerSettings:
    """What the server listens to and how much it takes.

    Attributes:
        host: Address to listen at.
        port: Port; 0 takes a free one.
        keys: Keys that callers must present.
        allow_writes: Whether documents may be added and deleted.
        allow_origins: Origins of web pages that may call, such as "https://example.org".
        allow_hosts: Names by which the server may be called; by default those of this machine on loopback, else any.
        max_body: Most bytes of a request's body.
        max_texts: Most texts of a request.
        max_tokens: Most tokens of a request.
        max_queue: Most requests to the models at once; more are refused with 429.
        body_seconds: Longest time to send a request.
        send_seconds: Longest time in which a client takes nothing of its response.
        drain_seconds: Longest time to finish requests when the server ends.
        deadline: Seconds after which a request stops, if it sets no shorter time.
        ignore_unknown: Whether unknown fields are ignored rather than refused.
        compile: Whether models are compiled before the first request rather than in the middle of later ones.

    Raises:
        InvalidArgumentError: A value is wrong, or another address than loopback without a key.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    keys: Keys = NO_KEYS
    allow_writes: bool = False
    allow_origins: Sequence[str] = ()
    allow_hosts: Sequence[str] = ()
    max_body: int = 16 * 2**20
    max_texts: int = 2048
    max_tokens: int = 2**20
    max_queue: int = 256
    body_seconds: float = 30.0
    send_seconds: float = 60.0
    drain_seconds: float = 30.0
    deadline: float | None = None
    ignore_unknown: bool = False
    compile: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.port, bool) or not isinstance(self.port, int) or not 0 <= self.port < 2**16:
            raise InvalidArgumentError(f"port is {self.port!r}; expected 0 to 65535")
        for name in ("max_body", "max_texts", "max_tokens", "max_queue"):
            at_least(getattr(self, name), 1, name)
        for name in ("body_seconds", "send_seconds", "drain_seconds", "deadline"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise InvalidArgumentError(f"{name} is {value!r}; expected seconds above 0")
        for name in self.allow_hosts:
            if "/" in name or (":" in name and not name.startswith("[")) or "]:" in name:
                raise InvalidArgumentError(f"allowed host is {name!r}; expected a name without scheme and port")
        for origin in self.allow_origins:
            parts = urlsplit(origin)
            if origin != "*" and (
                parts.scheme not in ("http", "https") or origin != f"{parts.scheme}://{parts.netloc}"
            ):
                raise InvalidArgumentError(f"origin is {origin!r}; expected a form such as 'https://example.org'")
        if not self.loopback and not self.keys:
            raise InvalidArgumentError(
                f"host is {self.host!r}, which others can reach; expected 127.0.0.1, or a key: set {KEYS}, or pass "
                "--key-file"
            )

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        try:
            return ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def host_names(self) -> tuple[str, ...]:
        """Names that a request's `Host` may have, without the port; empty means any."""
        if self.allow_hosts:
            return tuple(name.lower() for name in self.allow_hosts)
        return (*LOOPBACK, self.host) if self.loopback else ()
