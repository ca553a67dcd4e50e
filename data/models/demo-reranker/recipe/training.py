"""Distillation: the student learns the teacher's scores of each list.

The loss is the KL divergence from the teacher's distribution over the list, both softened, plus a Huber loss on the
log-odds themselves, which fixes their zero and their scale.
"""

import logging
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import huber_loss, kl_div, log_softmax, softmax

from qwen3_rag.ranking import standardised
from recipe.body import AdaptedDecoder
from recipe.lists import CandidateList
from recipe.models import Encoder

__all__ = ["Recipe", "evaluate", "list_loss", "train"]

log = logging.getLogger("recipe")
BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"


@dataclass(frozen=True)
class Recipe:
    """Everything that determines the result, apart from the texts on the machine.

    Attributes:
        minutes: Time for training steps; the learning rate decays to zero over it.
        rows: Lists a step.
        temperature: Divides the log-odds of teacher and student in the KL divergence.
        absolute: Weight of the Huber loss on the log-odds.
        lists: Training lists made; more than the time allows are not read.
    """

    minutes: float = 60.0
    rank: int = 16
    alpha: float = 32.0
    rows: int = 3
    learning_rate: float = 4e-4
    warm_up: float = 0.04
    temperature: float = 2.0
    absolute: float = 0.1
    document_tokens: int = 208
    scale: float = 0.7
    lists: int = 2200
    development: int = 240
    seed: int = 17
    checkpoint_minutes: float = 5.0


def train(
    decoder: AdaptedDecoder, encoder: Encoder, lists: Sequence[CandidateList], recipe: Recipe, out: Path
) -> Iterator[int]:
    """Train the adapters until the time is up, saving checkpoints to `out`; yields the number of completed steps."""
    parameters = list(decoder.parameters())
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
            scores = decoder.log_odds(packed, encoder.yes, encoder.no)
            loss = list_loss(scores, torch.from_numpy(row.teacher), recipe)
            torch.autograd.backward(loss / recipe.rows)
            tokens += len(packed.ids)
            recent.append((loss.item(), float(scores.argmax() == int(row.teacher.argmax()))))
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        steps += 1
        # The first steps compile, and a paused process (SIGSTOP) must not use up the schedule.
        elapsed = time.monotonic() - started
        spent += min(elapsed, 2 * spent / (steps - 1)) if steps > 5 else min(elapsed, 10)
        if steps % 10 == 0:
            recent = recent[-200:]
            loss_mean, accuracy = np.mean(recent, axis=0)
            log.info("step %d: %.0f s, %d tokens, %.0f a second, loss %.3f, teacher's first %.3f (last %d lists)",
                     steps, spent, tokens, tokens / spent, loss_mean, accuracy, len(recent))  # fmt: skip
        if spent - saved > 60 * recipe.checkpoint_minutes:
            saved = spent
            decoder.save(out, BASE)
        yield steps
    decoder.save(out, BASE)


def list_loss(scores: torch.Tensor, teacher: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """KL divergence from the teacher over the list, plus `absolute` times the Huber loss on the log-odds."""
    target = softmax(teacher / recipe.temperature, 0)
    divergence = kl_div(log_softmax(scores / recipe.temperature, 0), target, reduction="sum")
    return recipe.temperature * divergence + recipe.absolute * huber_loss(scores, teacher)


@torch.no_grad()
def evaluate(
    decoder: AdaptedDecoder, encoder: Encoder, lists: Sequence[CandidateList], weights: Sequence[float] = ()
) -> dict[str, dict[str, float]]:
    """nDCG@10, the query's own passage being the answer, of embedder, teacher, student and blends, by kind of query."""
    values: dict[str, dict[str, list[float]]] = {}
    for row in lists:
        packed = encoder.pack(row.instruction, row.query, row.documents)
        student = decoder.log_odds(packed, encoder.yes, encoder.no).numpy()
        first, second = standardised(row.cosine), standardised(student)
        orders = {"embedder": row.cosine, "teacher": row.teacher, "student": student}
        orders |= {f"blend {w}": w * first + (1 - w) * second for w in weights}
        for name, scores in orders.items():
            rank = int((scores > scores[0]).sum())
            of_name = values.setdefault(name, {})
            for kind in (row.kind, "all"):
                of_name.setdefault(kind, []).append(1 / math.log2(rank + 2) if rank < 10 else 0.0)
    return {
        name: {kind: round(float(np.mean(part)), 3) for kind, part in kinds.items()} for name, kinds in values.items()
    }


def _schedule(done: float, warm_up: float) -> float:
    if done < warm_up:
        return (done + 0.002) / (warm_up + 0.002)
    return 0.5 + 0.5 * math.cos(math.pi * (done - warm_up) / (1 - warm_up))


def _endlessly_shuffled(lists: Sequence[CandidateList], seed: int) -> Iterator[CandidateList]:
    rng = random.Random(seed)
    while True:
        yield from rng.sample(lists, len(lists))
