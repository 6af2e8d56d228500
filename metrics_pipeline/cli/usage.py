"""How a choice or a number that cannot be used is refused: with what is accepted, and the word that is like it."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

import typer
from typer.core import TyperGroup


class Commands(TyperGroup):
    """The commands. Of a choice or a number they say what is accepted, which Typer leaves to Pydantic's words."""

    def invoke(self, context: Any) -> Any:
        """Runs a command. Raises BadParameter in our words."""
        try:
            return super().invoke(context)
        except typer.BadParameter as error:
            if isinstance(error.__cause__, ValueError):
                error.message = _refusal(error.param, error.__cause__)
            raise


def not_one_of(text: str, words: Iterable[str]) -> str:
    """Two sentences on a text that is none of the words: which they are, and which is like it."""
    known = [str(word) for word in words]
    near = get_close_matches(text.lower(), known, n=1)
    is_not = "is not one of" if len(known) > 1 else "is not"
    return f"{text!r} {is_not} {', '.join(known)}.{f' Did you mean {near[0]}?' if near else ''}"


def _refusal(parameter: Any, invalid: Any) -> str:
    text, choices = str(invalid.errors()[0]["input"]), parameter.type_descriptor.choices
    if choices is not None:
        return not_one_of(text, choices)
    least, most = parameter.min, parameter.max
    bounds = "" if least is None else f" from {least:,} on" if most is None else f" from {least:,} to {most:,}"
    return f"{text!r} is not a whole number{bounds}."
