"""`runtime="sentence-transformers"` for embedders: any model that the library loads, with its checkpoint's prompts."""

import importlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, processors

from qwen3_rag.errors import InvalidArgumentError, MissingDependencyError, ModelError, StoppedError
from qwen3_rag.models.checkpoints.formats import END_OF_TEXT, matryoshka, unit_rows
from qwen3_rag.models.checkpoints.hardware import choose_device, choose_dtype
from qwen3_rag.models.checkpoints.loading import quiet_loading
from qwen3_rag.models.checkpoints.tokens import well_formed
from qwen3_rag.models.runtimes.protocols import Progress
from qwen3_rag.prompts import DEFAULT_INSTRUCTION, INSTRUCTIONS, embed_query
from qwen3_rag.scores import NEVER, Cancellation, EmbedResult

__all__ = ["NeutralText", "SentenceEmbedder", "open_library_model"]

Float32 = NDArray[np.float32]
MOST_ROUNDS = 8
SLICE = 256  # texts per call: the library sorts them by length, and progress is reported in between
# Backend to the module it imports, the module's package, and the package's limit on transformers.
BACKENDS = {
    "onnx": ("optimum.onnxruntime", "optimum-onnx", "optimum-onnx 0.1 requires transformers < 4.58"),
    "openvino": ("optimum.intel", "optimum-intel", "optimum-intel 2.2 requires transformers < 5.6"),
}


def open_library_model(
    class_name: str, folder: Path, device: str, dtype: str, options: dict[str, Any]
) -> tuple[Any, dict[str, str]]:
    """Load a sentence-transformers model; returns it and what it runs on.

    Args:
        class_name: The library's class, "SentenceTransformer" or "CrossEncoder".
        folder: The checkpoint.
        device: Name of a device, or "auto".
        dtype: Name of a type, or "auto"; must be "auto" for the backends onnx and openvino.
        options: `backend` and `model_kwargs`, which are passed to the library.

    Raises:
        InvalidArgumentError: The runtime cannot use this type or device.
        MissingDependencyError: The backend's package is not installed.
        ModelError: The library cannot load the checkpoint.
    """
    backend, where = options.get("backend", "torch"), choose_device(device)
    model_kwargs: dict[str, Any] = dict(options.get("model_kwargs", {}))
    if backend == "torch":
        chosen = choose_dtype(_check_dtype(dtype), where, folder)
        model_kwargs |= {"dtype": chosen, "use_safetensors": True}
        runs_in = str(chosen).removeprefix("torch.")
    else:
        _check_backend(backend, dtype)
        runs_in = f"as in the {backend} file"
    import sentence_transformers

    try:
        with quiet_loading():
            model = getattr(sentence_transformers, class_name)(
                str(folder), device=str(where), backend=backend, model_kwargs=model_kwargs
            )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ModelError(f"sentence-transformers cannot load {folder} with backend {backend!r}: {error}") from error
    name = "sentence-transformers" if backend == "torch" else f"sentence-transformers, {backend}"
    return model, {"device": str(where), "dtype": runs_in, "attention": name}


def _check_dtype(dtype: str) -> str:
    if dtype == "int8":
        raise InvalidArgumentError(
            "dtype='int8' cannot be used with runtime='sentence-transformers'; expected 'auto', 'float32', 'bfloat16' "
            "or 'float16', or runtime='native' on the CPU"
        )
    return dtype


def _check_backend(backend: str, dtype: str) -> None:
    if dtype != "auto":
        raise InvalidArgumentError(
            f"dtype={dtype!r} cannot be used with backend={backend!r}, whose exported file fixes the type; expected "
            "dtype='auto', and the file's name in model_kwargs={'file_name': …}"
        )
    module, package, limit = BACKENDS[backend]
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        command = f'pip install "sentence-transformers[{backend}]", in a separate environment: {limit}'
        raise MissingDependencyError(package, f"backend={backend!r}", command) from error
    except ImportError as error:
        raise ModelError(f"backend={backend!r} cannot be imported; {limit}: {error}") from error


class NeutralText:
    """Stops text from outside from acting as control tokens in a library that takes text.

    Args:
        tokenizer: The library's tokenizer, a fast tokenizer of transformers.

    Attributes:
        copy: The tokenizer without truncation and padding; the library's own keeps the settings of its last call.
        control_ids: Ids that text from outside must not produce.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.copy = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self.copy.no_truncation()
        self.copy.no_padding()
        self.control_ids = _control_ids(tokenizer)

    def __call__(self, text: str) -> str:
        """The text with a space inside each span that the tokenizer would turn into a control token.

        The check looks at the resulting ids, because the library encodes text with the added tokens enabled, some
        vocabularies contain them as ordinary pieces, and some tokenizers normalise look-alikes to them.
        """
        text = well_formed(text)
        for _ in range(MOST_ROUNDS):
            encoded = self.copy.encode(text, add_special_tokens=False)
            control_spans = [
                span for i, span in zip(encoded.ids, encoded.offsets, strict=True) if i in self.control_ids
            ]
            if not control_spans:
                return text
            for start, _end in reversed(control_spans):
                text = f"{text[: start + 1]} {text[start + 1 :]}"
        raise InvalidArgumentError(
            f"the text still contains control tokens after {MOST_ROUNDS} rounds of breaking them up: {text[:60]!r}…"
        )

    def spans(self, text: str) -> NDArray[np.int64]:
        """Character offsets (n, 2) of a text's tokens."""
        encoded = self.copy.encode(well_formed(text), add_special_tokens=False)
        return np.asarray(encoded.offsets, dtype=np.int64).reshape(-1, 2)


