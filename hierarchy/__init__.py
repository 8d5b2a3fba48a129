"""A controller of controllers: one address in front of LLM workers in many subnets."""

from hierarchy.controller import Controller, DispatchMethod, WorkerInfo

__version__ = "0.1.0"
__all__ = ["Controller", "DispatchMethod", "WorkerInfo", "__version__"]
