"""Checks what a component's pickle has lost."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

__all__ = ["checked_state"]


def checked_state(component: BaseModel, state: dict[str, Any], required: Mapping[str, Any]) -> dict[str, Any]:
    """The state that LlamaIndex pickles of a component, which leaves out silently what cannot be pickled.

    Callbacks may be lost, but without one of the `required` fields the pickle would load a different model.

    Raises:
        TypeError: One of these fields is missing.
    """
    for name, value in required.items():
        if name not in state["__dict__"]:
            raise TypeError(
                f"{name} of {type(component).__name__} is {value!r}; expected something that can be pickled"
            )
    return state
