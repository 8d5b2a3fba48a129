"""Traces: what clients sent to somebody's engines, in the formats in which such recordings are published.

    Mooncake    JSON Lines    {"timestamp": ms, "input_length": n, "output_length": n, "hash_ids": [...]}
    Azure       CSV           TIMESTAMP,ContextTokens,GeneratedTokens
    BurstGPT    CSV           Timestamp,Model,Request tokens,Response tokens,...
    ShareGPT    JSON (Lines)  {"conversations": [{"from": "human", "value": "..."}, ...]}
    prompts     JSON Lines    {"prompt": "...", "output_tokens": n}

vLLM's and SGLang's benchmarks read the last three; prompts are what vLLM calls `custom`.
"""
