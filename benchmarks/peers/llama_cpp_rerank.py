"""Peer: llama.cpp by its wheel `xllamacpp`, whose server is called in process; the checkpoint is converted on the spot.

That wheel is built for AVX2: on a processor with AVX-512 or AMX a llama.cpp compiled there is faster.
"""

import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import xllamacpp
from common import parser, read_job, report, settings_of
from to_gguf import convert


def server(options: object, file: Path) -> xllamacpp.Server:
    """The server with the model loaded; a document must fit into a physical batch."""
    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.embedding = True
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    params.n_parallel, params.n_batch, params.n_ubatch = options.batch_size, options.tokens, options.tokens
    params.n_ctx = options.tokens * options.batch_size
    params.warmup, params.verbosity = False, 0
    flash = xllamacpp.llama_flash_attn_type
    params.flash_attn_type = (
        flash.LLAMA_FLASH_ATTN_TYPE_DISABLED if options.no_flash else flash.LLAMA_FLASH_ATTN_TYPE_ENABLED
    )
    return xllamacpp.Server(params)


def main() -> None:
    """Score the job's pairs and print seconds and log-odds."""
    arguments = parser(__doc__)
    arguments.add_argument("--weights", default="q8_0", help="type of the matrices: q8_0, q4_0, f16, bf16, f32")
    arguments.add_argument("--tokens", type=int, default=2048, help="tokens of a batch")
    arguments.add_argument("--no-flash", action="store_true", help="without its fused attention")
    options = arguments.parse_args()
    query, documents, instruction = read_job(options.job)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.gguf"
        convert(options.model, file, options.weights, instruction)
        loaded = server(options, file)

        def run(documents: Sequence[str]) -> list[float]:
            answer = loaded.handle_rerank({"query": query, "documents": list(documents), "top_n": len(documents)})
            response = answer if isinstance(answer, dict) else json.loads(answer)
            scores = {result["index"]: result["relevance_score"] for result in response["results"]}
            # The server gives probabilities in float32: near 0 and 1 their log-odds are coarse.
            return [math.log(max(p, 1e-38)) - math.log(max(1 - p, 1e-8)) for _, p in sorted(scores.items())]

        settings = settings_of(options, xllamacpp=xllamacpp.__version__, commit=xllamacpp.BUILD_INFO["commit"])
        report(run, documents, options.warm_up, settings, "log_odds")


if __name__ == "__main__":
    main()
