"""This package's native reranker under the peers' conditions: same job, same timing, tokenizing included."""

import logging
from collections.abc import Sequence

import torch
from common import parser, read_job, report, settings_of

from qwen3_rag import Reranker


def main() -> None:
    """Score the job's pairs and print seconds and log-odds."""
    arguments = parser(__doc__)
    arguments.add_argument("--dtype", default="auto")
    arguments.add_argument("--no-compile", action="store_true")
    arguments.add_argument("--tokens", type=int, default=2048, help="tokens of a batch")
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    logging.basicConfig(level=logging.INFO)
    options = {"compile": not given.no_compile, "token_budget": given.tokens}
    reranker = Reranker(str(given.model), dtype=given.dtype, runtime_options=options)
    reranker.loaded  # noqa: B018  (loads and compiles)
    query, documents, instruction = read_job(given.job)

    def run(documents: Sequence[str]) -> list[float]:
        return reranker.log_odds(query, documents, instruction).tolist()

    report(run, documents, given.warm_up, settings_of(given, **reranker.runs_on), "log_odds")


if __name__ == "__main__":
    main()
