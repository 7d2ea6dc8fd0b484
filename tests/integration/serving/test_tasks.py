"""Students of every encoder task over real HTTP; what they answer is computed again from the graph, in float64."""

from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import numpy as np
import onnxruntime
import openai
import pytest
import redis
from numpy.typing import NDArray
from tokenizers import Tokenizer

from app.domain.db import Sessions
from app.domain.storage import BlobStore
from app.serving.backends.base import Outputs, Text, Tokens
from app.serving.shared_cache import PREFIX
from app.serving.words import words
from app.settings import Settings
from tests.conftest import PROJECT
from tests.fixtures.inference import Endpoint, ask, endpoint, key_for, publish
from tests.fixtures.servers import RedisServer
from tests.fixtures.students import LABELS, WORDS

TEXT, OTHER = "my card has not arrived yet", "refund my money"
DOCUMENTS = ["refund ok", TEXT, "the transfer is pending", "top up failed again", "cash machine kept money"]
IOB = ("O", "B-CARD", "I-CARD", "B-CASH", "I-CASH")
STUDENTS: dict[str, dict[str, Any]] = {
    "topics": {"problem": "multi_label"},
    "stars": {"problem": "regression", "labels": ("stars",)},
    "duplicates": {"problem": "single_label", "pairs": True, "types": True},
    "similarity": {"problem": "regression", "pairs": True},
    "names": {"problem": "tokens", "labels": IOB, "max_length": 16},
    "vectors": {"problem": "embedding"},
    "words": {"problem": "masked_lm"},
    "cross": {"problem": "ranking", "pairs": True, "scorer": "cross_encoder", "types": True},
    "bi": {"problem": "ranking", "scorer": "bi_encoder"},
    "support": {},
}


@pytest.fixture(scope="module")
def serve(settings: Settings, sessions: Sessions, blobs: BlobStore) -> Iterator[Endpoint]:
    """One for all tests here: none of them changes it."""
    for name, options in STUDENTS.items():
        publish(sessions, blobs, PROJECT, name, **options)
    with endpoint(settings, key_for(sessions, settings, PROJECT)) as made:
        yield made


def graph(serve: Endpoint, blobs: BlobStore, model: str, given: Any, output: str) -> NDArray[np.float64]:
    """What the artifact's graph says of one text, pair or list of words, without our serving."""
    folder = blobs.artifact(serve.client.get(f"/v1/models/{model}").json()["digest"].removeprefix("sha256:"))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    pair = isinstance(given, tuple)
    encoding = tokenizer.encode(*given) if pair else tokenizer.encode(given, is_pretokenized=isinstance(given, list))
    session = onnxruntime.InferenceSession(str(folder / "onnx" / "model.onnx"), providers=["CPUExecutionProvider"])
    feed = {"input_ids": encoding.ids, "attention_mask": encoding.attention_mask, "token_type_ids": encoding.type_ids}
    wanted = {i.name: np.array([feed[i.name]], np.int64) for i in session.get_inputs()}
    return np.asarray(session.run([output], wanted)[0][0], np.float64)


def refused(serve: Endpoint, path: str, **body: Any) -> dict[str, Any]:
    answer = serve.client.post(f"/v1/{path}", json=body)
    assert answer.status_code == 400, answer.text
    return dict(answer.json()["error"])


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def sigmoid(logits: Any) -> Any:
    return 1 / (1 + np.exp(-logits))


def test_several_labels_each_have_a_probability_of_their_own(serve: Endpoint, blobs: BlobStore) -> None:
    body = ask(serve, "classify", model="topics", input=[TEXT, OTHER], top_k=99)
    for text, entry in zip((TEXT, OTHER), body["data"], strict=True):
        expected = dict(zip(LABELS, sigmoid(graph(serve, blobs, "topics", text, "logits")), strict=True))
        assert {s["label"]: s["score"] for s in entry["scores"]} == pytest.approx(expected, abs=1e-5)
        scores = [s["score"] for s in entry["scores"]]
        assert scores == sorted(scores, reverse=True)
        assert (entry["label"], entry["score"]) == (entry["scores"][0]["label"], scores[0])
    assert len(ask(serve, "classify", model="topics", input=TEXT, top_k=2)["data"][0]["scores"]) == 2


