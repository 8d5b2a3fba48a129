"""The kinds of engines, with the adapter of each, which reads its models and load."""

from __future__ import annotations

from hierarchy.engines.adapters.fastchat import FastChatAdapter
from hierarchy.engines.adapters.llamacpp import LlamaCppAdapter
from hierarchy.engines.adapters.lmdeploy import LmdeployAdapter
from hierarchy.engines.adapters.ollama import OllamaAdapter
from hierarchy.engines.adapters.openai import OpenAIAdapter
from hierarchy.engines.adapters.reading import Adapter
from hierarchy.engines.adapters.sglang import SglangAdapter
from hierarchy.engines.adapters.tgi import TgiAdapter
from hierarchy.engines.adapters.vllm import VllmAdapter
from hierarchy.engines.simulated.adapter import SimulatedAdapter

#: by kind
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
