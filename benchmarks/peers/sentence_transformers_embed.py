"""Peer: `SentenceTransformer.encode`, which sorts by length itself: last-token pooling, unit vectors.

Prints the first value of each vector; `--vectors FILE` saves all of them for comparing.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import sentence_transformers
import torch
from common import parser, read_job, report, settings_of

END = "<|endoftext|>"


def main() -> None:
    """Embed the job's documents and print seconds."""
    arguments = parser(__doc__)
    arguments.add_argument("--dtype", default="bfloat16")
    arguments.add_argument("--attention", default="sdpa", help="sdpa or eager")
    arguments.add_argument("--compile", action="store_true", help="the library's own SentenceTransformer.compile")
    arguments.add_argument("--vectors", type=Path, help="save the vectors here (.npy)")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    model = sentence_transformers.SentenceTransformer(
        str(options.model),
        device="cpu",
        model_kwargs={"dtype": getattr(torch, options.dtype), "attn_implementation": options.attention},
    )
    model.max_seq_length = 8192
    if options.compile:
        model.compile(dynamic=True)
    rows = []

    def run(documents: Sequence[str]) -> list[float]:
        texts = [document + END for document in documents]
        scores = model.encode(texts, batch_size=options.batch_size, normalize_embeddings=True, show_progress_bar=False)
        rows[:] = [np.asarray(scores, dtype=np.float32)]
        return [float(row[0]) for row in rows[0]]

    settings = settings_of(options, sentence_transformers=sentence_transformers.__version__)
    settings.pop("vectors")
    report(run, read_job(options.job)[1], options.warm_up, settings, "first_values")
    if options.vectors:
        np.save(options.vectors, rows[0])


if __name__ == "__main__":
    main()