def test_a_regression_answers_its_number(serve: Endpoint, blobs: BlobStore) -> None:
    body = ask(serve, "classify", model="stars", input=[TEXT, OTHER])
    expected = [graph(serve, blobs, "stars", text, "logits")[0] for text in (TEXT, OTHER)]
    assert [entry["score"] for entry in body["data"]] == pytest.approx(expected, abs=1e-5)
    assert [set(entry) for entry in body["data"]] == [{"index", "score"}] * 2


def test_pairs_are_judged_in_their_order_and_cached_by_where_they_part(serve: Endpoint, blobs: BlobStore) -> None:
    pairs = [("my card", "has arrived"), ("my card has", "arrived"), ("has arrived", "my card")]
    items = [{"text": a, "text_b": b} for a, b in pairs]
    for _ in range(2):
        body = ask(serve, "classify", model="duplicates", input=items, top_k=99)
        for pair, entry in zip(pairs, body["data"], strict=True):
            expected = softmax(graph(serve, blobs, "duplicates", pair, "logits"))
            assert {s["label"]: s["score"] for s in entry["scores"]} == pytest.approx(
                dict(zip(LABELS, expected, strict=True)), abs=1e-5
            )
    answer = serve.client.post("/v1/classify", json={"model": "duplicates", "input": [*items, {"text": "x", "text_b": "y"}]})
    assert answer.headers["x-cache-hits"] == "3"
    single = ask(serve, "classify", model="duplicates", input=items[2])
    assert single["data"][0]["score"] == body["data"][2]["score"]
    assert single["usage"]["prompt_tokens"] == 3 + 4
    number = ask(serve, "classify", model="similarity", input=items[0])["data"][0]["score"]
    assert number == pytest.approx(graph(serve, blobs, "similarity", pairs[0], "logits")[0], abs=1e-5)


def test_a_long_pair_loses_the_end_of_its_longer_text(serve: Endpoint, blobs: BlobStore) -> None:
    long = " ".join(WORDS * 2)
    answer = serve.client.post("/v1/classify", json={"model": "duplicates", "input": {"text": "my card", "text_b": long}})
    assert answer.headers["x-truncated-inputs"] == "1"
    assert answer.json()["usage"]["prompt_tokens"] == 64
    kept = " ".join((WORDS * 2)[: 64 - 3 - 2])
    expected = softmax(graph(serve, blobs, "duplicates", ("my card", kept), "logits"))
    assert answer.json()["data"][0]["score"] == pytest.approx(expected.max(), abs=1e-5)


@pytest.mark.parametrize(
    ("model", "given", "code", "param"),
    [
        ("duplicates", TEXT, "missing_parameter", "input.text_b"),
        ("duplicates", [{"text": "a", "text_b": "b"}, {"text": "a"}], "missing_parameter", "input[1].text_b"),
        ("duplicates", [{"text": "a", "text_b": 5}], "invalid_parameter", "input[0].text_b"),
        ("support", {"text": "a", "text_b": "b"}, "invalid_parameter", "input.text_b"),
        ("support", [{"text": ""}], "invalid_parameter", "input[0].text"),
        ("names", ["a", {"text": "a", "text_b": "b"}], "invalid_parameter", "input[1].text_b"),
        ("support", {"texts": "a"}, "unknown_parameter", "input.texts"),
    ],
)
def test_pairs_go_to_models_of_pairs_only(serve: Endpoint, model: str, given: Any, code: str, param: str) -> None:
    error = refused(serve, "classify", model=model, input=given)
    assert (error["code"], error["param"]) == (code, param)
    assert ask(serve, "classify", model="support", input={"text": TEXT}) == ask(serve, "classify", model="support", input=TEXT)


