"""`runtime="sentence-transformers"`: any embedder that library loads, with the prompts its checkpoint carries."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from qwen3_rag.errors import InvalidArgumentError, ModelError
from qwen3_rag.models.decoder import choose_device, choose_dtype, quiet_loading
from qwen3_rag.models.runtimes import Float32, Progress
from qwen3_rag.models.runtimes.native import matryoshka
from qwen3_rag.models.tokens import well_formed

__all__ = ["SentenceEmbedder"]

MOST_ROUNDS = 8
SLICE = 256  # texts handed over at once: the library sorts them by length, and progress is shown between


class SentenceEmbedder:
    """A `SentenceTransformer`; whether it takes instructions is read off its own query prompt."""

    def __init__(
        self, folder: Path, *, device: str, dtype: str, max_length: int, dimensions: int | None, options: dict[str, Any]
    ) -> None:
        from sentence_transformers import SentenceTransformer

        where = choose_device(device)
        chosen = choose_dtype(dtype, where)
        try:
            with quiet_loading():
                self.model = SentenceTransformer(str(folder), device=str(where), model_kwargs={"dtype": chosen})
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"sentence-transformers cannot load {folder}: {error}") from error
        self.model.max_seq_length = self.max_length = min(max_length, self.model.max_seq_length or max_length)
        self.batch_size = int(options.get("batch_size", 32))
        full = self.model.get_embedding_dimension()
        if full is None:
            raise ModelError(f"{folder} does not say how many dimensions its vectors have")
        self.dimensions = matryoshka(full, dimensions)
        self.query_prompt = self.model.prompts.get("query") or ""
        self.takes_instructions = self.query_prompt.startswith("Instruct:")
        self.runs_on = {
            "device": str(where),
            "dtype": str(chosen).removeprefix("torch."),
            "attention": "sentence-transformers",
        }
        # A copy, because encoding leaves the library's own tokenizer set to cut at the model's length.
        self._tokenizer = Tokenizer.from_str(self.model.tokenizer.backend_tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._control_ids = _control_ids(self.model.tokenizer)

    def _neutral(self, text: str) -> str:
        """The text with a blank inside whatever this model's tokenizer would read as a control token.

        This library encodes text with the added tokens in force, some vocabularies hold them as ordinary pieces, and
        some tokenizers make them out of look-alikes: so what counts is the ids that come out.
        """
        text = well_formed(text)
        for _ in range(MOST_ROUNDS):
            encoded = self._tokenizer.encode(text, add_special_tokens=False)
            found = [span for i, span in zip(encoded.ids, encoded.offsets, strict=True) if i in self._control_ids]
            if not found:
                return text
            for start, _end in reversed(found):
                text = f"{text[: start + 1]} {text[start + 1 :]}"
        raise InvalidArgumentError(f"the text cannot be kept apart from the model's control tokens: {text[:60]!r}…")

    def embed_queries(self, texts: Sequence[str], instruction: str) -> Float32:
        """Unit rows of queries; one too long for the model is an error."""
        prompt = f"Instruct: {self._neutral(instruction)}\nQuery:" if self.takes_instructions else self.query_prompt
        for text in texts:
            if (count := len(self.spans(prompt + text))) >= self.max_length:
                raise InvalidArgumentError(
                    f"the query takes {count} tokens; expected fewer than max_length={self.max_length}: {text[:60]!r}…"
                )
        return self._embed(texts, prompt, None)

    def embed_documents(self, texts: Sequence[str], progress: Progress | None = None) -> Float32:
        """Unit rows of documents."""
        return self._embed(
            texts, self.model.prompts.get("document") or self.model.prompts.get("passage") or "", progress
        )

    def _embed(self, texts: Sequence[str], prompt: str, progress: Progress | None) -> Float32:
        rows = np.empty((len(texts), self.dimensions), dtype=np.float32)
        for start in range(0, len(texts), SLICE):
            part = [self._neutral(text) for text in texts[start : start + SLICE]]
            found = self.model.encode(part, prompt=prompt, batch_size=self.batch_size, show_progress_bar=False)
            cut = np.asarray(found, dtype=np.float32)[:, : self.dimensions]
            rows[start : start + len(part)] = cut / np.linalg.norm(cut, axis=1, keepdims=True).clip(1e-12)
            if progress:
                progress(len(part))
        return rows

    def spans(self, text: str) -> NDArray[np.int64]:
        """Character offsets of a text's tokens."""
        encoded = self._tokenizer.encode(well_formed(text), add_special_tokens=False)
        return np.asarray(encoded.offsets, dtype=np.int64).reshape(-1, 2)


def _control_ids(tokenizer: Any) -> frozenset[int]:
    # The unknown token is no control token: any rare character becomes it.
    ids = {*tokenizer.get_added_vocab().values(), *tokenizer.all_special_ids}
    ids |= {i for token in ("<mask>", "[MASK]") if (i := tokenizer.backend_tokenizer.token_to_id(token)) is not None}
    return frozenset(ids - {tokenizer.unk_token_id})
