"""Finds the plug-ins: one class per file in a room such as `worker/objectives/`. Adding one is adding that file."""

import importlib
import inspect
import pkgutil
from typing import Any

from pydantic import BaseModel, ConfigDict

ROOMS = ("objectives", "students", "quantizers", "recipes")


class PluginParams(BaseModel):
    """Base of every plug-in's `Params`: unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def discover(room: str) -> dict[str, Any]:
    """name → class for every module of `worker/<room>/` except `base`; a name used twice is an error."""
    package = importlib.import_module(f"worker.{room}")
    found: dict[str, Any] = {}
    for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda i: i.name):
        if info.name == "base":
            continue
        module = importlib.import_module(f"worker.{room}.{info.name}")
        for cls in vars(module).values():
            name = getattr(cls, "name", None)
            if not inspect.isclass(cls) or cls.__module__ != module.__name__ or not isinstance(name, str):
                continue
            if name in found:
                raise RuntimeError(f"worker/{room}: '{name}' is defined by {found[name].__module__} and {cls.__module__}")
            found[name] = cls
    return found


def get(room: str, name: str) -> Any:
    """The class of that name; KeyError lists what there is."""
    found = discover(room)
    if name not in found:
        raise KeyError(f"no {room[:-1]} '{name}'; there are {', '.join(found)}")
    return found[name]
