"""The labels that a request requires: by its API key, and by its field `x-hierarchy-require`.

A client's field may only narrow what its key requires. Below the entry node the field has both, and is believed from a
parent alone. A field that cannot be read refuses the request: what was meant is not known.
"""

from __future__ import annotations

from hierarchy.errors import BadRequest, LabelNotAllowed, RequestError
from hierarchy.labels import Requirement, of_parent, parse
from hierarchy.security.caller import Caller

FIELD = "x-hierarchy-require"


class Required:
    """What the field of a request says, if a parent sends it.

    require: None if it cannot be read. error: why not.
    """

    def __init__(self, require: Requirement | None, error: RequestError | None = None) -> None:
        self.require = require
        self.error = error


def required(caller: Caller, value: bytes | None) -> tuple[Requirement | None, Required | None, RequestError | None]:
    """What a request requires: of a client; of a parent (None without a field); and why a client's is refused.

    value: of the field; None for no such field.
    """
    own = caller.require
    if value is None:
        return own, None, None
    try:
        above = Required(of_parent(value.decode("ascii")))
    except ValueError as error:
        above = Required(None, _unreadable(error))
    try:
        asked = Requirement(parse(value.decode("ascii")))
    except ValueError as error:
        return own, above, _unreadable(error)
    try:
        return asked.narrowed(own), above, None
    except ValueError as error:
        name = str(error.args[0])
        message = f"{FIELD}: this API key requires another value of {name} than {dict(asked.pairs)[name]}"
        return own, above, LabelNotAllowed(message)


def _unreadable(error: ValueError) -> BadRequest:
    reason = "it is not ASCII" if isinstance(error, UnicodeError) else "; ".join(map(str, error.args))
    return BadRequest(f"{FIELD}: {reason}", FIELD)
