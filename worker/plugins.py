"""Finds the plug-ins: one class per file in a room such as `worker/objectives/`. Adding one is adding that file.

An operator's own plug-ins lie in a folder with the same rooms (`RETORT_PLUGINS_DIR`), outside this package.
"""

import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel, ConfigDict

ROOMS = ("objectives", "teachers", "students", "augmenters", "quantizers", "recipes")


class PluginParams(BaseModel):
    """Base of every plug-in's `Params`: unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


_folders: list[Path] = []


def also_in(folder: Path) -> None:
    """Look for plug-ins in this folder's rooms too. It is the operator's: its code runs as ours."""
    if folder not in _folders:
        _folders.append(folder)


def discover(room: str) -> dict[str, Any]:
    """name → class for every module of `worker/<room>/` and of the operator's rooms; a name used twice is an error."""
    found: dict[str, Any] = {}
    for module in (*_own(room), *_foreign(room)):
        for cls in vars(module).values():
            name = getattr(cls, "name", None)
            if not inspect.isclass(cls) or cls.__module__ != module.__name__ or not isinstance(name, str):
                continue
            if name in found:
                raise RuntimeError(f"worker/{room}: '{name}' is defined by {found[name].__module__} and {cls.__module__}")
            found[name] = cls
    return found


def _own(room: str) -> Iterator[ModuleType]:
    package = importlib.import_module(f"worker.{room}")
    for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda i: i.name):
        if info.name != "base":
            yield importlib.import_module(f"worker.{room}.{info.name}")


def _foreign(room: str) -> Iterator[ModuleType]:
    for folder in _folders:
        for path in sorted((folder / room).glob("[a-z]*.py")):
            name = f"retort_plugins.{room}.{path.stem}"
            if name not in sys.modules:
                spec = importlib.util.spec_from_file_location(name, path)
                assert spec is not None
                assert spec.loader is not None
                module = importlib.util.module_from_spec(spec)
                sys.modules[name] = module
                spec.loader.exec_module(module)
            yield sys.modules[name]


def get(room: str, name: str) -> Any:
    """The class of that name; KeyError lists what there is."""
    found = discover(room)
    if name not in found:
        raise KeyError(f"no {room[:-1]} '{name}'; there are {', '.join(found)}")
    return found[name]
