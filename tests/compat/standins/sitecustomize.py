"""Stand-ins for torch and transformers, which FastChat's programs import at their beginning and never use here.

Python loads a module of this name at its start wherever it stands on the path. FastChat's controller, API server and
test client run no model; the tests' worker has one of its own. Whatever of these packages is named is an empty class.
"""

import importlib.abc
import importlib.machinery
import sys
import types

ABSENT = ("torch", "transformers", "psutil", "accelerate", "huggingface_hub", "peft", "tqdm")


class StandIn(types.ModuleType):
    __path__ = ()  # so that it can have parts: torch.nn.functional

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__getattr__": lambda self, name: None, "__call__": lambda self, *args, **named: None})


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return StandIn(spec.name)

    def exec_module(self, module):
        pass


sys.meta_path.append(Finder())  # behind all others: what is installed is used
