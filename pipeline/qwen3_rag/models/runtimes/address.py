"""Checks the URL of a model server before anything is loaded."""

from urllib.parse import urlsplit

from qwen3_rag.errors import InvalidArgumentError

__all__ = ["API_KEY", "check_url"]

API_KEY = "QWEN3_RAG_API_KEY"  # environment variable with the server's key


def check_url(url: str) -> str:
    """The server's base URL, without a trailing `/v1`.

    Raises:
        InvalidArgumentError: The URL is not http or https, has no host, or contains a user, a password, a query or a
            fragment, which would be stored.
    """
    parts = urlsplit(url)
    shown = f"{parts.scheme}://{parts.hostname or ''}"
    try:
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise InvalidArgumentError(f"the server's URL is {shown!r}…; expected http://host:port or https://host")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise InvalidArgumentError(
            f"the server's URL {shown!r}… has a user, a password, a query or a fragment; expected none: "
            f"pass a key in the environment variable {API_KEY}"
        )
    return url.rstrip("/").removesuffix("/v1").rstrip("/")
