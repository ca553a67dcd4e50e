"""Makes the lists and keeps them in a file."""

import json
import logging
import random
from pathlib import Path

import numpy as np

from recipe.corpus import gather
from recipe.lists import CandidateList, make_lists
from recipe.models import asker, embedder, teacher
from recipe.training import Recipe

__all__ = ["read_lists", "start_log", "write_lists"]

log = logging.getLogger("recipe")


def write_lists(path: Path, recipe: Recipe) -> None:
    """Gather the corpus, make the lists and write them as two lines of JSON: training and development."""
    start_log()
    sources = gather(recipe.seed, recipe.scale)
    log.info("passages: %s", {name: len(group) for name, group in sources.items()})
    passages = [passage for group in sources.values() for passage in group]
    random.Random(recipe.seed).shuffle(passages)
    both = make_lists(
        passages, embedder(), teacher(), asker(recipe.seed), recipe.lists, recipe.development, recipe.seed
    )
    draft = path.with_suffix(".part")
    with draft.open("w") as file:
        for lists in both:
            rows = [vars(row) | {"teacher": row.teacher.tolist(), "cosine": row.cosine.tolist()} for row in lists]
            file.write(json.dumps(rows) + "\n")
    draft.rename(path)


def read_lists(path: Path) -> list[list[CandidateList]]:
    """Training and development lists of `write_lists`."""
    return [
        [
            CandidateList(
                row["kind"],
                row["instruction"],
                row["query"],
                tuple(row["documents"]),
                np.array(row["teacher"], np.float32),
                np.array(row["cosine"], np.float32),
            )
            for row in json.loads(line)
        ]
        for line in path.read_text().splitlines()
    ]


def start_log() -> None:
    """Log lines with the time; every process has to."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
