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
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    logging.basicConfig(level=logging.INFO)
    runtime_options = {"compile": not options.no_compile, "token_budget": options.tokens}
    reranker = Reranker(str(options.model), dtype=options.dtype, runtime_options=runtime_options)
    reranker.loaded  # noqa: B018  (loads and compiles)
    query, documents, instruction = read_job(options.job)

    def run(documents: Sequence[str]) -> list[float]:
        return reranker.log_odds(query, documents, instruction).tolist()

    report(run, documents, options.warm_up, settings_of(options, **reranker.runs_on), "log_odds")


if __name__ == "__main__":
    main()
