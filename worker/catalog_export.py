"""`make catalog`: writes app/domain/catalog.json, so that the API can check and show every plug-in without importing torch."""

import inspect
import json
from pathlib import Path
from typing import Any

from worker import plugins

TARGET = Path(__file__).parents[1] / "app" / "domain" / "catalog.json"


def build() -> dict[str, Any]:
    catalog: dict[str, Any] = {}
    for room in plugins.ROOMS:
        catalog[room] = {}
        for name, cls in sorted(plugins.discover(room).items()):
            entry: dict[str, Any] = {"doc": inspect.getdoc(cls) or "", "schema": cls.Params.model_json_schema()}
            if needs := getattr(cls, "needs", None):
                entry["needs"] = sorted(needs)
            if room == "recipes":
                entry["stages"] = cls.stages
            catalog[room][name] = entry
    return catalog


def render() -> str:
    return json.dumps(build(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    TARGET.write_text(render())
