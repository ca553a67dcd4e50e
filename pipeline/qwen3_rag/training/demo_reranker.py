"""The recipe of the demo reranker: a LoRA adapter on SmolLM2-135M that answers like Qwen3-Reranker.

    python -m qwen3_rag.training.demo_reranker --minutes 60 --out data/models/demo-reranker

Each row of tokens is one query with six candidates. The loss is the KL divergence from the teacher's distribution over
the list, plus a cross entropy on the candidates with a certain label, which fixes the zero of the log-odds. On a CPU,
set `LD_PRELOAD=libtcmalloc_minimal.so.4`: reading the corpus fragments glibc's heap, which halves the training speed.
"""

import argparse
import json
import logging
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, kl_div, log_softmax, softmax
from transformers import AutoTokenizer, LlamaForCausalLM

from qwen3_rag.models.checkpoints.demo import demo_embedder, read_smollm2, smollm2_file
from qwen3_rag.prompts import RERANK_PREFIX, RERANK_SUFFIX, rerank_query
from qwen3_rag.training.demo_corpus import gather
from qwen3_rag.training.demo_lists import CandidateList, Embed, make_lists
from qwen3_rag.training.lora import add_adapters, save_adapter
from qwen3_rag.training.packing import ATTENTION, PackedList, pack_list, yes_no_scores

__all__ = ["Encoder", "Recipe", "base_model", "evaluate", "main", "train"]

log = logging.getLogger("qwen3_rag.training")
BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"


@dataclass(frozen=True)
class Recipe:
    """Everything that determines the result, apart from the texts on the machine.

    Attributes:
        minutes: Time for training steps; the learning rate decays to zero over it.
        rows: Lists per step.
        certain: Weight of the cross entropy on candidates with a certain label.
    """

    minutes: float = 60.0
    rank: int = 16
    alpha: float = 32.0
    rows: int = 3
    learning_rate: float = 4e-4
    warm_up: float = 0.04
    certain: float = 0.3
    document_tokens: int = 128
    lists: int = 2600
    development: int = 150
    seed: int = 17
    checkpoint_minutes: float = 5.0


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


def base_model(config: Any, weights: dict[str, torch.Tensor], dtype: torch.dtype = torch.bfloat16) -> Any:
    """The stock causal model with packed attention, from weights with transformers' names."""
    config._attn_implementation = ATTENTION
    model: Any = LlamaForCausalLM(config)
    model.to(dtype)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert set(missing) <= {"lm_head.weight"} and not unexpected, (missing, unexpected)
    return model


def train(model: Any, encoder: Encoder, lists: Sequence[CandidateList], recipe: Recipe, out: Path) -> Iterator[int]:
    """Train adapters until the time is up, saving checkpoints to `out`; yields the number of completed steps."""
    parameters = add_adapters(model, recipe.rank, recipe.alpha)
    direction = yes_no_direction(model, encoder)
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=0.01)
    spent, saved, steps, tokens = 0.0, 0.0, 0, 0
    recent: list[tuple[float, float]] = []
    rows = _endlessly_shuffled(lists, recipe.seed)
    while spent < 60 * recipe.minutes:
        started = time.monotonic()
        done = spent / (60 * recipe.minutes)
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * _schedule(done, recipe.warm_up)
        for _ in range(recipe.rows):
            row = next(rows)
            packed = encoder.pack(row.instruction, row.query, row.documents)
            scores = yes_no_scores(model.model, direction, packed)
            loss = list_loss(scores, row, recipe.certain)
            torch.autograd.backward(loss / recipe.rows)
            tokens += packed.ids.numel()
            recent.append((loss.item(), float(scores.argmax() == 0)))
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        steps += 1
        # A paused process (SIGSTOP) must not use up the schedule.
        elapsed = time.monotonic() - started
        spent += min(elapsed, 2 * spent / (steps - 1)) if steps > 5 else elapsed
        if steps % 10 == 0:
            recent = recent[-200:]
            loss_mean, accuracy = np.mean(recent, axis=0)
            log.info("step %d: %.0f s, %d tokens, %.0f a second, loss %.3f, list accuracy %.3f (last %d lists)",
                     steps, spent, tokens, tokens / spent, loss_mean, accuracy, len(recent))  # fmt: skip
        if spent - saved > 60 * recipe.checkpoint_minutes:
            saved = spent
            save_adapter(model, out, recipe.rank, recipe.alpha, BASE)
        yield steps
    save_adapter(model, out, recipe.rank, recipe.alpha, BASE)


