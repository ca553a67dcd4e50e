"""The store's own interface over HTTP."""

import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from urllib.parse import quote

import pytest

from qwen3_rag import Document, Embedder, Pipeline, Reranker
from qwen3_rag.errors import EmbedderMismatchError
from qwen3_rag.server.bodies import Instructed, SearchBody
from served import Served, served, wait_for


def test_search_gives_the_hits_of_the_pipeline(store: Pipeline) -> None:
    with served(pipeline=store) as running:
        for arguments in (
            {},
            {"top_k": 1, "mode": "hybrid"},
            {"filter": {"year": {"$gte": 2000}}, "rerank": False},
            {"mode": "lexical", "instruction": "legal", "blend": 0.5, "candidates": 20, "neighbours": 1},
            {"group_by_document": True, "distinct": True, "candidates": "auto", "min_score": 0.0},
        ):
            reply = running.post("/search", {"query": "tides", **arguments})
            hits = store.search("tides", **arguments)  # type: ignore[arg-type]
            assert [hit["id"] for hit in reply["hits"]] == [hit.id for hit in hits]
            for got, hit in zip(reply["hits"], hits, strict=True):
                assert got["log_odds"] == pytest.approx(hit.log_odds)
                assert (got["text"], got["citation"], got["metadata"]) == (hit.text, hit.cite(), dict(hit.metadata))
            if "instruction" in arguments:
                other = {"instruct" if name == "instruction" else name: value for name, value in arguments.items()}
                assert running.post("/search", {"query": "tides", **other})["hits"] == reply["hits"]
            assert reply.keys() == {"hits", "timings", "degraded", "truncated", "reread", "answered", "uncalibrated"}


def test_search_takes_every_argument_of_the_pipeline() -> None:
    import inspect

    arguments = set(inspect.signature(Pipeline.search).parameters) - {"self", "cancel"}
    assert arguments == (set(SearchBody.model_fields) - set(Instructed.model_fields)) | {"deadline", "instruction"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"query": ""}, "non-empty"),
        ({"query": "a", "top_k": 0}, "top_k is 0"),
        ({"query": "a", "topk": 3}, "did you mean 'top_k'?"),
        ({"query": "a", "mode": "fuzzy"}, "mode is 'fuzzy'"),
        ({"query": "a", "filter": {"year": {"$near": 3}}}, "$near"),
        ({"query": "a", "filter": "year"}, "filter is 'year'"),
        ({"query": "a", "top_k": 5, "candidates": 2}, "candidates"),
        ({"query": "a", "blend": 2.0}, "blend"),
    ],
)
def test_wrong_arguments_of_search_are_named(store: Pipeline, body: dict[str, object], message: str) -> None:
    with served(pipeline=store) as running:
        assert message in running.refused("/search", body, 422)


def test_a_search_past_its_deadline_says_so(store: Pipeline) -> None:
    with served(pipeline=store) as running:
        response = running.http.post("/search", json={"query": "tides", "deadline": 0})
        assert response.status_code == 200
        assert response.json()["degraded"] == response.headers["X-Degraded"]
        assert len(response.json()["hits"]) == 3


def test_documents_are_read_whole_and_in_part(store: Pipeline) -> None:
    with served(pipeline=store) as running:
        whole = running.http.get("/documents/kitchen/bread").json()
        assert whole == asdict(store.get(["kitchen/bread"])[0]) | {"metadata": {}}
        for query, text in (
            ("line=2&lines=1", "It is baked."),
            ("start=0&end=5", "Bread"),
            ("start=6", store.get(["kitchen/bread"])[0].text[6:]),  # type: ignore[union-attr]
        ):
            assert running.http.get(f"/documents/kitchen/bread?{query}").json()["text"].strip() == text
        assert running.http.get("/documents/kitchen%2Fbread").json()["id"] == "kitchen/bread"
        assert running.http.get("/documents/nothing").status_code == 404
        assert running.http.get("/documents/kitchen/bread?page=2").status_code == 422
        assert running.http.get("/documents/kitchen/bread?line=two").status_code == 422
        assert running.http.get("/documents/kitchen/bread?line=1&start=2").status_code == 422
        listed = running.http.get("/documents?limit=2").json()
        assert [each["id"] for each in listed["documents"]] == ["kitchen/bread", "physics/gravity"]
        assert listed["more"]
        assert len(running.http.get("/documents?prefix=sea/").json()["documents"]) == 1
        assert running.http.get("/documents?limit=0").status_code == 422


