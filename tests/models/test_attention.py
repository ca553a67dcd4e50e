import importlib.util

import pytest
import torch
from torch import Tensor

from qwen3_rag.errors import InvalidArgumentError, MissingDependencyError, UnknownNameError
from qwen3_rag.models import attention
from qwen3_rag.models.packing import Layout


def plain(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Attention written out: (L, H, D) queries at the end of (S, H, D) keys."""
    scores = torch.einsum("lhd,shd->hls", q, k) * scale
    hidden = torch.ones(len(q), len(k), dtype=torch.bool).tril(len(k) - len(q)).logical_not()
    return torch.einsum("hls,shd->lhd", scores.masked_fill(hidden, -torch.inf).softmax(-1), v)


def cpu_varlen(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, n: int, m: int, scale: float) -> Tensor:
    """What flash-attn's documentation says of its varlen function with causal=True, on the CPU."""
    assert cu_q.dtype == cu_k.dtype == torch.int32
    assert (cu_q.diff().max(), cu_k.diff().max()) == (n, m)
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    parts = zip(cu_q, cu_q[1:], cu_k, cu_k[1:], strict=False)
    return torch.cat([plain(q[a:b], k[c:d], v[c:d], scale) for a, b, c, d in parts])


def case(lengths: tuple[int, ...], prefix: int) -> tuple[Tensor, Tensor, Tensor, Layout, Tensor]:
    generator = torch.Generator().manual_seed(sum(lengths) + prefix)
    total = sum(lengths)
    q = torch.randn(1, 4, total, 8, generator=generator)
    k, v = (torch.randn(1, 2, total, 8, generator=generator) for _ in range(2))
    before = tuple(torch.randn(1, 2, prefix, 8, generator=generator) for _ in range(2))
    layout = Layout(lengths, prefix=prefix, keys_values={0: before} if prefix else {})
    expected, start = [], 0
    for length in lengths:
        rows = slice(start, start + length)
        keys, values = (
            torch.cat([b[0], x[0, :, rows]], 1).transpose(0, 1).repeat_interleave(2, 1)
            for b, x in zip(before, (k, v), strict=True)
        )
        expected.append(plain(q[0, :, rows].transpose(0, 1), keys, values, 0.3))
        start += length
    return q, k, v, layout, torch.cat(expected)


CASES = [((5,), 0), ((5,), 3), ((7, 7, 3, 1), 0), ((7, 7, 3, 1), 11), ((2100, 5), 0), ((2100, 5), 40)]


@pytest.mark.parametrize(("lengths", "prefix"), CASES)
def test_sdpa_keeps_sequences_apart_and_shares_the_prefix(lengths: tuple[int, ...], prefix: int) -> None:
    q, k, v, layout, expected = case(lengths, prefix)
    torch.testing.assert_close(attention.sdpa(q, k, v, layout, 0, 0.3), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("lengths", "prefix"), CASES[:4])
def test_varlen_gives_its_kernel_what_it_documents(lengths: tuple[int, ...], prefix: int) -> None:
    q, k, v, layout, expected = case(lengths, prefix)
    found = attention.varlen(q, k, v, layout, 0, 0.3, kernel=cpu_varlen)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_the_torch_kernel_is_called_with_its_own_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    import inspect

    from torch.nn.attention import varlen

    real = inspect.signature(varlen.varlen_attn)

    def checked(*args: Tensor, **options: object) -> Tensor:
        bound = real.bind(*args, **options).arguments
        assert bound["window_size"] == (-1, 0)
        scale = bound["scale"]
        return cpu_varlen(*(bound[name] for name in list(real.parameters)[:7]), scale)

    monkeypatch.setattr(varlen, "varlen_attn", checked)
    q, k, v, layout, expected = case((7, 7, 3, 1), 11)
    found = attention.varlen(q, k, v, layout, 0, 0.3, kernel=attention._torch_varlen())
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_wrong_choices_are_errors() -> None:
    cpu, half = torch.device("cpu"), torch.bfloat16
    assert attention.choose("auto", cpu, half)[0] == "sdpa"
    with pytest.raises(UnknownNameError, match=r"'fast'.*auto, flash, sdpa"):
        attention.choose("fast", cpu, half)
    with pytest.raises(InvalidArgumentError, match="device='cpu'"):
        attention.choose("flash", cpu, half)
    if importlib.util.find_spec("flash_attn") is None:
        with pytest.raises(MissingDependencyError, match="pip install flash-attn --no-build-isolation"):
            attention.choose("flash", torch.device("cuda"), half)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("lengths", "prefix"), CASES)
def test_the_gpu_kernel_agrees(lengths: tuple[int, ...], prefix: int) -> None:
    q, k, v, layout, expected = case(lengths, prefix)
    q, k, v = (x.to("cuda", torch.bfloat16) for x in (q, k, v))
    layout.keys_values.update(
        {i: tuple(x.to("cuda", torch.bfloat16) for x in pair) for i, pair in layout.keys_values.items()}
    )
    _, attend = attention.choose("auto", q.device, q.dtype)
    found = attend(q, k, v, layout, 0, 0.3).float().cpu()
    torch.testing.assert_close(found, expected, atol=3e-2, rtol=3e-2)
