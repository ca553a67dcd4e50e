"""Ask in one language, find the answer in another. Offline, with the demo embedder.

python examples/multilingual.py
"""

import tempfile
from pathlib import Path

from qwen3_rag import Document, Pipeline

DOCUMENTS = [
    Document("Die Bibliothek schließt um acht Uhr.", "de"),
    Document("图书馆的借书期限是三个星期。", "zh"),
    Document("La sopa se sirve fría en verano.", "es"),
    Document("Les vélos se garent derrière la mairie.", "fr"),
]
QUESTIONS = {
    "When does the library close?": "de",
    "How long may I keep a borrowed book?": "zh",
    "¿Dónde dejo la bicicleta?": "fr",
    "Welche Suppe isst man im Sommer?": "es",
}


def main() -> None:
    """Index four languages, and ask in others."""
    with (
        tempfile.TemporaryDirectory() as folder,
        # With the Qwen3 models: embedder="0.6b", reranker="0.6b". The demo's cross-encoder reads English only.
        Pipeline.create(Path(folder) / "store", embedder="demo", reranker=None) as pipeline,
    ):
        pipeline.add(DOCUMENTS)
        for question in QUESTIONS:
            hit = pipeline.search(question, top_k=1)[0]
            print(f"{question}\n  {hit.document_id}: {hit.text}")


if __name__ == "__main__":
    main()
