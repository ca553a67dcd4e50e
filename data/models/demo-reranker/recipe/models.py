"""The models of the recipe: the demo embedder, the teacher, and SmolLM2 as it comes, which asks questions."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import AutoTokenizer, LlamaForCausalLM

from qwen3_rag import Embedder, Reranker
from qwen3_rag.models.checkpoints.demo import read_smollm2, smollm2_file
from qwen3_rag.prompts import RERANK_PREFIX, RERANK_SUFFIX, rerank_query
from recipe.body import PackedList, pack_list

__all__ = ["Encoder", "asker", "embedder", "teacher", "tokenizer"]

Float32 = NDArray[np.float32]
QUESTION_TOKENS = 24
ASK = (
    "<|im_start|>user\nText: {}\n\nWrite one short question that this text answers.<|im_end|>\n<|im_start|>assistant\n"
)


def embedder() -> Any:
    """Texts, and whether they are queries, to unit vectors of the demo embedder."""
    model = Embedder("demo")

    def embed(texts: list[str], queries: bool) -> Float32:
        vectors = model.encode_query(texts) if queries else model.encode_document(texts, show_progress=True)
        return np.asarray(vectors, dtype=np.float32)

    return embed


def teacher() -> Any:
    """(query, document) pairs to the cross-encoder's log-odds."""
    model = Reranker("demo-minilm")
    return lambda pairs: model.predict(pairs, show_progress=True)


def tokenizer() -> Any:
    """SmolLM2's tokenizer."""
    source = smollm2_file()
    return AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)


def asker(seed: int, batch_size: int = 32) -> Any:
    """Texts to one sampled question about each, asked by SmolLM2; "" where it asked nothing."""
    config, weights = read_smollm2(smollm2_file())
    model: Any = LlamaForCausalLM(config)
    model.to(torch.bfloat16)
    model.load_state_dict(weights, strict=False)
    encode = tokenizer()
    encode.padding_side, encode.pad_token = "left", encode.eos_token
    torch.manual_seed(seed)

    @torch.inference_mode()
    def ask(texts: list[str]) -> list[str]:
        questions = [""] * len(texts)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            rows = encode([ASK.format(texts[i].replace("<|", "< |")) for i in batch], return_tensors="pt", padding=True)
            sampled = model.generate(
                **rows, max_new_tokens=QUESTION_TOKENS, do_sample=True, temperature=0.7, top_p=0.9,
                pad_token_id=encode.pad_token_id,
            )  # fmt: skip
            for i, row in zip(batch, sampled[:, rows["input_ids"].shape[1] :], strict=True):
                questions[i] = _question(encode.decode(row, skip_special_tokens=True))
        return questions

    return ask


def _question(text: str) -> str:
    """The first question of a reply; a reply that was cut off before its question mark is none."""
    head, mark, _ = text.strip().strip('"').partition("?")
    return f"{head}?" if mark and "\n" not in head and len(head) > 12 else ""


class Encoder:
    """Encodes the prompts of `qwen3_rag.prompts` exactly; text from outside never becomes a control token."""

    def __init__(self, tokenizer: Any, document_tokens: int) -> None:
        plain = json.loads(tokenizer.backend_tokenizer.to_str())
        self._text = Tokenizer.from_str(json.dumps(plain | {"added_tokens": []}))
        self._prefix, self._suffix = (
            tokenizer(part, add_special_tokens=False)["input_ids"] for part in (RERANK_PREFIX, RERANK_SUFFIX)
        )
        self.yes, self.no = (tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no"))
        self._document_tokens = document_tokens

    def pack(self, instruction: str, query: str, documents: Sequence[str]) -> PackedList:
        """One row of the query and the documents, each truncated to `document_tokens`."""
        shared = self._prefix + self._ids(rerank_query(instruction, query))
        cut = self._document_tokens
        return pack_list(shared, [self._ids(f" {text}")[:cut] + self._suffix for text in documents])

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._text.encode(text, add_special_tokens=False).ids
        return ids
