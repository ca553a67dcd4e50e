"""The index at size: loading, opening, search, filters, words, beside FAISS alone, LanceDB and Chroma.

    python benchmarks/index.py --passages 1000000           # about an hour on two cores, 10 GB of disk
    python benchmarks/index.py --passages 50000 --parts load,exact,filters

Vectors: real texts of the collections, embedded by the demo embedder, turned into 1,024 dimensions by a fixed rotation,
each repeated with noise until there are enough, so that they lie in groups as those of real collections do. Texts:
random sentences of the same collections for each passage. Queries: the collections' own, embedded the same way.
Results: benchmarks/results/index-<passages>.json, written after each part.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from embedded import embedded
from numpy.typing import NDArray

from qwen3_rag.index.exact import scan

HERE = Path(__file__).parent
DIMENSIONS = 1024
NOISE = 0.35  # length of what is added to a unit vector
BATCH = 10_000
PARTS = ("load", "open", "exact", "filters", "words", "add", "approximate", "hybrid", "peers", "words_peers")
COLLECTIONS = ("cranfield", "cosqa", "xquad-en", "limit-small")


class Data:
    """Vectors, texts and queries, built from a seed, so that every run and every peer has the same."""

    def __init__(self, collections: Path, kept: Path) -> None:
        held = [embedded(collections / name, kept, 150) for name in COLLECTIONS if (collections / name).is_dir()]
        if not held:
            sys.exit(f"{collections} holds none of {', '.join(COLLECTIONS)}, from which vectors and texts are built")
        self.texts = [text for one in held for text in one.texts if text.strip()]
        turn = np.linalg.qr(np.random.default_rng(0).normal(size=(DIMENSIONS, held[0].vectors.shape[1])))[0]
        base, queries = (
            np.concatenate(parts) for parts in zip(*((c.vectors, c.query_vectors) for c in held), strict=True)
        )
        self.base, self.queries = (base @ turn.T).astype(np.float32), (queries @ turn.T).astype(np.float32)
        self.queries = np.random.default_rng(3).permutation(self.queries)
        self.sentences = [s for text in self.texts for s in text.replace("\n", " ").split(". ") if 20 < len(s) < 400]

    def vectors(self, start: int, count: int) -> NDArray[np.float32]:
        """Unit vectors of passages from a number on."""
        generator = np.random.default_rng(start + 1)
        noise = generator.normal(size=(count, DIMENSIONS)).astype(np.float32) * (NOISE / DIMENSIONS**0.5)
        rows = self.base[(np.arange(start, start + count) * 7919) % len(self.base)] + noise
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def passages(self, start: int, count: int) -> list[str]:
        """Texts of passages from a number on."""
        generator = np.random.default_rng(start + 2)
        drawn = generator.integers(0, len(self.sentences), (count, 4))
        return [". ".join(self.sentences[i] for i in row) for row in drawn]


def say(line: str) -> None:
    """Show progress at once."""
    print(line, flush=True)


def milliseconds(call: Callable[[int], object], times: int) -> dict[str, float]:
    """Median and 95th percentile of a call, after each ran once: pages are in memory, digests compared."""
    for i in range(times):
        call(i)
    taken = []
    for i in range(times):
        began = time.perf_counter()
        call(i)
        taken.append(1000 * (time.perf_counter() - began))
    return {"p50 ms": round(float(np.median(taken)), 2), "p95 ms": round(float(np.percentile(taken, 95)), 2)}


def anonymous() -> int:
    """Bytes of memory that are this process's own (Linux)."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def size_of(folder: Path, *patterns: str) -> int:
    """Bytes of files in a folder."""
    return sum(f.stat().st_size for pattern in patterns for f in folder.glob(pattern))