def yes_no_direction(model: Any, encoder: Encoder) -> torch.Tensor:
    """The vocabulary head's row of yes minus its row of no, shape (hidden,), float32."""
    head: torch.Tensor = model.lm_head.weight.detach().float()
    return head[encoder.yes] - head[encoder.no]


def list_loss(scores: torch.Tensor, row: CandidateList, certain: float) -> torch.Tensor:
    """KL divergence from the teacher over the list, plus `certain` times the cross entropy on certain labels."""
    target = softmax(torch.from_numpy(row.teacher), 0)
    divergence = kl_div(log_softmax(scores, 0), target, reduction="sum")
    certain_scores = torch.cat([scores[:1], scores[len(scores) - row.easy :]])
    labels = torch.zeros(len(certain_scores))
    labels[0] = 1.0
    weight = torch.where(labels == 1, 0.5, 0.5 / max(row.easy, 1))
    return divergence + certain * binary_cross_entropy_with_logits(certain_scores, labels, weight, reduction="sum")


@torch.no_grad()
def evaluate(model: Any, encoder: Encoder, lists: Sequence[CandidateList]) -> dict[str, dict[str, float]]:
    """List accuracy and nDCG@10 of the embedder, the reranker and the mean of both after z-scoring."""
    direction = yes_no_direction(model, encoder)
    ranks: dict[str, list[int]] = {"embedder": [], "reranker": [], "blend": []}
    for row in lists:
        packed = encoder.pack(row.instruction, row.query, row.documents)
        scores = yes_no_scores(model.model, direction, packed).numpy()
        for name, values in {
            "embedder": row.cosine,
            "reranker": scores,
            "blend": _z_scored(row.cosine) + _z_scored(scores),
        }.items():
            ranks[name].append(int((values > values[0]).sum()))
    return {
        name: {
            "accuracy": float(np.mean([rank == 0 for rank in places])),
            "ndcg@10": float(np.mean([1 / math.log2(rank + 2) if rank < 10 else 0.0 for rank in places])),
        }
        for name, places in ranks.items()
    }


def _z_scored(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray((values - values.mean()) / (values.std() + 1e-6), dtype=np.float32)


def _schedule(done: float, warm_up: float) -> float:
    if done < warm_up:
        return (done + 0.002) / (warm_up + 0.002)
    return 0.5 + 0.5 * math.cos(math.pi * (done - warm_up) / (1 - warm_up))


def _endlessly_shuffled(lists: Sequence[CandidateList], seed: int) -> Iterator[CandidateList]:
    rng = random.Random(seed)
    while True:
        yield from rng.sample(lists, len(lists))


def _embedder() -> Embed:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(demo_embedder()), device="cpu", model_kwargs={"dtype": torch.bfloat16})

    def embed(texts: list[str], queries: bool) -> NDArray[np.float32]:
        prompt = "query" if queries else "document"
        vectors = model.encode(texts, prompt_name=prompt, batch_size=32, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)

    return embed


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the whole recipe: gather, embed, train, evaluate, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=Recipe.minutes)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    recipe = Recipe(minutes=options.minutes, seed=options.seed)

    sources = gather(recipe.seed)
    log.info("passages: %s", {name: len(group) for name, group in sources.items()})
    passages = [passage for group in sources.values() for passage in group]
    random.Random(recipe.seed).shuffle(passages)
    lists, development = make_lists(passages, _embedder(), recipe.lists, recipe.development, recipe.seed)
    log.info("%d training lists, %d development lists", len(lists), len(development))

    torch.manual_seed(recipe.seed)
    source = smollm2_file()
    encoder = Encoder(AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name), recipe.document_tokens)
    model = base_model(*read_smollm2(source))
    quick = development[:25]
    log.info("before, on %d lists: %s", len(quick), evaluate(model, encoder, quick))
    for steps in train(model, encoder, lists, recipe, options.out):
        if steps == 200:
            log.info("after %d steps, on %d lists: %s", steps, len(quick), evaluate(model, encoder, quick))
    log.info("after, on %d lists: %s", len(development), evaluate(model, encoder, development))


if __name__ == "__main__":
    main()
