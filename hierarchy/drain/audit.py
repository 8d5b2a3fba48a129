"""The audit log: one line for each command of an operator, with who, what, why and the result.

It is the logger `hierarchy.audit`, whose lines are for people and, as JSON, have these fields of their own.
"""

from __future__ import annotations

import logging

log = logging.getLogger("hierarchy.audit")


def record(action: str, target: str, by: str, reason: str, result: str) -> None:
    """Write one line.

    Args:
        action: such as `drain`.
        target: a path, as the operator wrote it.
        by: the name of the operator's key and the address.
        reason: the operator's; "" for none.
        result: `done`, or why it was refused.
    """
    who = f"{by} ({reason})" if reason else by
    fields = {"action": action, "target": target, "by": by, "reason": reason, "result": result}
    log.info("%s %s by %s: %s", action, target, who, result, extra=fields)