def test_info_describes_the_store_without_its_path(store: Pipeline) -> None:
    with served(pipeline=store) as running:
        response = running.http.get("/info")
        assert response.json()["store"]["documents"] == 3
        assert str(store.store.folder.parent) not in response.text


def test_a_store_is_read_only_unless_writes_are_allowed(store: Pipeline) -> None:
    with served(pipeline=store) as running:
        for method, path, body in (
            ("POST", "/documents", {"documents": [{"text": "new"}]}),
            ("POST", "/documents/delete", {"ids": ["sea/tides"]}),
            ("DELETE", "/documents/sea/tides", None),
        ):
            response = running.http.request(method, path, json=body)
            assert response.status_code == 403, response.text
            assert "--allow-writes" in response.json()["message"]
    assert len(store) == 3


def test_documents_are_added_replaced_and_deleted(store: Pipeline) -> None:
    with served(pipeline=store, allow_writes=True) as running:
        new = {"text": "Ebb follows flood.", "id": "sea/ebb", "title": "Ebb", "metadata": {"year": 2021}}
        reply = running.post("/documents", {"documents": [new, {"text": "by its hash"}]})
        assert reply["ids"][0] == "sea/ebb"
        assert reply["report"]["documents"] == 2
        assert running.post("/search", {"query": "ebb", "mode": "lexical", "filter": {"year": 2021}})["hits"]
        assert store.get(["sea/ebb"])[0] == Document(**new)
        running.post("/documents", {"documents": [new | {"text": "Flood follows ebb."}]})
        assert len(store) == 5
        assert running.post("/documents/delete", {"ids": [reply["ids"][1], "unknown"]}) == {"deleted": 1}
        assert running.http.delete("/documents/sea/ebb").json() == {"deleted": 1}
        assert running.http.delete("/documents/sea/ebb").status_code == 404
        for wrong in ({"documents": []}, {"documents": [{"id": "x"}]}, {"documents": [{"text": 3}]}, {"ids": ["x"]},
                      {"documents": [{"text": "a", "titel": "b"}]}):  # fmt: skip
            running.refused("/documents", wrong, 422)
        assert len(store) == 3


