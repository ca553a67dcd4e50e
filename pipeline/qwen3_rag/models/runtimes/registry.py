"""Which runtimes there are, and which options each understands."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from qwen3_rag.arguments import ATTENTION, at_least, one_of
from qwen3_rag.errors import InvalidArgumentError, UnknownNameError
from qwen3_rag.models.runtimes.address import check_url

__all__ = ["RUNTIMES", "Runtime", "check_options", "find"]

Kind = Literal["embedder", "reranker"]
Check = Callable[[Any, str], object]


@dataclass(frozen=True)
class Runtime:
    """Where a runtime's class is, and its options, each with the check of its value.

    Attributes:
        module: Module in this package.
        name: Class in the module.
        options: Name of an option to the function that checks its value.
        further: Whether it takes options beside these, checked when it is loaded.
        remote: Whether it takes a server's URL and the model's name in place of a folder with weights.
    """

    module: str
    name: str
    options: Mapping[str, Check]
    further: bool = False
    remote: bool = False


def _count(value: Any, name: str) -> object:
    return at_least(value, 1, name)


def _attention(value: Any, name: str) -> object:
    return one_of(value, ATTENTION, name)


def _compile(value: Any, name: str) -> object:
    if value not in ("auto", True, False):
        raise InvalidArgumentError(f"{name} is {value!r}; expected 'auto', True or False")
    return value


def _hub(value: Any, name: str) -> object:
    return one_of(value, ("huggingface", "modelscope"), name)


def _backend(value: Any, name: str) -> object:
    return one_of(value, ("torch", "onnx", "openvino"), name)


# The first two are other arguments of ours; the others would let code or pickles out of a checkpoint run.
_NOT_PASSED_ON = ("dtype", "torch_dtype", "trust_remote_code", "use_safetensors")


def _model_kwargs(value: Any, name: str) -> object:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise InvalidArgumentError(f"{name} is {value!r}; expected a mapping of argument names to values")
    if refused := sorted(set(value).intersection(_NOT_PASSED_ON)):
        raise InvalidArgumentError(f"{name} sets {', '.join(refused)}; expected none of {', '.join(_NOT_PASSED_ON)}")
    return value


def _seconds(value: Any, name: str) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise InvalidArgumentError(f"{name} is {value!r}; expected seconds above 0")
    return value


def _retries(value: Any, name: str) -> object:
    return at_least(value, 0, name)


def _flag(value: Any, name: str) -> object:
    if not isinstance(value, bool):
        raise InvalidArgumentError(f"{name} is {value!r}; expected True or False")
    return value


def _name(value: Any, name: str) -> object:
    if not isinstance(value, str) or not value:
        raise InvalidArgumentError(f"{name} is {value!r}; expected a name")
    return value


def _endpoint(value: Any, name: str) -> object:
    return one_of(value, ("auto", "classify", "score", "rerank"), name)


_NATIVE = {"attention": _attention, "compile": _compile, "token_budget": _count, "hub": _hub}
_BATCHED = {"batch_size": _count, "hub": _hub}
_LIBRARY = {**_BATCHED, "backend": _backend, "model_kwargs": _model_kwargs}
_SERVER = {
    "api_key_env": _name,
    "batch_size": _count,
    "hub": _hub,
    "probe": _flag,
    "retries": _retries,
    "served_name": _name,
    "timeout": _seconds,
}
RUNTIMES: Mapping[Kind, Mapping[str, Runtime]] = MappingProxyType(
    {
        "embedder": {
            "native": Runtime("native", "NativeEmbedder", _NATIVE),
            "transformers": Runtime("official", "OfficialEmbedder", _BATCHED),
            "sentence-transformers": Runtime("sentence", "SentenceEmbedder", _LIBRARY),
            "vllm": Runtime("vllm", "VllmEmbedder", {"hub": _hub}, further=True),
        },
        "reranker": {
            "native": Runtime("native", "NativeReranker", _NATIVE),
            "transformers": Runtime("official", "OfficialReranker", _BATCHED),
            "sentence-transformers": Runtime("cross_encoder", "SentenceReranker", _LIBRARY),
            "vllm": Runtime("vllm", "VllmReranker", {"hub": _hub}, further=True),
        },
    }
)
# A runtime's name that is a server's URL.
SERVERS: Mapping[Kind, Runtime] = MappingProxyType(
    {
        "embedder": Runtime("server", "ServerEmbedder", _SERVER, remote=True),
        "reranker": Runtime("server", "ServerReranker", {**_SERVER, "endpoint": _endpoint}, remote=True),
    }
)


def find(kind: Kind, name: object) -> Runtime:
    """A runtime by name, or by a server's URL.

    Raises:
        UnknownNameError: There is none of that name for this kind of model.
        InvalidArgumentError: The URL is none, or holds a password.
    """
    known = RUNTIMES[kind]
    if isinstance(name, str) and "://" in name:
        check_url(name)
        return SERVERS[kind]
    if not isinstance(name, str) or name not in known:
        raise UnknownNameError(f"{kind} runtime", name, list(known), "Or a server's URL, http://host:port.")
    return known[name]


def check_options(options: Mapping[str, Any], kind: Kind, runtime: str) -> dict[str, Any]:
    """Options that a runtime understands, with values that it can use."""
    if not isinstance(options, Mapping):
        raise InvalidArgumentError(f"runtime_options is {options!r}; expected a mapping of names to values")
    found = find(kind, runtime)
    for name, value in options.items():
        if name in found.options:
            found.options[name](value, name)
        elif not found.further:
            raise UnknownNameError(f"option of runtime {runtime!r}", name, sorted(found.options))
    return dict(options)
