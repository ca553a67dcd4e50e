"""A model on a server: its name there, its limits, and its tokenizer if this machine has it."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.errors import InvalidArgumentError, MissingDependencyError, ModelError
from qwen3_rag.models.checkpoints.formats import RerankFormat
from qwen3_rag.models.checkpoints.sources import Source
from qwen3_rag.models.checkpoints.tokens import Tokens, neutral_text, spelling, well_formed
from qwen3_rag.models.runtimes.server.client import Client, RefusedError

__all__ = ["Served"]

SAMPLE = "Tides, 潮汐 and المد: f(x) = 2 * x\n\n"
logger = logging.getLogger("qwen3_rag")


class Served:
    """A server and one of its models.

    Args:
        url: The server's URL.
        source: The model's name in this package; weights are never downloaded.
        device: Must be "auto": the server decides.
        dtype: Must be "auto".
        max_length: Most tokens of an input.
        options: The options of `Client`, and `served_name`.

    Attributes:
        model: The model's name on the server.
        tokens: Its tokenizer from the model's folder or a hub's local cache, or None.
        rerank_format: The official reranker format with that tokenizer, or None.
        max_length: The lower of the argument and the server's limit.

    Raises:
        InvalidArgumentError: `device` or `dtype` is not "auto".
        ModelError: The server cannot be reached or does not have the model.
    """

    def __init__(
        self, url: str, source: Source, *, device: str, dtype: str, max_length: int, options: dict[str, Any]
    ) -> None:
        for name, value in (("device", device), ("dtype", dtype)):
            if value != "auto":
                raise InvalidArgumentError(f"{name} is {value!r}; expected 'auto': the server decides")
        self.client = Client(url, options)
        self.model, longest = self._model(source, options.get("served_name"))
        self.max_length = min(max_length, longest or max_length)
        if self.max_length < max_length:
            logger.info("%s takes %d tokens, fewer than max_length=%d", url, self.max_length, max_length)
        self.tokens = self._tokens(source)
        self.rerank_format = _rerank_format(self.tokens, self.max_length)
        ids = self.tokens.control_ids if self.tokens else ()
        self._control = spelling(self.tokens.control.id_to_token(i) or "" for i in ids) if self.tokens else spelling()
        self.runs_on = {
            "device": self.client.url,
            "dtype": "the server's",
            "attention": "the server's",
            "max_length": str(self.max_length),
        }

    def _model(self, source: Source, served_name: object) -> tuple[str, int | None]:
        """The model's name, and its longest input if reported; without a list of models any name is accepted."""
        preset = source.preset.model if source.preset else source.model
        requested = str(served_name or (preset if isinstance(preset, str) else source.model))
        try:
            response = self.client.get("/v1/models")
            served = {str(row["id"]): row.get("max_model_len") for row in response["data"]}
        except (RefusedError, KeyError, TypeError, AttributeError):
            return requested, None
        # A server may list a folder by its last part.
        requested = requested if requested in served or not source.is_folder else Path(requested).name
        name = requested if requested in served or served_name or len(served) != 1 else next(iter(served))
        if served and name not in served:
            raise ModelError(
                f"the server {self.client.url} has no model {name!r}; it serves {', '.join(served)}: choose one with "
                "runtime_options={'served_name': …}"
            )
        longest = served.get(name)
        return name, longest if isinstance(longest, int) else None

    def _tokens(self, source: Source) -> Tokens | None:
        tokens = _local_tokens(source)
        response = self.tokenized(SAMPLE) if tokens else None
        if tokens and response and response["tokens"] != tokens.encode([SAMPLE])[0]:
            logger.warning("%s has a different tokenizer from %r: sending texts", self.client.url, source.model)
            return None
        return tokens

    def tokenized(self, text: str) -> dict[str, Any] | None:
        """Response of vLLM's `/tokenize` (`tokens`, `token_strs`), control tokens enabled; None if unavailable."""
        body = {"model": self.model, "prompt": text, "add_special_tokens": False, "return_token_strs": True}
        try:
            response = self.client.post("/tokenize", body)
        except RefusedError:
            return None
        return response if isinstance(response, dict) and isinstance(response.get("tokens"), list) else None

    def neutral(self, text: str) -> str:
        """The text with spelled-out control tokens broken up."""
        return neutral_text(text, self._control)

    def cut(self, text: str, limit: int) -> str:
        """The first `limit` tokens of a text; the whole text if there is no local tokenizer."""
        spans = self.tokens.spans(text) if self.tokens else ()
        return text[: int(spans[limit - 1][1])] if len(spans) > limit else text

    def spans(self, text: str) -> NDArray[np.int64]:
        """Character offsets (n, 2) of a text's tokens, from the local tokenizer or the server's.

        Raises:
            ModelError: Neither is available.
        """
        if self.tokens:
            return self.tokens.spans(text)
        text = well_formed(text)
        response = self.tokenized(text)
        spans = _spans(text, response.get("token_strs") or []) if response else None
        if spans is None:
            raise ModelError(
                f"texts cannot be split by tokens: the tokenizer of {self.model!r} is not on this machine and the "
                f"server {self.client.url} returns no tokens; expected model= a folder with its tokenizer.json"
            )
        return spans


def _spans(text: str, pieces: list[str]) -> NDArray[np.int64] | None:
    """Character offsets (n, 2) of byte-level pieces; None if they do not join to the text."""
    letters = _byte_letters()
    if not all(letter in letters for piece in pieces for letter in piece):
        return None
    parts = [bytes(letters[letter] for letter in piece) for piece in pieces]
    if b"".join(parts) != text.encode():
        return None
    # Byte offsets of the characters. A piece that ends inside a character is counted to the character's end.
    starts = np.cumsum([0, *(len(letter.encode()) for letter in text)])
    ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
    last = np.searchsorted(starts, ends, side="left")
    first = np.searchsorted(starts, ends - [len(part) for part in parts], side="right") - 1
    return np.stack([first, last], axis=1).astype(np.int64)


def _byte_letters() -> dict[str, int]:
    """Character to byte in byte-level vocabularies: a visible byte is itself, others are characters from 256 on."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    invisible = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + place): byte for place, byte in enumerate(invisible)}


def _rerank_format(tokens: Tokens | None, max_length: int) -> RerankFormat | None:
    try:
        return RerankFormat(tokens, max_length) if tokens else None
    except ModelError:
        return None  # another kind of tokenizer, whose model takes another format


def _local_tokens(source: Source) -> Tokens | None:
    folder = _folder(source)
    try:
        return Tokens(folder) if folder is not None else None
    except ModelError:
        return None


def _folder(source: Source) -> Path | None:
    if source.is_folder:
        return Path(source.model)
    name = source.preset.model if source.preset else source.model
    if not callable(name):
        return _cached(name, source.revision)
    try:
        return name()
    except MissingDependencyError:
        return None


def _cached(name: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(name, "tokenizer.json", revision=revision)
    return Path(path).parent if isinstance(path, str) else None
