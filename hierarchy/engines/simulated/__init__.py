"""A stand-in for a GPU box, for tests, benchmarks and rehearsals. It computes nothing, and says so wherever it can.

`app.create_app(SimulatedOptions(...))` is the engine as an ASGI app; `hierarchy engine simulated` runs it. It speaks
vLLM's OpenAI paths and metrics and a FastChat worker's paths at once, so one of it exercises both API families.
"""
