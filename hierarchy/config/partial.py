"""What can be understood of a file with mistakes: the same data without the wrong fields.

Pydantic checks fields, and `topology` checks the tree that they make. A wrong field must not hide what else is wrong.
So the tree is made of the others, and `topology` leaves out what depends on a field in `wrong`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from hierarchy.config.yaml import FieldPath

MAX_ROUNDS = 8  # a field that is left out may make another one wrong, such as one of two that go together
M = TypeVar("M", bound=BaseModel)


class Understood(Generic[M]):
    """The outcome of `understand`.

    Attributes:
        model: made of the fields that are right; None if too little is right.
        errors: pydantic's errors of all wrong fields; () if there are none.
        wrong: paths of the fields that were left out or replaced.
    """

    def __init__(self, model: M | None, errors: Sequence[ErrorDetails], wrong: Iterable[FieldPath]) -> None:
        self.model = model
        self.errors = errors
        self.wrong = frozenset(wrong)


def understand(root: type[M], data: dict[str, Any], fillers: Mapping[FieldPath, Any]) -> Understood[M]:
    """Validate data, leaving out what is wrong.

    Args:
        fillers: path of a required field, with "*" for any name on it -> a valid value.
    """
    rest = copy.deepcopy(data)
    errors: list[ErrorDetails] = []
    wrong: set[FieldPath] = set()
    for _ in range(MAX_ROUNDS):
        try:
            return Understood(root.model_validate(rest), errors, wrong)
        except ValidationError as error:
            found = error.errors(include_url=False)
            # An error around or inside a field that was left out follows from that.
            errors += [one for one in found if not touches(_path(one), wrong)]
            left_out = {_leave_out(rest, _path(one), fillers) for one in found}
            if left_out <= wrong:
                break
            wrong |= left_out
    return Understood(None, errors, wrong)


def touches(field: FieldPath, wrong: Iterable[FieldPath]) -> bool:
    """Whether a field is one of these, is inside one, or contains one."""
    return any(field[: len(path)] == path[: len(field)] for path in wrong)


def _path(error: ErrorDetails) -> FieldPath:
    return tuple(part for part in error["loc"] if part != "[key]")


def _leave_out(data: Any, path: FieldPath, fillers: Mapping[FieldPath, Any]) -> FieldPath:
    """Remove a field, or fill it. Returns its path, or that of the list that contains it."""
    here = data
    for depth, part in enumerate(path[:-1]):
        inner = here.get(part)
        if not isinstance(inner, dict):  # an entry of a list, or a type of a choice, such as `float`
            here.pop(part, None)
            return path[: depth + 1]
        here = inner
    pattern = tuple("*" if depth == 1 else part for depth, part in enumerate(path))
    here.pop(path[-1], None)
    if pattern in fillers:
        here[path[-1]] = fillers[pattern]
    return path