def test_words_become_entities_of_the_text(serve: Endpoint, blobs: BlobStore) -> None:
    texts = ["My  card, top-up\tfailed (again)!", "refund money from cash machine", "  ", "me-now, three four. ten ready " * 3]
    for _ in range(2):  # computed, then cached
        answer = serve.client.post("/v1/classify", json={"model": "names", "input": texts})
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-truncated-inputs"] == "1"
        data = answer.json()["data"]
        for n, text in enumerate(texts):
            spans = words(text)
            split = [text[a:b] for a, b in spans]
            tokens = [len(split_into_pieces(word)) for word in split]
            seen = sum(sum(tokens[: i + 1]) <= 16 - 2 or sum(tokens[:i]) < 16 - 2 for i in range(len(split)))
            expected = []
            if split:
                kept = [piece for word in split for piece in split_into_pieces(word)][: 16 - 2]
                logits = graph(serve, blobs, "names", kept, "logits")[1:-1]
                starts = np.cumsum([0, *tokens])[:seen]
                expected = merged(softmax(logits[starts]), spans[:seen], text)
            assert data[n]["index"] == n
            found = data[n]["entities"]
            assert [(e["label"], e["start"], e["end"]) for e in found] == [e[:3] for e in expected]
            assert [e["score"] for e in found] == pytest.approx([e[3] for e in expected], abs=1e-5)
            assert all(e["text"] == text[e["start"] : e["end"]] for e in found)
        assert sum(len(entry["entities"]) for entry in data) > 5
    assert answer.headers["x-cache-hits"] == "4"


def split_into_pieces(word: str) -> list[str]:
    """The fixture's tokenizer sets punctuation apart and has no sub-words: a piece is a letter run or a mark."""
    pieces = [""]
    for character in word:
        pieces += [character, ""] if not character.isalnum() else []
        if character.isalnum():
            pieces[-1] += character
    return [piece for piece in pieces if piece]


def merged(probabilities: NDArray[np.float64], spans: list[tuple[int, int]], text: str) -> list[tuple[str, int, int, float]]:
    groups: list[tuple[str, list[int]]] = []
    names = [IOB[n] for n in probabilities.argmax(1)]
    for n, name in enumerate(names):
        if name != "O" and name[0] == "I" and n and names[n - 1][2:] == name[2:]:
            groups[-1][1].append(n)
        elif name != "O":
            groups.append((name[2:], [n]))
    best = probabilities.max(1)
    return [(label, spans[ns[0]][0], spans[ns[-1]][1], float(best[ns].mean())) for label, ns in groups]


def test_a_cross_encoder_reads_the_query_with_each_document(serve: Endpoint, blobs: BlobStore) -> None:
    body = ask(serve, "rerank", model="cross", query=TEXT, documents=DOCUMENTS)
    assert (body["object"], body["model"]) == ("list", "cross:1")
    logits = np.array([graph(serve, blobs, "cross", (TEXT, document), "logits")[0] for document in DOCUMENTS])
    assert [r["index"] for r in body["results"]] == np.argsort(-logits).tolist()
    scores = [r["relevance_score"] for r in body["results"]]
    assert scores == pytest.approx(sorted(sigmoid(logits), reverse=True), abs=1e-5)
    assert all(set(r) == {"index", "relevance_score"} for r in body["results"])
    assert body["usage"]["prompt_tokens"] == sum(3 + 6 + len(document.split()) for document in DOCUMENTS)

    few = ask(serve, "rerank", model="cross", query=TEXT, documents=DOCUMENTS, top_n=2, return_documents=True)["results"]
    assert [(r["index"], r["relevance_score"]) for r in few] == [(r["index"], r["relevance_score"]) for r in body["results"]][:2]
    assert [r["document"] for r in few] == [{"text": DOCUMENTS[r["index"]]} for r in few]


