"""POST /v1/compare over real HTTP, with real students; its figures against what the other endpoints answer, row by row."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import jsonschema
import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from app.domain.db import Sessions
from app.domain.storage import BlobStore
from app.services.files import FileService
from app.settings import Settings
from tests.conftest import OTHER_PROJECT, PROJECT
from tests.fixtures.inference import Endpoint, ask, endpoint, key_for, publish
from tests.fixtures.students import LABELS, WORDS

IOB = ("O", "B-CARD", "I-CARD")
SCOPES = ["inference", "files:read", "models:write"]
STUDENTS: dict[str, dict[str, Any]] = {
    "support": {},
    "stars": {"problem": "regression", "labels": ("stars",)},
    "topics": {"problem": "multi_label"},
    "duplicates": {"problem": "single_label", "pairs": True, "types": True},
    "names": {"problem": "tokens", "labels": IOB, "max_length": 16},
    "vectors": {"problem": "embedding"},
    "cross": {"problem": "ranking", "pairs": True, "scorer": "cross_encoder", "types": True},
}
Upload = Callable[..., str]


@pytest.fixture(scope="module")
def serve(settings: Settings, sessions: Sessions, blobs: BlobStore) -> Iterator[Endpoint]:
    """Two versions of every student, which answer differently."""
    for name, options in STUDENTS.items():
        for seed in (0, 1):
            publish(sessions, blobs, PROJECT, name, seed=seed, **options)
    publish(sessions, blobs, PROJECT, "bi", problem="ranking", scorer="bi_encoder")
    publish(sessions, blobs, PROJECT, "more", seed=3, labels=("extra", *LABELS[::-1]))
    publish(sessions, blobs, PROJECT, "other-labels", labels=("x", "y"))
    publish(sessions, blobs, PROJECT, "broken", poison=True)
    publish(sessions, blobs, PROJECT, "masked", problem="masked_lm")
    publish(sessions, blobs, PROJECT, "source", kind="teacher")
    with endpoint(settings, key_for(sessions, settings, PROJECT, SCOPES)) as made:
        yield made


@pytest.fixture(scope="module")
def upload(sessions: Sessions, blobs: BlobStore) -> Upload:
    def store(rows: list[dict[str, Any]] | bytes, name: str = "rows.jsonl", project: str = PROJECT) -> str:
        content = rows if isinstance(rows, bytes) else "\n".join(json.dumps(row) for row in rows).encode()
        service = FileService(sessions, blobs, project)
        with service.receiving(2**20) as upload:
            upload.write(content)
            return service.store(service.check(upload, name, "eval")).id

    return store


def texts(count: int, seed: int = 0, words: int = 6) -> list[str]:
    rng = np.random.default_rng(seed)
    usable = sorted(set(WORDS) - {"poison"})
    return [" ".join(rng.choice(usable, size=words)) for _ in range(count)]


def compare(serve: Endpoint, name: str, file: str, **more: Any) -> dict[str, Any]:
    models = more.pop("models", [f"{name}:1", f"{name}:2"])
    answer = serve.client.post("/v1/compare", json={"models": models, "file": file, **more})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert found["object"] == "comparison"
    assert [m["rows_per_second"] > 0 for m in found["models"]] == [True, True]
    first, second = found["models"]
    assert found["difference"]["value"] == pytest.approx(second["quality"] - first["quality"])
    low, high = found["difference"]["ci95"]
    assert low <= found["difference"]["value"] <= high
    assert found["difference"]["significant"] == (low > 0 or high < 0)
    return found


def refused(serve: Endpoint, status: int, **body: Any) -> dict[str, Any]:
    answer = serve.client.post("/v1/compare", json=body)
    assert answer.status_code == status, answer.text
    return dict(answer.json()["error"])


def likeliest(serve: Endpoint, model: str, given: list[Any]) -> list[str]:
    return [entry["label"] for entry in ask(serve, "classify", model=model, input=given, top_k=1)["data"]]


def test_two_versions_of_a_classifier(serve: Endpoint, upload: Upload) -> None:
    given = texts(120)
    first, second = likeliest(serve, "support:1", given), likeliest(serve, "support:2", given)
    gold = [a if n % 2 else b for n, (a, b) in enumerate(zip(first, second, strict=True))]
    gold[:30] = second[:30]
    rows = [{"text": t, "label": g} for t, g in zip(given, gold, strict=True)]
    found = compare(serve, "support", upload([*rows, {"text": "no label"}, {"text": "none either", "label": None}]))
    right = [np.array(answers) == np.array(gold) for answers in (first, second)]
    assert (found["metric"], found["rows"]) == ("accuracy", 120)
    assert [m["model"] for m in found["models"]] == ["support:1", "support:2"]
    assert [m["quality"] for m in found["models"]] == pytest.approx([r.mean() for r in right])
    assert found["agreement"] == pytest.approx(np.mean(np.array(first) == np.array(second)))
    assert found["only_first_right"] == pytest.approx((right[0] & ~right[1]).mean())
    assert found["only_second_right"] == pytest.approx((right[1] & ~right[0]).mean())
    for model in found["models"]:
        assert model["ci95"][0] <= model["quality"] <= model["ci95"][1]


def test_a_model_against_itself_is_the_same(serve: Endpoint, upload: Upload) -> None:
    rows = [{"text": t, "label": LABELS[n % 5]} for n, t in enumerate(texts(40))]
    found = compare(serve, "", upload(rows), models=["support:2", "support"])
    assert found["difference"] == {"value": 0, "ci95": [0, 0], "significant": False}
    assert (found["agreement"], found["only_first_right"], found["only_second_right"]) == (1, 0, 0)
    assert [m["model"] for m in found["models"]] == ["support:2", "support:2"]


def test_the_cache_is_neither_read_nor_written(serve: Endpoint, upload: Upload) -> None:
    given = texts(12, seed=77)
    compare(serve, "support", upload([{"text": t, "label": LABELS[0]} for t in given]))
    answer = serve.client.post("/v1/classify", json={"model": "support:1", "input": given})
    assert answer.headers["x-cache-hits"] == "0"


def test_labels_are_matched_by_name_not_by_number(serve: Endpoint, upload: Upload) -> None:
    """`more` knows a label more, and all of them in another order."""
    answers = dict(zip(texts(80, seed=4), likeliest(serve, "more", texts(80, seed=4)), strict=True))
    gold = {text: label for text, label in answers.items() if label != "extra"}
    assert 5 < len(gold) < 80
    file = upload([{"text": text, "label": label} for text, label in gold.items()])
    found = compare(serve, "", file, models=["more", "support"])
    assert found["models"][0]["quality"] == 1
    right = [a == g for a, g in zip(likeliest(serve, "support", [*gold]), gold.values(), strict=True)]
    assert found["models"][1]["quality"] == pytest.approx(np.mean(right))


def test_columns_have_other_names_and_files_other_formats(serve: Endpoint, upload: Upload) -> None:
    given = texts(20, seed=5)
    gold = likeliest(serve, "support:1", given)
    lines = ["question;intent", *(f"{t};{g}" for t, g in zip(given, gold, strict=True))]
    file = upload("\n".join(lines).encode(), "rows.csv")
    found = compare(serve, "support", file, text="question", label="intent")
    assert found["models"][0]["quality"] == 1
    assert found["rows"] == 20


def test_of_many_rows_some_are_drawn_and_always_the_same(serve: Endpoint, upload: Upload) -> None:
    rows = [{"text": t, "label": LABELS[n % 5]} for n, t in enumerate(texts(90, seed=6))]
    file = upload(rows)
    once, again = (compare(serve, "support", file, max_items=30) for _ in range(2))
    for answer in (once, again):
        for model in answer["models"]:
            model.pop("rows_per_second")
    assert once == again
    assert once["rows"] == 30


def test_several_labels(serve: Endpoint, upload: Upload) -> None:
    given = texts(40, seed=7)
    gold = [[LABELS[n % 5], LABELS[(n + 2) % 5]][: n % 3] for n in range(40)]
    found = compare(serve, "topics", upload([{"text": t, "label": g} for t, g in zip(given, gold, strict=True)]))
    truth = [[int(label in g) for label in LABELS] for g in gold]
    for n, model in enumerate(("topics:1", "topics:2")):
        answers = ask(serve, "classify", model=model, input=given, top_k=9)["data"]
        chosen = [{s["label"] for s in entry["scores"] if s["score"] > 0.5} for entry in answers]
        predicted = [[int(label in c) for label in LABELS] for c in chosen]
        assert found["models"][n]["quality"] == pytest.approx(metrics.f1_score(truth, predicted, average="micro"))
    assert found["metric"] == "micro_f1"


def test_numbers(serve: Endpoint, upload: Upload) -> None:
    given = texts(40, seed=8)
    gold = np.round(np.random.default_rng(0).normal(size=40), 1)
    found = compare(serve, "stars", upload([{"text": t, "label": float(g)} for t, g in zip(given, gold, strict=True)]))
    for n, model in enumerate(("stars:1", "stars:2")):
        answers = [entry["score"] for entry in ask(serve, "classify", model=model, input=given)["data"]]
        assert found["models"][n]["quality"] == pytest.approx(stats.spearmanr(answers, gold).statistic)
    assert (found["metric"], found["only_first_right"]) == ("spearman", None)


def test_pairs(serve: Endpoint, upload: Upload) -> None:
    one, other = texts(30, seed=9), texts(30, seed=10)
    pairs = [{"text": a, "text_b": b} for a, b in zip(one, other, strict=True)]
    gold = likeliest(serve, "duplicates:2", pairs)
    rows = [{"a": p["text"], "b": p["text_b"], "label": g} for p, g in zip(pairs, gold, strict=True)]
    found = compare(serve, "duplicates", upload(rows), text="a", text_b="b")
    assert found["models"][1]["quality"] == 1
    expected = np.mean([a == g for a, g in zip(likeliest(serve, "duplicates:1", pairs), gold, strict=True)])
    assert found["models"][0]["quality"] == pytest.approx(expected)


def test_vectors_are_judged_by_the_similarity_of_pairs(serve: Endpoint, upload: Upload) -> None:
    one, other = texts(30, seed=11), texts(30, seed=12)
    gold = np.round(np.random.default_rng(1).random(30), 1)
    rows = [{"text": a, "text_b": b, "label": float(g)} for a, b, g in zip(one, other, gold, strict=True)]
    found = compare(serve, "vectors", upload(rows), text_b="text_b")
    for n, model in enumerate(("vectors:1", "vectors:2")):
        u, v = (np.array([d["embedding"] for d in ask(serve, "embeddings", model=model, input=t)["data"]]) for t in (one, other))
        expected = stats.spearmanr((u * v).sum(1), gold).statistic
        assert found["models"][n]["quality"] == pytest.approx(expected, abs=1e-6)


def test_rankers_of_both_kinds(serve: Endpoint, upload: Upload) -> None:
    queries, rng = texts(12, seed=13), np.random.default_rng(2)
    groups = [texts(int(rng.integers(2, 30)), seed=20 + n) for n in range(12)]
    gold = [[int(g) for g in rng.integers(0, 3, len(documents))] for documents in groups]
    rows = [{"text": q, "documents": d, "label": g} for q, d, g in zip(queries, groups, gold, strict=True)]
    found = compare(serve, "", upload(rows), models=["cross:1", "bi"])
    assert found["metric"] == "ndcg_at_10"
    for n, model in enumerate(("cross:1", "bi")):
        expected = []
        for query, documents, grades in zip(queries, groups, gold, strict=True):
            ranked = ask(serve, "rerank", model=model, query=query, documents=documents)["results"]
            scores = np.empty(len(documents))
            for result in ranked:
                scores[result["index"]] = result["relevance_score"]
            if any(grades):
                expected.append(metrics.ndcg_score([grades], [scores], k=10))
        assert found["models"][n]["quality"] == pytest.approx(np.mean(expected), abs=1e-6)


def test_words(serve: Endpoint, upload: Upload) -> None:
    given = [t.split() for t in texts(25, seed=14, words=5)]
    entities = ask(serve, "classify", model="names:1", input=[" ".join(words) for words in given])["data"]
    gold = []
    for words, entry in zip(given, entities, strict=True):
        starts = np.cumsum([0, *(len(w) + 1 for w in words)])[:-1].tolist()
        tags = ["O"] * len(words)
        for entity in entry["entities"]:
            inside = [n for n, s in enumerate(starts) if entity["start"] <= s < entity["end"]]
            for n in inside:
                tags[n] = ("B-" if n == inside[0] else "I-") + entity["label"]
        gold.append(tags)
    assert any(tag != "O" for tags in gold for tag in tags)
    rows = [{"text": words, "label": tags} for words, tags in zip(given, gold, strict=True)]
    found = compare(serve, "names", upload(rows))
    assert found["metric"] == "entity_f1"
    assert found["models"][0]["quality"] == 1
    assert found["models"][1]["quality"] < 1


@pytest.fixture(scope="module")
def good(upload: Upload) -> str:
    return upload([{"text": t, "text_b": t, "label": LABELS[n % 5], "n": 1} for n, t in enumerate(texts(10))])


@pytest.mark.parametrize(
    ("changes", "status", "code", "param"),
    [
        ({"models": ["support:1"]}, 400, "invalid_parameter", "models"),
        ({"models": ["support:1", "support:2", "support:1"]}, 400, "invalid_parameter", "models"),
        ({"models": "support"}, 400, "invalid_parameter", "models"),
        ({"models": ["support:1", "nothing"]}, 404, "model_not_found", "models[1]"),
        ({"models": ["support:9", "support:1"]}, 404, "model_not_found", "models[0]"),
        ({"models": ["support:1", "a b"]}, 404, "model_not_found", "models[1]"),
        ({"models": ["source", "support:1"]}, 400, "unsupported_method", "models[0]"),
        ({"models": ["support", "stars"]}, 400, "unsupported_method", "models"),
        ({"models": ["support", "duplicates"]}, 400, "unsupported_method", "models"),
        ({"models": ["masked", "masked"]}, 400, "unsupported_method", "models[0]"),
        ({"models": ["duplicates:1", "duplicates:2"]}, 400, "missing_parameter", "text_b"),
        ({"models": ["vectors:1", "vectors:2"]}, 400, "missing_parameter", "text_b"),
        ({"text_b": "text_b"}, 400, "invalid_parameter", "text_b"),
        ({"models": ["support", "other-labels"]}, 400, "dataset_invalid", "label"),
        ({"file": "file-nothing"}, 404, "file_not_found", "file"),
        ({"file": "../../etc/passwd\0"}, 404, "file_not_found", "file"),
        ({"file": None}, 400, "invalid_parameter", "file"),
        ({"text": "absent"}, 400, "dataset_invalid", "text"),
        ({"label": "absent"}, 400, "dataset_invalid", "label"),
        ({"models": ["topics:1", "topics:2"]}, 400, "dataset_invalid", "label"),
        ({"models": ["stars:1", "stars:2"], "label": "n"}, 400, "dataset_invalid", "label"),
        ({"max_items": 0}, 400, "invalid_parameter", "max_items"),
        ({"max_items": 1e9}, 400, "invalid_parameter", "max_items"),
        ({"max_items": 2049}, 400, "invalid_parameter", "max_items"),
        ({"nonsense": 1}, 400, "unknown_parameter", "nonsense"),
    ],
)
def test_what_cannot_be_compared_says_why(
    serve: Endpoint, good: str, changes: dict[str, Any], status: int, code: str, param: str
) -> None:
    error = refused(serve, status, **{"models": ["support:1", "support:2"], "file": good, **changes})
    assert (error["code"], error["param"]) == (code, param), error
    assert error["message"]
    assert error["hint"]


def test_an_unknown_label_is_named_with_its_line_and_the_known_ones(serve: Endpoint, upload: Upload) -> None:
    file = upload([{"text": "refund", "label": "refund"}, {"text": "refund", "label": "<b>typo"}])
    error = refused(serve, 400, models=["support:1", "support:2"], file=file)
    assert "Line 2" in error["message"]
    assert "<b>typo" in error["message"]
    assert "card_arrival" in error["hint"]


def test_a_bad_row_is_named(serve: Endpoint, upload: Upload) -> None:
    file = upload(b'{"text": "refund", "label": "refund"}\n{"text": 7, "label": "refund"}\n')
    error = refused(serve, 400, models=["support:1", "support:2"], file=file)
    assert (error["code"], error["param"]) == ("dataset_invalid", "text")
    assert error["message"].startswith("Line 2: ")
    assert error["details"][0]["line"] == 2
    broken = upload(b'{"text": "refund", "label": "refund"}\n{"text": \n')
    assert refused(serve, 400, models=["support:1", "support:2"], file=broken)["message"].startswith("Line 2: ")


def test_a_file_without_labels_says_which_columns_it_has(serve: Endpoint, upload: Upload) -> None:
    error = refused(serve, 400, models=["support:1", "support:2"], file=upload([{"text": "refund", "intent": "refund"}]))
    assert error["param"] == "label"
    assert "intent" in error["hint"]


def test_a_row_that_a_model_cannot_answer_is_named(serve: Endpoint, upload: Upload) -> None:
    file = upload([{"text": "refund", "label": "refund"}, {"text": "poison", "label": "refund"}])
    error = refused(serve, 500, models=["support:1", "broken"], file=file)
    assert (error["code"], error["param"]) == ("inference_failed", "file[2]")


def test_files_of_other_projects_do_not_exist(serve: Endpoint, upload: Upload) -> None:
    file = upload([{"text": "refund", "label": "refund"}], project=OTHER_PROJECT)
    assert refused(serve, 404, models=["support:1", "support:2"], file=file)["code"] == "file_not_found"


def test_a_key_needs_both_scopes(serve: Endpoint, good: str, sessions: Sessions, settings: Settings) -> None:
    for scopes in (["inference"], ["files:read"]):
        key = key_for(sessions, settings, PROJECT, scopes)
        body = {"models": ["support:1", "support:2"], "file": good}
        answer = httpx.post(f"{serve.url}/v1/compare", json=body, headers={"Authorization": f"Bearer {key}"}, timeout=30)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "missing_scope")


def test_the_document_describes_it(serve: Endpoint) -> None:
    document = serve.client.get("/openapi.json").json()
    operation = document["paths"]["/v1/compare"]["post"]
    content = operation["requestBody"]["content"]["application/json"]
    for example in content["examples"].values():
        jsonschema.validate(example["value"], content["schema"])
    assert set(content["schema"]["required"]) == {"models", "file"}
    assert {"200", "400", "401", "403", "404", "429", "503"} <= set(operation["responses"])
    assert operation["security"] == [{"bearer": []}]
