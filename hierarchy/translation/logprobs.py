"""Log probabilities of a completion's tokens, which stand in lists of one length: joined, and what is new of them.

Source: OpenAI API reference, "Create completion" (`logprobs`: tokens, token_logprobs, top_logprobs, text_offset);
FastChat, fastchat/serve/inference.py, whose frames have those of all tokens so far.
"""

from __future__ import annotations

from typing import Any

Logprobs = dict[str, Any]


def count(logprobs: Logprobs | None) -> int:
    """How many tokens they are of."""
    return max((len(of) for of in (logprobs or {}).values() if isinstance(of, list)), default=0)


def behind(logprobs: Logprobs | None, told: int) -> Logprobs | None:
    """Those of all tokens but the first `told`; None if there are none."""
    if logprobs is None or count(logprobs) <= told:
        return None
    return {name: of[told:] if isinstance(of, list) else of for name, of in logprobs.items()}


def joined(so_far: Logprobs | None, more: Logprobs | None) -> Logprobs | None:
    """Those of the tokens so far, which are changed, and of some more."""
    if so_far is None or more is None:
        return more if so_far is None else so_far
    for name, of in more.items():
        known = so_far.get(name)
        if isinstance(known, list) and isinstance(of, list):
            known.extend(of)
        else:
            so_far[name] = of
    return so_far
