from pathlib import Path

import pytest

from qwen3_rag import Reranker
from qwen3_rag.models import verification


def test_verify_model_accepts_a_right_model_and_not_a_wrong_one(
    tiny_reranker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reranker = Reranker(str(tiny_reranker), dtype="float32")
    check = verification.verify_model(reranker)
    assert check.agrees
    assert check.published == []
    assert verification.verify_model(Reranker(str(tiny_reranker), dtype="bfloat16")).agrees
    broken = Reranker(str(tiny_reranker), dtype="float32")
    broken.loaded.direction = broken.loaded.direction * 1.01  # type: ignore[attr-defined]
    assert not verification.verify_model(broken).agrees


def test_published_values_count_for_the_official_checkpoint(
    tiny_reranker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "PUBLISHED", {str(tiny_reranker): (7.625, -11.375)})
    check = verification.verify_model(Reranker(str(tiny_reranker), dtype="float32"))
    assert [published for published, _ in check.published] == [7.625, -11.375]
    assert not check.agrees
    measured = tuple(measured for _, measured in check.published)
    monkeypatch.setattr(verification, "PUBLISHED", {str(tiny_reranker): measured})
    assert verification.verify_model(Reranker(str(tiny_reranker), dtype="float32")).agrees


def test_presets_find_their_published_values() -> None:
    assert verification._hub_name(Reranker("0.6b")) in verification.PUBLISHED
    assert verification._hub_name(Reranker("Qwen/Qwen3-Reranker-0.6B")) in verification.PUBLISHED
