"""Nonsense for every operation of the OpenAPI document: never a 500, always a problem that names a code."""

import json
import random
from typing import Any

import pytest

from tests.fixtures.api import Api

NASTY: list[Any] = [
    None, True, 0, -1, 2**63, 2**64, 1e308, "", " ", "\0", "\ud800", "x" * 5000, "../../etc/passwd", "'; DROP TABLE jobs; --",
    [], [None], {}, {"": ""}, {"a": {"b": [1, {"c": None}]}}, [[[[[]]]]],
]  # fmt: skip
BODIES = [b"", b"null", b"[]", b'"x"', b"{", b"\xff\xfe", b'{"a": 1e999}', b'{"a": NaN}', b"[" * 20_000, b'{"\\ud800": 1}', b"{}"]
PATHS = ["x", "%00", "..%2f..%2fx", "%ff", "a" * 3000, "%F0%9F%92%A9", "-1", "djob_" + "0" * 26, "'"]
QUERIES = ["limit=-1", "limit=1e9", "limit=", "after=%00", "before=%ff", "order=%00", "status=x", "metadata[%00]=%00"]
QUERIES += ["types=,,", "created_after=nan", "created_before=-1e400", "metadata[]=x", "format=exe", "x=y", "purpose=%00"]
QUERIES += ["after=99999999999999999999", "name=%00", "model=%ff"]
VERBS = ("get", "post", "put", "patch", "delete")


def operations(api: Api) -> list[tuple[str, str, dict[str, Any]]]:
    paths = api.app.openapi()["paths"]
    return [(verb, path, item[verb]) for path, item in paths.items() for verb in VERBS if verb in item]


def fill(path: str, value: str) -> str:
    while "{" in path:
        start, end = path.index("{"), path.index("}")
        path = path[:start] + value + path[end + 1 :]
    return path


def judge(answer: Any, *said: object) -> None:
    assert answer.status_code < 500 or answer.url.path == "/readyz", (*said, answer.text)
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json", said
        assert answer.json()["error"]["code"], said


def test_paths_and_queries(api: Api) -> None:
    for verb, path, _ in operations(api):
        for value in PATHS if "{" in path else ["x"]:
            judge(api.client.request(verb, fill(path, value)), verb, path, value[:40])
        for query in QUERIES if verb == "get" else []:
            judge(api.client.get(f"{fill(path, 'x')}?{query}"), path, query)


def test_bodies_that_are_no_json(api: Api) -> None:
    for verb, path, operation in operations(api):
        if "requestBody" in operation:
            for body in BODIES:
                judge(api.client.request(verb, fill(path, "x"), content=body), verb, path, body[:40])


def mutate(value: Any, chance: random.Random) -> Any:
    """One place of an example replaced, removed, or given a strange neighbour."""
    if not isinstance(value, dict | list) or not value or chance.random() < 0.2:
        return chance.choice(NASTY)
    if isinstance(value, list):
        n = chance.randrange(len(value))
        return [mutate(item, chance) if i == n else item for i, item in enumerate(value)]
    name = chance.choice([*value])
    if chance.random() < 0.15:
        return {k: v for k, v in value.items() if k != name}
    if chance.random() < 0.15:
        return {**value, chance.choice(["x", "__class__", "", "\0", "type", "model"]): chance.choice(NASTY)}
    return {**value, name: mutate(value[name], chance)}


@pytest.mark.parametrize("seed", range(2))
def test_mutated_examples(api: Api, seed: int) -> None:
    chance = random.Random(seed)
    file_id = api.rows()
    for verb, path, operation in operations(api):
        content = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if content is None:
            continue
        examples = [e["value"] for e in content["examples"].values()]
        for example in examples:
            if "data" in example:
                example = {
                    **example,
                    "data": {"training_file": file_id},
                    "teacher": {"source": "local", "model": "tiny", "finetune": {}},
                }
            for _ in range(max(12, 40 // len(examples))):
                body = json.dumps(mutate(example, chance)).encode()
                judge(api.client.request(verb, fill(path, "x"), content=body), verb, path, body[:300])


def test_headers(api: Api) -> None:
    for name in (
        "Range",
        "If-Range",
        "If-None-Match",
        "Last-Event-ID",
        "Idempotency-Key",
        "x-request-id",
        "Content-Type",
        "Accept",
    ):
        for value in ("", "\xff", "x" * 4000, "bytes=-", "bytes=99999999999999999999-", "W/\"'", "0", "-1", "a, b, c"):
            headers = {name: value.encode("latin-1")}
            file_id = api.client.get("/v1/files").json()["first_id"] or api.rows()
            judge(api.client.get(f"/v1/files/{file_id}/content", headers=headers), name, value[:40])
            judge(api.client.get("/v1/distillation/jobs/x/events/stream", headers=headers), name, value[:40])
            judge(api.client.post("/v1/registry/models", content=b'{"name": "m"}', headers=headers), name, value[:40])
