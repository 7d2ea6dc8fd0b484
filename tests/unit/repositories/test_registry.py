"""Models, versions and aliases on both databases, and what a reference means."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from app.domain.db import Session, Sessions, reading, transaction
from app.domain.errors import Conflict, InUse, InvalidRequest, NotFound
from app.domain.models import ModelVersion
from app.domain.repositories.registry import Registry
from tests.conftest import OTHER_PROJECT, PROJECT


def add(session: Session, name: str = "m", project: str = PROJECT, **changes: Any) -> ModelVersion:
    values: dict[str, Any] = {
        "kind": "student", "task": "text-classification", "digest": "0" * 64, "manifest": {}, "bytes": 1, "params": None,
        "source_job_id": None, "base_model": None, "quality": {}, "provenance": {},
    }  # fmt: skip
    return Registry(session, project).add_version(name, **(values | changes))


def test_a_bare_name_is_production_then_default_then_the_newest(sessions: Sessions) -> None:
    with transaction(sessions) as session:
        registry = Registry(session, PROJECT)
        assert [add(session).version for _ in range(3)] == [1, 2, 3]
        assert registry.resolve("m")[1].version == 3
        registry.set_alias("m", "default", 2)
        assert registry.resolve("m")[1].version == 2
        registry.set_alias("m", "production", 1)
        assert registry.resolve("m")[1].version == 1
        assert registry.resolve("m:3")[1].version == 3
        assert registry.resolve("m@default")[1].version == 2
        registry.set_alias("m", "production", 3)
        assert registry.resolve("m")[1].version == 3
        assert registry.aliases_of(registry.get_model("m").id, 3) == ["production"]


@pytest.mark.parametrize("ref", ["", "M", "m:0", "m:99", "m:99999999999", "m@none", "n", "m:1@x", "../m", "m\0", "m:-1", "x" * 500])
def test_unknown_references_are_not_found(sessions: Sessions, ref: str) -> None:
    with transaction(sessions) as session:
        add(session)
    with reading(sessions) as session, pytest.raises(NotFound) as caught:
        Registry(session, PROJECT).resolve(ref)
    assert caught.value.code == "model_not_found"
    assert caught.value.hint


def test_another_project_sees_nothing(sessions: Sessions) -> None:
    with transaction(sessions) as session:
        add(session)
        Registry(session, PROJECT).set_alias("m", "production", 1)
    with transaction(sessions) as session:
        other = Registry(session, OTHER_PROJECT)
        assert other.models() == []
        for act in (
            lambda: other.resolve("m"),
            lambda: other.get_model("m"),
            lambda: other.versions("m"),
            lambda: other.set_alias("m", "mine", 1),
            lambda: other.delete_alias("m", "production"),
            lambda: other.delete_version("m", 1),
            lambda: other.delete_model("m"),
            lambda: other.describe("m", "x"),
        ):
            with pytest.raises(NotFound):
                act()
        assert add(session, project=OTHER_PROJECT).version == 1, "names are each project's own"


def test_numbers_do_not_come_back_and_aliased_versions_stay(sessions: Sessions) -> None:
    with transaction(sessions) as session:
        registry = Registry(session, PROJECT)
        add(session), add(session)
        registry.set_alias("m", "production", 2)
        with pytest.raises(InUse, match="m@production"):
            registry.delete_version("m", 2)
        with pytest.raises(InUse):
            registry.delete_model("m")
        registry.delete_alias("m", "production")
        with pytest.raises(NotFound):
            registry.delete_alias("m", "production")
        registry.delete_version("m", 2)
        assert add(session).version == 3
        registry.delete_model("m")
        with pytest.raises(NotFound):
            registry.get_model("m")


@pytest.mark.parametrize("name", ["", "Upper", "with space", "../x", "-x", "a/b", "x" * 64, "é"])
def test_names(sessions: Sessions, name: str) -> None:
    with transaction(sessions) as session:
        with pytest.raises(InvalidRequest):
            Registry(session, PROJECT).create_model(name)
        with pytest.raises(InvalidRequest):
            add(session, name)


def test_a_model_is_made_once(sessions: Sessions) -> None:
    with transaction(sessions) as session:
        Registry(session, PROJECT).create_model("m", "first")
    with transaction(sessions) as session, pytest.raises(Conflict):
        Registry(session, PROJECT).create_model("m", "second")
    with transaction(sessions) as session:
        assert add(session).version == 1
        assert Registry(session, PROJECT).get_model("m").description == "first"


def test_versions_added_at_once_get_numbers_of_their_own(sessions: Sessions) -> None:
    def one(_: int) -> int:
        with transaction(sessions) as session:
            return add(session).version

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(one, range(24))) == list(range(1, 25))


def test_pages_forwards_and_backwards(sessions: Sessions) -> None:
    with transaction(sessions) as session:
        for n in range(5):
            Registry(session, PROJECT).create_model(f"m{n}")
    with reading(sessions) as session:
        registry = Registry(session, PROJECT)
        first, more = registry.page(2)
        assert ([m.name for m in first], more) == (["m4", "m3"], True)
        second, more = registry.page(2, after=first[-1].id)
        assert ([m.name for m in second], more) == (["m2", "m1"], True)
        back, more = registry.page(2, before=second[0].id)
        assert ([m.name for m in back], more) == (["m4", "m3"], False)
        up, more = registry.page(10, order="asc")
        assert ([m.name for m in up], more) == ([f"m{n}" for n in range(5)], False)
        with pytest.raises(InvalidRequest) as caught:
            registry.page(2, after="mdl_unknown")
        assert caught.value.param == "after"
