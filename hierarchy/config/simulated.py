"""The rates of a simulated engine, unless its configuration or its flags set others: those of a small GPU server."""

from __future__ import annotations

PREFILL_TOKENS_PER_S = 8000.0  #: prompt tokens, of all requests together
DECODE_TOKENS_PER_S = 50.0  #: generated tokens, of each request
CACHE_TOKENS = 0  #: of prompts, that it keeps in its prefix cache; 0: it has none
SLOTS = 8  #: requests at once; more wait
