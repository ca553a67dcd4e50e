"""Make the demo reranker.

    PYTHONPATH=data/models/demo-reranker python -m recipe --minutes 60 --out data/models/demo-reranker

Lists are made once, in a process of its own (reading the corpus fragments the heap, which halves the training speed on
a CPU), kept in `--lists`, and trained on. `LD_PRELOAD=libtcmalloc_minimal.so.4` helps too.
"""

import argparse
import logging
import multiprocessing
from collections.abc import Sequence
from pathlib import Path

import torch

from qwen3_rag.models.checkpoints.demo import read_smollm2, smollm2_file
from recipe.body import AdaptedDecoder
from recipe.making import read_lists, start_log, write_lists
from recipe.models import Encoder, tokenizer
from recipe.training import Recipe, evaluate, train

log = logging.getLogger("recipe")
WEIGHTS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the whole recipe."""
    parser = argparse.ArgumentParser(prog="recipe", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=Recipe.minutes)
    parser.add_argument("--lists", type=Path, default=Path("lists.jsonl"), help="made if the file does not exist")
    parser.add_argument("--out", type=Path, required=True, help="folder for the adapter")
    options = parser.parse_args(arguments)
    start_log()
    recipe = Recipe(minutes=options.minutes)
    if not options.lists.exists():
        maker = multiprocessing.get_context("spawn").Process(target=write_lists, args=(options.lists, recipe))
        maker.start()
        maker.join()
        if maker.exitcode:
            raise SystemExit(f"making lists failed with exit code {maker.exitcode}")
    lists, development = read_lists(options.lists)
    log.info("%d training lists, %d development lists", len(lists), len(development))
    torch.manual_seed(recipe.seed)
    encoder = Encoder(tokenizer(), recipe.document_tokens)
    decoder = AdaptedDecoder(*read_smollm2(smollm2_file()), recipe.rank, recipe.alpha)
    log.info("before, on 25 lists: %s", evaluate(decoder, encoder, development[:25]))
    for steps in train(decoder, encoder, lists, recipe, options.out):
        if steps == 100:
            log.info("after %d steps, on 50 lists: %s", steps, evaluate(decoder, encoder, development[:50]))
    log.info("after, on %d lists: %s", len(development), evaluate(decoder, encoder, development, WEIGHTS))


if __name__ == "__main__":
    main()