@pytest.mark.parametrize("model", ["bi", "vectors", "words"])
def test_vectors_are_compared_and_shared_with_embeddings(serve: Endpoint, blobs: BlobStore, model: str) -> None:
    vectors = ask(serve, "embeddings", model=model, input=[TEXT, *DOCUMENTS[:2]])
    answer = serve.client.post("/v1/rerank", json={"model": model, "query": TEXT, "documents": DOCUMENTS})
    assert answer.headers["x-cache-hits"] == "3"
    exact = [graph(serve, blobs, model, text, "embedding") for text in (TEXT, *DOCUMENTS)]
    np.testing.assert_allclose([entry["embedding"] for entry in vectors["data"]], exact[:3], atol=1e-5)
    cosines = np.array([exact[0] @ vector / np.linalg.norm(exact[0]) / np.linalg.norm(vector) for vector in exact[1:]])
    found = {r["index"]: r["relevance_score"] for r in answer.json()["results"]}
    assert found == pytest.approx(dict(enumerate(cosines)), abs=1e-5)
    assert answer.json()["results"][0]["index"] == 1  # the query itself
    scores = [r["relevance_score"] for r in answer.json()["results"]]
    assert scores == sorted(scores, reverse=True)


def test_the_stock_openai_client_embeds_with_a_student_that_has_no_labels(serve: Endpoint) -> None:
    client = openai.OpenAI(base_url=f"{serve.url}/v1", api_key=serve.key, max_retries=0)
    for model in ("vectors", "bi", "words"):
        found = client.embeddings.create(model=model, input=[TEXT, OTHER])
        assert [np.linalg.norm(entry.embedding) for entry in found.data] == pytest.approx([1, 1], abs=1e-5)
    with pytest.raises(openai.BadRequestError, match="gives no embeddings"):
        client.embeddings.create(model="cross", input=TEXT)


@pytest.mark.parametrize(
    ("path", "model", "endpoints"),
    [
        ("classify", "vectors", ["rerank", "embeddings"]),
        ("classify", "cross", ["rerank"]),
        ("rerank", "support", ["classify", "embeddings"]),
        ("rerank", "names", ["classify"]),
        ("embeddings", "names", ["classify"]),
        ("embeddings", "duplicates", ["classify"]),
    ],
)
def test_a_model_asked_for_what_it_cannot_do_says_what_it_can(serve: Endpoint, path: str, model: str, endpoints: list[str]) -> None:
    asked = {"query": "a", "documents": ["b"]} if path == "rerank" else {"input": "a"}
    error = refused(serve, path, model=model, **asked)
    assert (error["code"], error["param"]) == ("unsupported_method", "model")
    assert [name for name in ("classify", "rerank", "embeddings") if f"/v1/{name}" in error["hint"]] == endpoints


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"query": None}, "missing_parameter", "query"),
        ({"query": ""}, "invalid_parameter", "query"),
        ({"query": ["a"]}, "invalid_parameter", "query"),
        ({"query": "a" * 100_001}, "context_length_exceeded", "query"),
        ({"documents": None}, "missing_parameter", "documents"),
        ({"documents": []}, "invalid_parameter", "documents"),
        ({"documents": "a"}, "invalid_parameter", "documents"),
        ({"documents": ["a", 5]}, "invalid_parameter", "documents[1]"),
        ({"documents": ["a", ""]}, "invalid_parameter", "documents[1]"),
        ({"documents": ["a", {"text": "b"}]}, "invalid_parameter", "documents[1]"),
        ({"documents": ["a"] * 2049}, "invalid_parameter", "documents"),
        ({"top_n": 0}, "invalid_parameter", "top_n"),
        ({"top_n": 1.5}, "invalid_parameter", "top_n"),
        ({"return_documents": 1}, "invalid_parameter", "return_documents"),
        ({"cache": "no"}, "invalid_parameter", "cache"),
        ({"model": None}, "missing_parameter", "model"),
        ({"topn": 3}, "unknown_parameter", "topn"),
    ],
)
def test_bad_rerank_requests_name_the_field(serve: Endpoint, change: dict[str, Any], code: str, param: str) -> None:
    error = refused(serve, "rerank", **{"model": "cross", "query": "a", "documents": ["b"], **change})
    assert (error["code"], error["param"]) == (code, param)


