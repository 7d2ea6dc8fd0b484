"""What an install brings: the requirements of the installed packages followed the way pip follows them."""

import re
from importlib import metadata

from packaging.requirements import Requirement


def closure(root: str, extra: str = "") -> set[str]:
    seen: set[tuple[str, str]] = set()
    todo = [(root, ""), (root, extra)]
    while todo:
        name, wanted = todo.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # excluded by a marker on this platform
            continue
        for requirement in map(Requirement, lines):
            if requirement.marker is None or requirement.marker.evaluate({"extra": wanted}):
                child = re.sub(r"[-_.]+", "-", requirement.name).lower()
                todo += [(child, ""), *((child, e) for e in requirement.extras)]
    return {name for name, _ in seen}
