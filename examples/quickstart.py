"""Ten lines from documents to reranked answers. Offline: demo models, no hub, no GPU."""

import logging
from tempfile import TemporaryDirectory

from qwen3_rag import Document, Pipeline

logging.disable(logging.INFO)

with TemporaryDirectory() as folder, Pipeline.create(f"{folder}/store", embedder="demo", reranker="demo") as pipeline:
    pipeline.add(
        [
            Document(
                "The Moon pulls the oceans into two bulges, so most coasts see high water twice a day.", title="Tides"
            ),
            Document(
                "A tidal power station drives its turbines with the water that the ebb leaves behind.", title="Power"
            ),
            Document("Hefe frisst Zucker und gibt Kohlendioxid ab; davon geht der Teig auf.", title="Brot"),
        ]
    )
    for hit in pipeline.search("Why does the sea rise twice a day?", top_k=2, blend=0.8):
        print(f"{hit.rank}. {hit.title}: {hit.text}")
    print(pipeline.search("Why does dough rise?", top_k=1, blend=0.8)[0].title)
