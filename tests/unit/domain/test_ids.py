import re
from concurrent.futures import ThreadPoolExecutor

from app.domain.ids import JOB, MODEL_REF, new_id


def test_ids_are_unique_and_sort_by_their_making() -> None:
    ids = [new_id(JOB) for _ in range(2000)]
    assert ids == sorted(set(ids))
    assert all(re.fullmatch(r"djob_[0-7][0-9A-HJKMNP-TV-Z]{25}", i) for i in ids)


def test_ids_are_unique_across_threads() -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda _: new_id(JOB), range(4000)))
    assert len(set(ids)) == 4000


def test_model_references() -> None:
    for ref, want in {"a": ("a", None, None), "a-b:12": ("a-b", "12", None), "a@prod": ("a", None, "prod")}.items():
        match = MODEL_REF.fullmatch(ref)
        assert match is not None
        assert (match["name"], match["version"], match["alias"]) == want
    for ref in ("", "A", "a:0", "a:1@b", "a/b", "a:", "a@", "../x", "a" * 64, "a:1\n"):
        assert MODEL_REF.fullmatch(ref) is None, ref
