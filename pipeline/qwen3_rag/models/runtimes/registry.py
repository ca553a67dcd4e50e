"""The available runtimes and the options of each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from qwen3_rag.arguments import ATTENTION, at_least, check_url, one_of
from qwen3_rag.errors import InvalidArgumentError, UnknownNameError
from qwen3_rag.models.checkpoints.sources import Kind

__all__ = ["RUNTIMES", "Runtime", "check_options", "find"]

Check = Callable[[Any, str], object]


@dataclass(frozen=True)
class Runtime:
    """A runtime's class and its options.

    Attributes:
        module: Module in this package.
        name: Class in the module.
        options: Option name to the function that checks its value.
        extra_options: Whether it takes other options too, which are checked at loading.
        remote: Whether it takes a server's URL and a model source in place of a folder with weights.
    """

    module: str
    name: str
    options: Mapping[str, Check]
    extra_options: bool = False
    remote: bool = False


def _count(value: Any, name: str) -> object:
    return at_least(value, 1, name)


def _attention(value: Any, name: str) -> object:
    return one_of(value, ATTENTION, name)


def _compile(value: Any, name: str) -> object:
    if value not in ("auto", True, False):
        raise InvalidArgumentError(f"{name} is {value!r}; expected 'auto', True or False")
    return value


def _backend(value: Any, name: str) -> object:
    return one_of(value, ("torch", "onnx", "openvino"), name)


# `dtype` is a separate argument; the others would let a checkpoint run code or load pickles.
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


_NATIVE = {"attention": _attention, "compile": _compile, "token_budget": _count}
_BATCHED = {"batch_size": _count}
_LIBRARY = {**_BATCHED, "backend": _backend, "model_kwargs": _model_kwargs}
_SERVER = {
    "api_key_env": _name,
    "batch_size": _count,
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
            "vllm": Runtime("vllm", "VllmEmbedder", {}, extra_options=True),
        },
        "reranker": {
            "native": Runtime("native", "NativeReranker", _NATIVE),
            "transformers": Runtime("official", "OfficialReranker", _BATCHED),
            "sentence-transformers": Runtime("cross_encoder", "SentenceReranker", _LIBRARY),
            "vllm": Runtime("vllm", "VllmReranker", {}, extra_options=True),
        },
    }
)
# Runtimes whose name is a server's URL.
SERVERS: Mapping[Kind, Runtime] = MappingProxyType(
    {
        "embedder": Runtime("server", "ServerEmbedder", _SERVER, remote=True),
        "reranker": Runtime("server", "ServerReranker", {**_SERVER, "endpoint": _endpoint}, remote=True),
    }
)


def find(kind: Kind, name: object) -> Runtime:
    """Look up a runtime by name or by a server's URL.

    Raises:
        UnknownNameError: This kind of model has no runtime with this name.
        InvalidArgumentError: The URL is malformed or contains a password.
    """
    runtimes = RUNTIMES[kind]
    if isinstance(name, str) and "://" in name:
        check_url(name)
        return SERVERS[kind]
    if not isinstance(name, str) or name not in runtimes:
        raise UnknownNameError(f"{kind} runtime", name, list(runtimes), "Or a server's URL, http://host:port.")
    return runtimes[name]


def check_options(options: Mapping[str, Any], kind: Kind, runtime: str) -> dict[str, Any]:
    """Check the names and values of a runtime's options; returns a copy.

    Raises:
        UnknownNameError: The runtime has no such option.
        InvalidArgumentError: A value is wrong.
    """
    if not isinstance(options, Mapping):
        raise InvalidArgumentError(f"runtime_options is {options!r}; expected a mapping of names to values")
    spec = find(kind, runtime)
    for name, value in options.items():
        if name in spec.options:
            spec.options[name](value, name)
        elif not spec.extra_options:
            raise UnknownNameError(f"option of runtime {runtime!r}", name, sorted(spec.options))
    return dict(options)
