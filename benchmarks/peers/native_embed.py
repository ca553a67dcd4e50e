"""This package's native embedder under the peers' conditions."""

import logging
from collections.abc import Sequence

import torch
from common import parser, read_job, report, settings_of

from qwen3_rag import Embedder


def main() -> None:
    """Embed the job's documents and print seconds and the first value of each vector."""
    arguments = parser(__doc__)
    arguments.add_argument("--dtype", default="auto")
    arguments.add_argument("--no-compile", action="store_true")
    arguments.add_argument("--tokens", type=int, default=2048, help="tokens of a batch")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    logging.basicConfig(level=logging.INFO)
    runtime_options = {"compile": not options.no_compile, "token_budget": options.tokens}
    embedder = Embedder(str(options.model), dtype=options.dtype, runtime_options=runtime_options)
    embedder.loaded  # noqa: B018  (loads and compiles)

    def run(documents: Sequence[str]) -> list[float]:
        return embedder.encode_document(list(documents))[:, 0].tolist()

    report(run, read_job(options.job)[1], options.warm_up, settings_of(options, **embedder.runs_on), "first_values")


if __name__ == "__main__":
    main()