class Bench:
    """A store of so many passages and what was measured on it."""

    def __init__(self, data: Data, count: int, folder: Path, out: Path, peers: str) -> None:
        self.peers = peers.split(",")
        self.data, self.count, self.folder, self.out = data, count, folder, out
        self.store_folder = folder / f"store-{count}"
        self.results: dict[str, Any] = json.loads(out.read_text()) if out.is_file() else {}

    def keep(self, part: str, figures: dict[str, Any]) -> None:
        """Write a part's results at once."""
        say(f"{part}: {json.dumps(figures)}")
        self.results[part] = figures
        self.out.parent.mkdir(exist_ok=True)
        self.out.write_text(json.dumps(self.results, indent=1) + "\n")

    def retriever(self) -> Any:
        """The store, opened."""
        from qwen3_rag.index.retriever import Retriever
        from qwen3_rag.index.store import Store

        return Retriever(Store.open(self.store_folder))

    def batches(self) -> Iterator[tuple[int, NDArray[np.float32], list[str]]]:
        """Everything, a batch at a time."""
        for start in range(0, self.count, BATCH):
            size = min(BATCH, self.count - start)
            yield start, self.data.vectors(start, size), self.data.passages(start, size)

    def part_load(self) -> None:
        """Passages written a second with ready vectors, then what the derived indexes take."""
        from qwen3_rag import Document
        from qwen3_rag.index.store import Store
        from qwen3_rag.index.upkeep import Upkeep
        from qwen3_rag.ingest.indexer import add_with_vectors

        shutil.rmtree(self.store_folder, ignore_errors=True)
        store = Store.create(self.store_folder, {}, dimensions=DIMENSIONS)
        upkeep = Upkeep(store)
        # Made beforehand: what is renewed in the background must not have the time that making the data takes.
        batches = [(start, vectors.astype(np.float16), texts) for start, vectors, texts in self.batches()]
        text = sum(len(t.encode()) for _, _, texts in batches for t in texts)
        before, most, done = anonymous(), [0], threading.Event()

        def watch() -> None:
            while not done.wait(0.1):
                most[0] = max(most[0], anonymous())

        threading.Thread(target=watch, daemon=True).start()
        began = time.perf_counter()
        for start, vectors, texts in batches:
            documents = [
                Document(text, f"d{start + i}", metadata={"n": (start + i) % 100, "half": (start + i) % 2 == 0})
                for i, text in enumerate(texts)
            ]
            add_with_vectors(store, documents, vectors)
            upkeep.after_write()
        written = time.perf_counter() - began
        upkeep.close()
        all_done = time.perf_counter() - began
        done.set()
        raw, total = self.count * DIMENSIONS * 2, size_of(self.store_folder, "*")
        self.keep("load", {
            "passages a second": round(self.count / written),
            "passages a second, until all words are in segments": round(self.count / all_done),
            "memory MB": round((most[0] - before) / 1e6),
            "times the raw vectors, text apart": round((total - text) / raw, 3),
            "words bytes": size_of(self.store_folder, "words-*"), "sqlite bytes": size_of(self.store_folder, "store*"),
            "text bytes": text,
        })  # fmt: skip
        store.close()

    def part_open(self) -> None:
        """From opening in a new process to the first answer, and the memory of its own that the process has then."""
        code = (
            "import sys, time, json\nbegan = time.perf_counter()\nimport numpy as np\nfrom pathlib import Path\n"
            "from qwen3_rag.index.retriever import Retriever\nfrom qwen3_rag.index.store import Store\n"
            "imported = time.perf_counter()\n"
            "r = Retriever(Store.open(Path(sys.argv[1])))\nq = np.ones(1024, dtype='f4') / 32\n"
            "r.search('flow of heat', q, 100, 'hybrid', None)\n"
            "own = sum(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('RssAnon'))\n"
            "print(json.dumps({'import s': imported - began, 'open to answer s': time.perf_counter() - imported, "
            "'own MB': own / 1024}))"
        )
        runs = []
        for _ in range(2):
            done = subprocess.run([sys.executable, "-c", code, str(self.store_folder)], capture_output=True, check=True)
            runs.append(json.loads(done.stdout))
        self.keep("open", {key: round(value, 3) for key, value in runs[-1].items()})

    def _dense(self, retriever: Any, **options: Any) -> dict[str, float]:
        queries = self.data.queries

        def one(i: int) -> object:
            with retriever.store.snapshot() as commit:
                view = retriever.view()
                allowed = view.live
                if "filter" in options:
                    allowed = retriever.store.fields.allowed(options["filter"], commit)
                return view.dense.search(queries[i % len(queries)][None], 100, allowed)

        return milliseconds(one, options.get("times", 40))

    def part_exact(self) -> None:
        """Exact search beside FAISS' own flat float16 index over the same rows."""
        from qwen3_rag.index.exact import faiss

        retriever = self.retriever()
        figures = self._dense(retriever)
        module = faiss()
        index = module.IndexScalarQuantizer(DIMENSIONS, module.ScalarQuantizer.QT_fp16, module.METRIC_INNER_PRODUCT)
        for start, vectors, _ in self.batches():
            index.add(vectors)
            del start
        alone = milliseconds(lambda i: index.search(self.data.queries[i % 100][None], 100), 40)
        self.keep("exact", {
            "p50 ms": figures["p50 ms"], "FAISS alone p50 ms": alone["p50 ms"],
            "times FAISS": round(figures["p50 ms"] / alone["p50 ms"], 2),
        })  # fmt: skip

    def part_filters(self) -> None:
        """Filters that allow one in a hundred and one in two, first time and when kept."""
        retriever = self.retriever()
        plain = self._dense(retriever)["p50 ms"]
        figures: dict[str, Any] = {"unfiltered p50 ms": plain}
        for name, filter in (("1 %", {"n": 17}), ("50 %", {"half": True})):
            began = time.perf_counter()
            retriever.store.allowed(filter)
            figures[f"{name} first time ms"] = round(1000 * (time.perf_counter() - began), 1)
            figures[f"{name} p50 ms"] = self._dense(retriever, filter=filter)["p50 ms"]
        self.keep("filters", figures)

    def _searched(self, mode: str) -> dict[str, float]:
        retriever, words = self.retriever(), self._eight_words()
        view = retriever.view()
        retriever.search(words[0], self.data.queries[0], 100, "lexical", None)
        if mode == "lexical":
            return milliseconds(lambda i: view.text.search(words[i % 50], 100, view.live), 50)
        return milliseconds(lambda i: retriever.search(words[i % 50], self.data.queries[i % 100], 100, mode, None), 40)

    def _eight_words(self) -> list[str]:
        generator = np.random.default_rng(5)
        common = ["the", "of", "and", "in", "is"]
        rare = [w for s in self.data.sentences[:3000] for w in s.split() if w.isalpha() and len(w) > 5]
        return [" ".join([*generator.choice(common, 3), *generator.choice(rare, 5)]) for _ in range(50)]

    def part_words(self) -> None:
        """Eight words, three of them common."""
        self.keep("words", self._searched("lexical"))

    def part_words_peers(self) -> None:
        """The same words in tantivy and bm25s, where installed, at their defaults: making the index, and searching."""
        texts = [t for start in range(0, self.count, BATCH) for t in self.data.passages(start, BATCH)][: self.count]
        figures: dict[str, Any] = {}
        for name, run in (("tantivy", self._tantivy), ("bm25s", self._bm25s)):
            try:
                began = time.perf_counter()
                find = run(texts)
            except ImportError:
                figures[name] = "not installed"
                continue
            words = self._eight_words()
            figures[name] = {"index made in s": round(time.perf_counter() - began, 1)}
            figures[name] |= milliseconds(lambda i, find=find, words=words: find(words[i % 50]), 50)  # type: ignore[misc]
        self.keep("words of peers", figures)

    def _tantivy(self, texts: list[str]) -> Callable[[str], object]:
        import tantivy

        folder = self.folder / "tantivy"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        builder = tantivy.SchemaBuilder()
        builder.add_unsigned_field("number", stored=True)
        builder.add_text_field("body", index_option="freq")
        index = tantivy.Index(builder.build(), path=str(folder))
        writer = index.writer(heap_size=256 << 20)
        for i, text in enumerate(texts):
            writer.add_document(tantivy.Document(number=i, body=text))
        writer.commit()
        writer.wait_merging_threads()
        index.reload()
        searcher = index.searcher()

        def find(words: str) -> object:
            hits = searcher.search(index.parse_query(words, ["body"]), 100).hits
            return [searcher.doc(address)["number"] for _, address in hits]

        return find

    def _bm25s(self, texts: list[str]) -> Callable[[str], object]:
        import bm25s

        index = bm25s.BM25()
        index.index(bm25s.tokenize(texts, stopwords=None, show_progress=False), show_progress=False)

        def find(words: str) -> object:
            tokens = bm25s.tokenize(words, stopwords=None, show_progress=False)
            return index.retrieve(tokens, k=100, show_progress=False)

        return find

    def part_hybrid(self) -> None:
        """Both halves side by side, beside each alone, passages and texts included."""
        self.keep("hybrid", {mode: self._searched(mode)["p50 ms"] for mode in ("dense", "lexical", "hybrid")} | {
            "lexical, texts included": self._searched("lexical")["p50 ms"]
        })  # fmt: skip

    def part_add(self) -> None:
        """Ten passages: until `write` returns, and until another process finds one."""
        from qwen3_rag import Document
        from qwen3_rag.ingest.indexer import add_with_vectors

        writer, reader = self.retriever(), self.retriever()
        reader.view()
        written, seen = [], []
        for i in range(20):
            rows = self.data.vectors(10_000_000 + 10 * i, 10)
            began = time.perf_counter()
            add_with_vectors(writer.store, [Document(f"new {i} {j}", f"new-{i}-{j}") for j in range(10)], rows)
            written.append(1000 * (time.perf_counter() - began))
            began = time.perf_counter()
            reader.view()
            seen.append(1000 * (time.perf_counter() - began))
        self.keep("add", {
            "ten passages p50 ms": round(float(np.median(written)), 2),
            "another object brought forward p50 ms": round(float(np.median(seen)), 2),
        })  # fmt: skip

    def part_approximate(self) -> None:
        """The approximate index: time to make it, recall on the collections' own queries, speed."""
        from qwen3_rag.index.upkeep import Upkeep

        retriever, exact = self.retriever(), self._exactly()
        began = time.perf_counter()
        Upkeep(retriever.store).optimize("ivf", 0.99, None)
        seconds = time.perf_counter() - began
        retriever = self.retriever()
        with retriever.store.snapshot():
            view = retriever.view()
            figures = [set(view.dense.search(q[None], 100, view.live)[0][0].tolist()) for q in self.data.queries[:100]]
        recall = float(np.mean([len(a & b) / len(a) for a, b in zip(exact, figures, strict=True)]))
        indexes = size_of(self.store_folder, "*") - self.results["load"]["text bytes"]
        self.keep("approximate", {
            **self._dense(retriever, times=200), "recall@100 on real queries": round(recall, 4),
            "described": retriever.describe(), "made in s": round(seconds, 1),
            "bytes": size_of(self.store_folder, "dense-*"),
            "times the raw vectors, all files, text apart": round(indexes / (self.count * DIMENSIONS * 2), 3),
        })  # fmt: skip

    def _exactly(self, filter: dict[str, Any] | None = None) -> list[set[int]]:
        """The exact hundred nearest of the first hundred queries, by our exact search, as passages' numbers."""
        retriever = self.retriever()
        with retriever.store.snapshot() as commit:
            allowed = filter and retriever.store.fields.allowed(filter, commit)
            vectors = retriever.view().dense.rows.values
            results = scan(vectors, 0, self.count, self.data.queries[:100], 100, allowed)
            return [set(numbers.tolist()) for numbers, _ in results]

    def _of_peer(
        self,
        load: Callable[[int, NDArray[np.float32], list[str]], object],
        find: Callable[[NDArray[np.float32], bool], list[int]],
        build: Callable[[], object] | None = None,
    ) -> dict[str, Any]:
        """Loading, ten passages more, search and its recall, search under a filter, of one peer."""
        seconds, queries = 0.0, self.data.queries
        for start, vectors, texts in self.batches():
            began = time.perf_counter()
            load(start, vectors, texts)
            seconds += time.perf_counter() - began
        figures: dict[str, Any] = {"passages a second": round(self.count / seconds)}
        if build is not None:
            began = time.perf_counter()
            build()
            figures["index made in s"] = round(time.perf_counter() - began, 1)
        figures |= milliseconds(lambda i: find(queries[i % 100], False), 20)
        for name, condition in (("", None), (", 1 % allowed", {"n": 17})):
            truth = self._exactly(condition)
            got = [set(find(q, condition is not None)) for q in queries[:100]]
            shares = [len(a & b) / len(a) for a, b in zip(truth, got, strict=True)]
            figures[f"recall@100{name}"] = round(float(np.mean(shares)), 4)
        figures["1 % allowed p50 ms"] = milliseconds(lambda i: find(queries[i % 100], True), 20)["p50 ms"]
        taken = []
        for i in range(5):
            start = self.count + 10 * i
            rows, texts = self.data.vectors(start, 10), self.data.passages(start, 10)
            began = time.perf_counter()
            load(start, rows, texts)
            taken.append(1000 * (time.perf_counter() - began))
        return figures | {"ten passages p50 ms": round(float(np.median(taken)), 1)}

    def part_peers(self) -> None:
        """LanceDB and Chroma, where installed, on the same vectors, texts, metadata and queries."""
        figures: dict[str, Any] = dict(self.results.get("peers", {}))
        for name, run in (("lancedb", self._lancedb), ("chromadb", self._chroma)):
            if name not in self.peers:
                continue
            try:
                figures |= run()
            except ImportError:
                figures[name] = "not installed"
            self.keep("peers", figures)

    def _lancedb(self) -> dict[str, Any]:
        import lancedb
        import pyarrow as pa

        folder = self.folder / "lance"
        shutil.rmtree(folder, ignore_errors=True)
        vector = pa.list_(pa.float16(), DIMENSIONS)
        schema = pa.schema([("id", pa.int64()), ("vector", vector), ("text", pa.string()), ("n", pa.int64())])
        table = lancedb.connect(str(folder)).create_table("t", schema=schema)

        def load(start: int, vectors: NDArray[np.float32], texts: list[str]) -> None:
            rows = pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(np.float16).reshape(-1)), DIMENSIONS)
            ids = np.arange(start, start + len(texts))
            columns = [pa.array(ids), rows, pa.array(texts), pa.array(ids % 100)]
            table.add(pa.Table.from_arrays(columns, schema=schema))

        def find(query: NDArray[np.float32], filtered: bool) -> list[int]:
            search = table.search(query.astype(np.float16)).distance_type("dot").limit(100).select(["id", "_distance"])
            if filtered:
                search = search.where("n = 17", prefilter=True)
            names: list[int] = search.to_arrow()["id"].to_pylist()
            return names

        version = lancedb.__version__
        flat = self._of_peer(load, find)

        def build() -> None:
            table.create_index(metric="dot", vector_column_name="vector", index_type="IVF_HNSW_SQ")

        shutil.rmtree(folder)
        table = lancedb.connect(str(folder)).create_table("t", schema=schema)
        indexed = self._of_peer(load, find, build)
        return {f"LanceDB {version}, exact": flat, f"LanceDB {version}, IVF_HNSW_SQ": indexed}

    def _chroma(self) -> dict[str, Any]:
        import chromadb

        folder = self.folder / "chroma"
        shutil.rmtree(folder, ignore_errors=True)
        client = chromadb.PersistentClient(str(folder), chromadb.Settings(anonymized_telemetry=False))
        collection = client.create_collection("passages", metadata={"hnsw:space": "ip"}, embedding_function=None)
        most = 5000

        def load(start: int, vectors: NDArray[np.float32], texts: list[str]) -> None:
            for at in range(0, len(texts), most):
                part = range(at, min(at + most, len(texts)))
                collection.add(
                    ids=[str(start + i) for i in part], embeddings=vectors[part.start : part.stop],
                    documents=texts[part.start : part.stop], metadatas=[{"n": (start + i) % 100} for i in part],
                )  # fmt: skip

        def find(query: NDArray[np.float32], filtered: bool) -> list[int]:
            where = {"n": 17} if filtered else None
            figures = collection.query(query_embeddings=[query], n_results=100, where=where, include=[])
            return [int(name) for name in figures["ids"][0]]

        return {f"Chroma {chromadb.__version__}, HNSW": self._of_peer(load, find)}


def main() -> None:
    """Run the selected parts."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--passages", type=int, default=1_000_000)
    arguments.add_argument("--parts", default=",".join(PARTS))
    arguments.add_argument("--folder", type=Path, default=Path(".benchmarks"), help="where stores are created")
    arguments.add_argument("--collections", type=Path, default=HERE.parent.parent / "shared/collections")
    arguments.add_argument("--peers", default="lancedb,chromadb", help="Chroma takes hours for a million passages")
    options = arguments.parse_args()
    options.folder.mkdir(exist_ok=True)
    data = Data(options.collections, options.folder)
    bench = Bench(
        data, options.passages, options.folder, HERE / f"results/index-{options.passages}.json", options.peers
    )
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    bench.keep("machine", {"cpu": cpu, "cores": os.cpu_count(), "passages": options.passages, "dimensions": DIMENSIONS})
    for part in filter(None, options.parts.split(",")):
        getattr(bench, f"part_{part}")()


if __name__ == "__main__":
    main()
