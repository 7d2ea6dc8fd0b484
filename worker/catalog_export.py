"""`make catalog`: writes app/domain/catalog.json, so that the API can check and show every plug-in without importing torch.

With an operator's own plug-ins: `python -m worker.catalog_export --plugins DIR --out FILE`, and RETORT_CATALOG=FILE for the API.
"""

import argparse
import inspect
import json
from pathlib import Path
from typing import Any

from worker import plugins

_SINGLE = ("compares", "projects")  # facts that are one word
_FACTS = ("needs", "offers", "problems", "equal", "meant", "architectures")  # sets of names that some classes have
TARGET = Path(__file__).parents[1] / "app" / "domain" / "catalog.json"


def build() -> dict[str, Any]:
    catalog: dict[str, Any] = {}
    for room in plugins.ROOMS:
        catalog[room] = {}
        for name, cls in sorted(plugins.discover(room).items()):
            entry: dict[str, Any] = {"doc": inspect.getdoc(cls) or "", "schema": cls.Params.model_json_schema()}
            entry |= {fact: sorted(values) for fact in _FACTS if (values := getattr(cls, fact, None))}
            entry |= {fact: value for fact in _SINGLE if (value := getattr(cls, fact, None))}
            if room == "recipes":
                entry |= recipe(cls)
            catalog[room][name] = entry
    return catalog


def recipe(cls: Any) -> dict[str, Any]:
    """What `app/domain/recipes.py` reads beside the schema; an operator's own recipe needs its `stages` alone."""
    told: dict[str, Any] = {"tasks": sorted(getattr(cls, "tasks", ())), "students": sorted(getattr(cls, "students", ()))}
    told |= {name: getattr(cls, name, {}) for name in ("defaults", "task_defaults")}
    return {"stages": cls.stages, **{name: value for name, value in told.items() if value}}


def render() -> str:
    return json.dumps(build(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the catalogue of plug-ins.")
    parser.add_argument("--plugins", type=Path, help="a folder with rooms of further plug-ins")
    parser.add_argument("--out", type=Path, default=TARGET)
    wanted = parser.parse_args()
    if wanted.plugins is not None:
        plugins.also_in(wanted.plugins)
    wanted.out.write_text(render())
