"""A simulated engine for tests, benchmarks and demos: the protocol and timing of a GPU machine, without a model.

`app.create_app(SimulatedOptions(...))` is the engine as an ASGI app; `hierarchy engine simulated` runs it. It has the
OpenAI paths and metrics of vLLM and the paths of a FastChat worker, so one engine serves both API families. Its
responses say that they are simulated wherever the protocol allows it.
"""
