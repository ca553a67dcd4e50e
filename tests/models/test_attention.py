import importlib.util
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from qwen3_rag.errors import InvalidArgumentError, MissingDependencyError, UnknownNameError
from qwen3_rag.models.engine import attention, blockwise
from qwen3_rag.models.engine.blockwise import Inner
from qwen3_rag.models.engine.packing import Layout, PackedSequence, Prefix
from qwen3_rag.models.engine.varlen import varlen


def plain(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Reference attention: (L, H, D) queries aligned with the end of (S, H, D) keys."""
    scores = torch.einsum("lhd,shd->hls", q, k) * scale
    hidden = torch.ones(len(q), len(k), dtype=torch.bool).tril(len(k) - len(q)).logical_not()
    return torch.einsum("hls,shd->lhd", scores.masked_fill(hidden, -torch.inf).softmax(-1), v)


def cpu_varlen(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, n: int, m: int, scale: float) -> Tensor:
    """flash-attn's varlen function with causal=True as its documentation describes it, on the CPU."""
    assert cu_q.dtype == cu_k.dtype == torch.int32
    assert (cu_q.diff().max(), cu_k.diff().max()) == (n, m)
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    parts = zip(cu_q, cu_q[1:], cu_k, cu_k[1:], strict=False)
    return torch.cat([plain(q[a:b], k[c:d], v[c:d], scale) for a, b, c, d in parts])


class Case:
    """A batch with and without prefixes: one stored, one computed in the batch, and one that continues each of them."""

    def __init__(self, lengths: tuple[int, ...], prefix: int, device: str = "cpu", dtype: torch.dtype = torch.float32):
        generator = torch.Generator().manual_seed(sum(lengths) + prefix)
        sequences = []
        stored, fresh = Prefix(range(prefix)), Prefix(range(prefix + 2))
        longer, longest = Prefix(range(3), parent=stored), Prefix(range(4), parent=fresh)
        before = [torch.randn(prefix, 2, 8, generator=generator) for _ in range(2)]
        if prefix:
            stored.keys_values[0] = tuple(x.to(device, dtype) for x in before)
            sequences += [PackedSequence(p.ids, prefix=p.parent, computes=p) for p in (fresh, longer, longest)]
        owners = [stored, fresh, longer, longest, None] if prefix else [None]
        for owner in owners:
            sequences += [PackedSequence(range(length), prefix=owner) for length in lengths]
        self.layout = Layout(sequences)
        rows = self.layout.starts[-1]
        q = torch.randn(rows, 4, 8, generator=generator)
        k, v = (torch.randn(rows, 2, 8, generator=generator) for _ in range(2))
        stored_before = {None: [x[:0] for x in (k, v)], stored: before, fresh: [x[: prefix + 2] for x in (k, v)]}
        for child, start in ((longer, prefix + 2), (longest, prefix + 5)):
            own = [x[start : start + len(child.ids)] for x in (k, v)]
            stored_before[child] = [torch.cat(pair) for pair in zip(stored_before[child.parent], own, strict=True)]
        expected = []
        for sequence, start, stop in zip(sequences, self.layout.starts, self.layout.starts[1:], strict=False):
            keys, values = (
                torch.cat([b, x[start:stop]]).repeat_interleave(2, 1)
                for b, x in zip(stored_before[sequence.prefix], (k, v), strict=True)
            )
            expected.append(plain(q[start:stop], keys, values, 0.3))
        self.expected = torch.cat(expected)
        self.q, self.k, self.v = (x.to(device, dtype) for x in (q, k, v))
        attention._record(self.layout, self.k, self.v, 0)

    def check(self, attend: Callable[..., Tensor], tolerance: float = 2e-5) -> None:
        """Compare all rows, then only the last rows."""
        last = self.layout.last_rows
        output = attend(self.q, self.k, self.v, self.layout, 0, 0.3, False).float().cpu()
        torch.testing.assert_close(output, self.expected, atol=tolerance, rtol=tolerance * 5)
        output = attend(self.q[last], self.k, self.v, self.layout, 0, 0.3, True).float().cpu()
        torch.testing.assert_close(output, self.expected[last], atol=tolerance, rtol=tolerance * 5)


CASES = [((5,), 0), ((1,), 0), ((5,), 3), ((7, 7, 3, 1), 0), ((7, 7, 3, 1), 11), ((2100, 5), 0), ((2100, 5), 40)]


@pytest.mark.parametrize("inner", [blockwise.unfused, blockwise.fused])
@pytest.mark.parametrize(("lengths", "prefix"), CASES)
def test_blocks_keep_sequences_apart_and_share_prefixes(lengths: tuple[int, ...], prefix: int, inner: Inner) -> None:
    Case(lengths, prefix).check(partial(blockwise.blockwise, inner=inner))


@pytest.mark.parametrize("scores", [64, 1000, 1 << 14])
def test_the_block_size_does_not_change_results(scores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockwise, "SCORES", {"cpu": scores})
    monkeypatch.setattr(blockwise, "FEWEST_ROWS", 4)
    Case((70, 69, 66, 64, 30, 9), 11).check(partial(blockwise.blockwise, inner=blockwise.unfused))


def test_long_sequences_give_products_of_few_shapes() -> None:
    """oneDNN caches code and memory for each shape: with a new shape at every step, 32,000 tokens took 14 GiB."""
    shapes = set()

    def noting(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float) -> Tensor:
        shapes.add(k.shape[1])
        assert int(seen.max()) < k.shape[1]
        return q

    rows = torch.zeros(32_000, 2, 2)
    layout = Layout([PackedSequence(range(len(rows)))])
    blockwise.blockwise(rows, rows[:, :1], rows[:, :1], layout, 0, 1.0, False, inner=noting)
    assert max(shapes) == len(rows)
    assert len(shapes) < 100


@pytest.mark.parametrize(("lengths", "prefix"), CASES[:5])
def test_varlen_calls_its_kernel_as_documented(lengths: tuple[int, ...], prefix: int) -> None:
    Case(lengths, prefix).check(partial(varlen, kernel=cpu_varlen))


def test_the_torch_kernel_is_called_with_its_own_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    import inspect

    from torch.nn.attention import varlen as torch_varlen

    real = inspect.signature(torch_varlen.varlen_attn)

    def checked(*args: Tensor, **options: object) -> Tensor:
        bound = real.bind(*args, **options).arguments
        assert bound["window_size"] == (-1, 0)
        scale = bound["scale"]
        return cpu_varlen(*(bound[name] for name in list(real.parameters)[:7]), scale)

    monkeypatch.setattr(torch_varlen, "varlen_attn", checked)
    Case((7, 7, 3, 1), 11).check(partial(varlen, kernel=attention._torch_varlen()))


def test_choose_rejects_wrong_names_and_devices() -> None:
    cpu, half = torch.device("cpu"), torch.bfloat16
    assert attention.choose("auto", cpu, half)[0] == "math"
    assert attention.choose("sdpa", cpu, half)[0] == "sdpa"
    with pytest.raises(UnknownNameError, match=r"'fast'.*auto, flash, sdpa"):
        attention.choose("fast", cpu, half)
    with pytest.raises(InvalidArgumentError, match="device='cpu'"):
        attention.choose("flash", cpu, half)
    if importlib.util.find_spec("flash_attn") is None:
        with pytest.raises(MissingDependencyError, match="pip install flash-attn --no-build-isolation"):
            attention.choose("flash", torch.device("cuda"), half)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["auto", "sdpa", "math"])
@pytest.mark.parametrize(("lengths", "prefix"), CASES)
def test_the_gpu_kernels_agree(lengths: tuple[int, ...], prefix: int, name: str) -> None:
    _, attend = attention.choose(name, torch.device("cuda"), torch.bfloat16)
    Case(lengths, prefix, "cuda", torch.bfloat16).check(attend, 3e-2)
