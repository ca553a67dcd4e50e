"""What pickles and JSON of components have lost or cannot say."""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel

__all__ = ["checked_state", "described"]


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


def described(make: Callable[..., Any], description: Mapping[str, Any]) -> Any:
    """A model from its description.

    Raises:
        ValueError: The description has unknown names.
    """
    try:
        return make(**description)
    except TypeError as error:
        raise ValueError(
            f"the description is {dict(description)}; expected what `describe()` gives: {error}"
        ) from error
