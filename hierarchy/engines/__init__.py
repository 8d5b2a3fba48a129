"""Engines: the leaves, inference servers that we did not write. One adapter per kind reads its models and load."""

from __future__ import annotations

from hierarchy.engines.fastchat import FastChatAdapter
from hierarchy.engines.llamacpp import LlamaCppAdapter
from hierarchy.engines.lmdeploy import LmdeployAdapter
from hierarchy.engines.ollama import OllamaAdapter
from hierarchy.engines.openai import OpenAIAdapter
from hierarchy.engines.reading import Adapter
from hierarchy.engines.sglang import SglangAdapter
from hierarchy.engines.simulated.adapter import SimulatedAdapter
from hierarchy.engines.tgi import TgiAdapter
from hierarchy.engines.vllm import VllmAdapter

ADAPTERS: dict[str, Adapter] = {
    adapter.kind: adapter
    for adapter in (
        OpenAIAdapter(),
        VllmAdapter(),
        SglangAdapter(),
        TgiAdapter(),
        LmdeployAdapter(),
        OllamaAdapter(),
        LlamaCppAdapter(),
        FastChatAdapter(),
        LlamaCppAdapter("local"),
        SimulatedAdapter(),
    )
}

__all__ = ["ADAPTERS", "Adapter"]