def test_a_document_that_fails_is_named(serve: Endpoint, sessions: Sessions, blobs: BlobStore) -> None:
    publish(sessions, blobs, PROJECT, "bad", poison=True, **STUDENTS["cross"])
    asked = {"model": "bad", "query": "my card", "documents": ["refund", "poison", "ok"]}
    answer = serve.client.post("/v1/rerank", json=asked)
    assert answer.status_code == 500
    assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == ("inference_failed", "documents[1]")


def test_a_vector_that_fails_is_named_as_query_or_document(serve: Endpoint, sessions: Sessions, blobs: BlobStore) -> None:
    publish(sessions, blobs, PROJECT, "fragile", seed=3, **STUDENTS["bi"])
    digest = serve.client.post("/v1/models/fragile/load").json()["digest"].removeprefix("sha256:")
    served = serve.plane.pool.peek(digest)
    assert served is not None
    backend = served.batcher._backend
    real = backend.prepare

    def prepare(texts: Sequence[Text]) -> list[Tokens]:
        if "poison" in texts:
            raise ValueError("no such text")
        return real(texts)

    backend.prepare = prepare  # type: ignore[method-assign]
    for query, documents, param in (("ok", ["refund", "poison"], "documents[1]"), ("poison", ["refund", "ok"], "query")):
        answer = serve.client.post("/v1/rerank", json={"model": "fragile", "query": query, "documents": documents})
        assert (answer.status_code, answer.json()["error"]["param"]) == (500, param)


def test_every_student_is_warm_healthy_and_shown(serve: Endpoint) -> None:
    bare = httpx.Client(base_url=serve.url)
    for name, options in STUDENTS.items():
        shown = serve.client.post(f"/v1/models/{name}/warm").json()
        assert shown["warm_seconds"] > 0, shown
        problem, pairs = options.get("problem", "single_label"), options.get("pairs", False)
        assert (shown["problem"], shown["pairs"]) == (problem, pairs)
        assert shown["batch"]["largest_difference"] < 1e-5
    assert len(serve.plane.pool.all()) >= len(STUDENTS)
    serve.plane._probed.clear()
    ready = bare.get("/readyz")
    assert ready.status_code == 200, ready.text


def test_replicas_share_entities_and_pairs(
    serve: Endpoint, settings: Settings, sessions: Sessions, redis_server: RedisServer
) -> None:
    shared = settings.model_copy(update={"redis_url": redis_server.url})
    key = key_for(sessions, settings, PROJECT)
    asked: list[tuple[str, Any]] = [
        ("names", [TEXT, "  ", OTHER]),
        ("duplicates", [{"text": "a b", "text_b": "c"}, {"text": "a", "text_b": "b c"}]),
    ]
    with endpoint(shared, key) as first, endpoint(shared, key) as second:
        for replica in (first, second):
            replica.until(lambda replica=replica: replica.plane.shared.up)
        truth = [ask(first, "classify", model=model, input=given) for model, given in asked]
        database = redis.Redis.from_url(redis_server.url)
        first.until(lambda: len(database.keys(PREFIX + b"*")) == sum(len(given) for _, given in asked))
        for model, _ in asked:
            assert second.client.post(f"/v1/models/{model}/load").status_code == 200

        def forward(rows: Sequence[Tokens]) -> Outputs:
            raise AssertionError("computed again")

        for served in second.plane.pool.all():
            served.batcher._backend.forward = forward  # type: ignore[method-assign]
        found = [ask(second, "classify", model=model, input=given) for model, given in asked]
        assert found == truth
