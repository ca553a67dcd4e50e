"""Arguments of a search that come as a dictionary."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from qwen3_rag.errors import UnknownNameError
from qwen3_rag.ranking import SearchOptions

__all__ = ["search_options"]

NAMES = [option.name for option in fields(SearchOptions)]


def search_options(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `Pipeline.search`, checked.

    Raises:
        InvalidArgumentError: An unknown name, or a wrong value.
    """
    for name in arguments:
        if name not in NAMES:
            raise UnknownNameError("argument of a search", name, NAMES)
    SearchOptions(**arguments)
    return dict(arguments)
