"""A controller of controllers: one address in front of LLM workers in many subnets."""

from typing import TYPE_CHECKING, Any

from hierarchy import release

if TYPE_CHECKING:
    from hierarchy.controller import Controller, DispatchMethod, WorkerInfo

__version__ = release.VERSION
__all__ = ["Controller", "DispatchMethod", "WorkerInfo", "__version__"]


def __getattr__(name: str) -> Any:
    """`hierarchy.Controller` and the like, imported at first use: they take time, and commands do not use them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hierarchy import controller

    return getattr(controller, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
