from pathlib import Path

import pytest

from qwen3_rag import Reranker
from qwen3_rag.models import checking


def test_a_right_model_agrees_and_a_wrong_runtime_does_not(
    tiny_reranker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reranker = Reranker(str(tiny_reranker), dtype="float32")
    check = checking.verify_model(reranker)
    assert check.agrees
    assert check.published == []
    assert checking.verify_model(Reranker(str(tiny_reranker), dtype="bfloat16")).agrees
    broken = Reranker(str(tiny_reranker), dtype="float32")
    broken.loaded.direction = broken.loaded.direction * 1.01  # type: ignore[attr-defined]
    assert not checking.verify_model(broken).agrees


def test_published_values_count_for_the_official_checkpoint(
    tiny_reranker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "PUBLISHED", {str(tiny_reranker): (7.625, -11.375)})
    check = checking.verify_model(Reranker(str(tiny_reranker), dtype="float32"))
    assert [said for said, _ in check.published] == [7.625, -11.375]
    assert not check.agrees
    found = tuple(found for _, found in check.published)
    monkeypatch.setattr(checking, "PUBLISHED", {str(tiny_reranker): found})
    assert checking.verify_model(Reranker(str(tiny_reranker), dtype="float32")).agrees


def test_presets_find_their_published_values() -> None:
    assert checking._hub_name(Reranker("0.6b")) in checking.PUBLISHED
    assert checking._hub_name(Reranker("Qwen/Qwen3-Reranker-0.6B")) in checking.PUBLISHED
