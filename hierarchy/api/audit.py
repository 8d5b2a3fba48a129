"""The audit log: one line for each command of an operator, with who, what, why and the result.

It is the logger `hierarchy.audit`, whose lines are for people and, as JSON, have these fields of their own.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from hierarchy.errors import RequestError

log = logging.getLogger("hierarchy.audit")


@contextmanager
def line(action: str, target: str, by: str, reason: str = "") -> Iterator[None]:
    """Write one line after the work in the `with` block, whatever its result.

    Args:
        action: such as `drain`.
        target: a path or name, as the operator wrote it.
        by: the name of the operator's key and the address.
        reason: the operator's; "" for none.
    """
    result = "failed"
    try:
        yield
        result = "done"
    except RequestError as error:
        result = f"{'not confirmed' if error.status >= 500 else 'refused'}: {error}"
        raise
    finally:
        who = f"{by} ({reason})" if reason else by
        fields = {"action": action, "target": target, "by": by, "reason": reason, "result": result}
        log.info("%s %s by %s: %s", action, target, who, result, extra=fields)