def test_two_servers_that_write_one_store_wait_for_each_other(store: Pipeline) -> None:
    with (
        Pipeline.open(store.store.folder) as other,
        served(pipeline=store, allow_writes=True) as one,
        served(pipeline=other, allow_writes=True) as two,
    ):
        failures: list[str] = []

        def write(running: Served, name: str) -> None:
            for number in range(5):
                response = running.http.post(
                    "/documents", json={"documents": [{"text": f"{name} {number}", "id": f"{name}{number}"}]}
                )
                if response.status_code != 200:
                    failures.append(response.text)

        threads = [threading.Thread(target=write, args=each) for each in ((one, "a"), (two, "b"))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert len(one.http.get("/documents?prefix=a").json()["documents"]) == 5
        assert len(two.http.get("/documents?limit=100").json()["documents"]) == 13


def test_what_another_process_writes_is_found(store: Pipeline) -> None:
    code = (
        "import sys; from qwen3_rag import Document, Pipeline\n"
        "with Pipeline.open(sys.argv[1]) as store: store.add([Document('Flotsam drifts.', 'sea/flotsam')])"
    )
    with served(pipeline=store) as running:
        subprocess.run([sys.executable, "-c", code, str(store.store.folder)], check=True)
        assert running.post("/search", {"query": "flotsam", "mode": "lexical"})["hits"][0]["id"] == "sea/flotsam#0"


def test_a_store_that_moves_away_is_503_and_the_server_lives(store: Pipeline) -> None:
    folder = store.store.folder
    with served(pipeline=store) as running:
        away = folder.with_name("elsewhere")
        folder.rename(away)
        assert running.http.post("/search", json={"query": "tides"}).status_code == 503
        assert running.http.get("/ready").status_code == 503
        assert running.http.get("/health").status_code == 200
        away.rename(folder)
        wait_for(lambda: running.http.get("/ready").status_code == 200)
        assert running.post("/search", {"query": "tides"})["hits"]


def test_a_store_of_another_embedder_is_refused(store: Pipeline, tiny_reranker: Path) -> None:
    with pytest.raises(EmbedderMismatchError):
        Pipeline.open(store.store.folder, Embedder(str(tiny_reranker), dtype="float32"))


def test_models_of_a_store_are_served_too(store: Pipeline, embedder: Embedder, reranker: Reranker) -> None:
    with served(pipeline=store) as running:
        names = [row["id"] for row in running.http.get("/v1/models").json()["data"]]
        first, second = Path(reranker.model).name, Path(embedder.model).name
        assert names == [first, second, second + ":query"]
        row = running.post("/embed", {"inputs": "tides"})[0]
        assert row == pytest.approx(embedder.encode_document("tides").tolist(), abs=1e-5)


@pytest.mark.parametrize("name", ["x", "a\nb", "x\n", "x/", "x/y", "documents/x", "100%", "ü \r\t"])
def test_every_id_has_its_own_path(tmp_path: Path, embedder: Embedder, reranker: Reranker, name: str) -> None:
    ids = ["x", "a\nb", "x\n", "x/", "x/y", "documents/x", "100%", "ü \r\t"]
    with Pipeline.create(tmp_path / "store", embedder, reranker) as pipeline:
        pipeline.add([Document(f"text of {each!r}", each) for each in ids])
        with served(pipeline=pipeline, allow_writes=True) as running:
            path = f"/documents/{quote(name, safe='/')}"
            assert running.http.get(path).json()["text"] == f"text of {name!r}"
            assert running.http.delete(path).status_code == 200
            assert running.http.get(path).status_code == 404
        assert {document.id for document in pipeline.documents()} == set(ids) - {name}


@pytest.mark.parametrize(
    ("query", "message"),
    [("lines=0", "lines is 0"), ("line=0", "0"), ("lnie=3", "unknown parameter 'lnie'"), ("page=x", "page is 'x'")],
)
def test_wrong_parts_of_a_document_are_named(store: Pipeline, query: str, message: str) -> None:
    with served(pipeline=store) as running:
        response = running.http.get(f"/documents/kitchen/bread?{query}")
        assert response.status_code == 422
        assert message in response.text
        assert running.http.get("/documents?limt=3").status_code == 422


def test_a_write_that_has_begun_is_finished_when_the_server_ends(
    tmp_path: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    pipeline = Pipeline.create(tmp_path / "store", embedder, None)
    add = pipeline.add

    def slow(documents: list[Document]) -> object:
        begun.set()
        go_on.wait(30)
        return add(documents)

    monkeypatch.setattr(pipeline, "add", slow)
    statuses: list[int] = []
    with pipeline, served(pipeline=pipeline, allow_writes=True, drain_seconds=0.5) as running:

        def write() -> None:
            body = {"documents": [{"id": "a", "text": "the moon"}]}
            statuses.append(running.http.post("/documents", json=body).status_code)

        thread = threading.Thread(target=write)
        thread.start()
        wait_for(begun.is_set)
        running.server.should_exit = True
        thread.join()
        assert statuses == [503]
        go_on.set()
    with Pipeline.open(tmp_path / "store", embedder) as again:
        assert [document.id for document in again.documents()] == ["a"]
