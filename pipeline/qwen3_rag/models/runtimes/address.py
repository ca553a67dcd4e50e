"""The URL of a model server, checked before anything is loaded."""

from urllib.parse import urlsplit

from qwen3_rag.errors import InvalidArgumentError

__all__ = ["API_KEY", "check_url"]

API_KEY = "QWEN3_RAG_API_KEY"  # environment variable that holds a server's key


def check_url(url: str) -> str:
    """The server's root, without a trailing `/v1`.

    Raises:
        InvalidArgumentError: Not http or https, no host, or with a password or a query, which would be stored.
    """
    parts = urlsplit(url)
    shown = f"{parts.scheme}://{parts.hostname or ''}"
    try:
        fit = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        fit = False
    if not fit:
        raise InvalidArgumentError(f"the server's URL is {shown!r}…; expected http://host:port or https://host")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise InvalidArgumentError(
            f"the server's URL {shown!r}… has a user, a password, a query or a fragment; expected none: "
            f"a key goes into the environment variable {API_KEY}"
        )
    return url.rstrip("/").removesuffix("/v1").rstrip("/")