def _control_ids(tokenizer: Any) -> frozenset[int]:
    # The unknown token is not a control token: any rare character becomes it.
    ids = {*tokenizer.get_added_vocab().values(), *tokenizer.all_special_ids}
    ids |= {i for token in ("<mask>", "[MASK]") if (i := tokenizer.backend_tokenizer.token_to_id(token)) is not None}
    return frozenset(ids - {tokenizer.unk_token_id})


def _make_official(model: Any) -> None:
    """Set up a plain Qwen3 checkpoint for the official format; by default the library pools the mean of all tokens.

    The end token also gives the empty text a vector, which would otherwise have no token to pool.
    """
    tokenizer = model.tokenizer
    end = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    if tokenizer("")["input_ids"][-1:] != [end]:
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"$A {END_OF_TEXT}", special_tokens=[(END_OF_TEXT, end)]
        )
    model[1] = type(model[1])(model.get_embedding_dimension(), "lasttoken")
    model.prompts |= {"query": embed_query(INSTRUCTIONS[DEFAULT_INSTRUCTION], ""), "document": ""}


class SentenceEmbedder:
    """A `SentenceTransformer`; its query prompt tells whether it takes instructions. Threads take turns."""

    work = tokens = None

    def __init__(
        self, folder: Path, *, device: str, dtype: str, max_length: int, dimensions: int | None, options: dict[str, Any]
    ) -> None:
        self.model, self.runs_on = open_library_model("SentenceTransformer", folder, device, dtype, options)
        control = self.model.tokenizer.get_added_vocab()
        if not (folder / "modules.json").is_file() and {"<|im_start|>", "<|im_end|>", END_OF_TEXT} <= set(control):
            _make_official(self.model)
        # Replaces a text without tokens if the tokenizer adds none, because its vector would be all zeros.
        no_tokens = END_OF_TEXT in control and not self.model.tokenizer("")["input_ids"]
        self.empty = END_OF_TEXT if no_tokens else ""
        self.model.max_seq_length = self.max_length = min(max_length, self.model.max_seq_length or max_length)
        self.batch_size = int(options.get("batch_size", 32))
        full = self.model.get_embedding_dimension()
        if full is None:
            raise ModelError(f"{folder} does not say how many dimensions its vectors have")
        self.dimensions = matryoshka(full, dimensions)
        self.query_prompt = self.model.prompts.get("query") or ""
        self.takes_instructions = self.query_prompt.startswith("Instruct:")
        self.neutral = NeutralText(self.model.tokenizer)
        self.special_tokens = len(self.model.tokenizer("")["input_ids"])
        self._lock = threading.Lock()

    def embed_queries(self, texts: Sequence[str], instruction: str, cancellation: Cancellation = NEVER) -> EmbedResult:
        """Unit rows of queries; a query longer than `max_length` is an error."""
        prompt = f"Instruct: {self.neutral(instruction)}\nQuery:" if self.takes_instructions else self.query_prompt
        for text in texts:
            if (count := len(self.spans(prompt + text))) >= self.max_length:
                raise InvalidArgumentError(
                    f"the query takes {count} tokens; expected fewer than max_length={self.max_length}: {text[:60]!r}…"
                )
        return self._embed(texts, prompt, None, cancellation)

    def embed_documents(
        self, texts: Sequence[str], progress: Progress | None = None, cancellation: Cancellation = NEVER
    ) -> EmbedResult:
        """Unit rows of documents, each truncated to `max_length` tokens."""
        prompt = self.model.prompts.get("document") or self.model.prompts.get("passage") or ""
        return self._embed(texts, prompt, progress, cancellation)

    def embed_ids(self, inputs: Sequence[list[int]], cancellation: Cancellation = NEVER) -> EmbedResult:
        """Not supported: the library takes texts."""
        raise InvalidArgumentError("inputs are token ids; expected texts with runtime 'sentence-transformers'")

    def _embed(
        self, texts: Sequence[str], prompt: str, progress: Progress | None, cancellation: Cancellation
    ) -> EmbedResult:
        rows, tokens, truncated = np.empty((len(texts), self.dimensions), dtype=np.float32), 0, 0
        size = SLICE if cancellation == NEVER else self.batch_size
        for start in range(0, len(texts), size):
            if reason := cancellation.stop_reason:
                raise StoppedError(f"{reason}: {len(rows) - start} of {len(rows)} texts not embedded")
            empty = "" if prompt else self.empty
            part = [self.neutral(text) or empty for text in texts[start : start + size]]
            with self._lock:
                vectors = self.model.encode(part, prompt=prompt, batch_size=self.batch_size, show_progress_bar=False)
            rows[start : start + len(part)] = unit_rows(np.asarray(vectors, dtype=np.float32), self.dimensions)
            lengths = [len(encoded.ids) + self.special_tokens for encoded in self._encoded(prompt, part)]
            tokens += sum(min(length, self.max_length) for length in lengths)
            truncated += sum(length > self.max_length for length in lengths)
            if progress:
                progress(len(part))
        return EmbedResult(rows, tokens, truncated)

    def _encoded(self, prompt: str, texts: Sequence[str]) -> list[Any]:
        whole = [prompt + text for text in texts]
        return self.neutral.copy.encode_batch_fast(whole, add_special_tokens=False)

    def spans(self, text: str) -> NDArray[np.int64]:
        """Character offsets of a text's tokens."""
        return self.neutral.spans(text)

    def warm_up(self) -> None:
        """Nothing to do."""
