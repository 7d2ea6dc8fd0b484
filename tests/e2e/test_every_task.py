"""Every task, and every kind of teacher, student and scheme, through the real HTTP API with a real tiny model."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.fixtures import tasks
from tests.fixtures.cluster import Cluster, running
from tests.fixtures.tiny import make_tiny_teacher

pytestmark = pytest.mark.timeout(600)

MODEL = {"source": "local", "model": "tiny-teacher"}
FIT = {"epochs": 6, "learning_rate": 3e-3, "batch_size": 16}
NARROW = {"init": "teacher_layers", "layers": 1, "hidden_size": 16, "intermediate_size": 32}
SHORT = {"epochs": 3, "learning_rate": 3e-3, "batch_size": 16}
RESPONSE = {"type": "response", **SHORT}


# What an operator may add: one file in a folder with our rooms.
OWN_OBJECTIVE = '''
"""The gap between the two logits vectors."""

from typing import ClassVar

from torch import Tensor

from worker.objectives.base import Objective
from worker.rows import Batch
from worker.signals import Need, Signals


class OwnGap(Objective):
    """sum |z_S - z_T| / C. Source: this test."""

    name = "own_gap"
    needs: ClassVar[frozenset[Need]] = frozenset({"logits", "teacher"})

    def __call__(self, student: Signals, teacher: Signals | None, batch: Batch, x: float) -> Tensor:
        assert teacher is not None and student.logits_NC is not None and teacher.logits_NC is not None
        return (student.logits_NC - teacher.logits_NC).abs().float().mean(-1).sum()
'''


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "plugins" / "objectives").mkdir(parents=True)
    (folder / "plugins" / "objectives" / "own_gap.py").write_text(OWN_OBJECTIVE)
    with running(Cluster.embedded(folder, RETORT_PLUGINS_DIR=str(folder / "plugins"))) as up:
        make_tiny_teacher(up.folder / "models" / "tiny-teacher", layers=3)
        yield up


def job(cluster: Cluster, name: str, make: Any, spec: dict[str, Any], data: dict[str, Any], rows: int = 160) -> dict[str, Any]:
    """Submit, wait, and the succeeded job; `spec` and `data` are laid over a small default."""
    files = {
        f"{role}_file": cluster.upload(tasks.write(cluster.folder / f"{name}-{role}.jsonl", make, count, seed))
        for seed, (role, count) in enumerate((("training", rows), ("test", 60)))
    }
    body = {
        "name": name,
        "seed": 3,
        "teacher": MODEL,
        "student": NARROW,
        "data": {"max_length": 32, **files, **data},
        "output": {"model_name": name},
        "evaluation": {"baseline": False},
        **spec,
    }
    checked = cluster.api.post("/v1/distillation/validate", json=body).json()
    assert checked["valid"], checked["errors"]
    done = cluster.wait(cluster.submit(body)["id"])
    assert done["status"] == "succeeded", done["error"]
    return done


def infer(cluster: Cluster, path: str, **body: Any) -> Any:
    answer = cluster.serve.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_pairs_of_texts(cluster: Cluster) -> None:
    spec = {"task": "text-classification", "teacher": {**MODEL, "finetune": FIT}}
    spec |= {"recipe": RESPONSE}
    done = job(cluster, "pairs", tasks.pairs, spec, {"text_b": "text_b"})
    assert done["result"]["report"]["metric"] == "accuracy"
    body = infer(cluster, "/v1/classify", model="pairs", input=[{"text": "my card is lost", "text_b": "lost card please"}])
    assert {s["label"] for s in body["data"][0]["scores"]} == {"same", "other"}


def test_several_labels(cluster: Cluster) -> None:
    spec = {
        "task": "text-classification",
        "teacher": {**MODEL, "finetune": {**FIT, "epochs": 12}},
    }
    spec |= {"recipe": RESPONSE}
    done = job(cluster, "several", tasks.multi, spec, {"problem": "multi_label"})
    assert done["result"]["report"]["metric"] == "micro_f1"
    scores = infer(cluster, "/v1/classify", model="several", input="refund my flight", top_k=5)["data"][0]["scores"]
    assert len(scores) == 5
    assert all(0 <= s["score"] <= 1 for s in scores)


def test_a_number(cluster: Cluster) -> None:
    spec = {"task": "text-classification", "teacher": {**MODEL, "finetune": FIT}}
    spec |= {"recipe": RESPONSE}
    done = job(cluster, "number", tasks.number, spec, {"problem": "regression"})
    assert done["result"]["report"]["metric"] == "spearman"
    infer(cluster, "/v1/classify", model="number", input="balance account")


def test_words(cluster: Cluster) -> None:
    spec = {
        "task": "token-classification",
        "teacher": {**MODEL, "finetune": {**FIT, "epochs": 12}},
    }
    spec |= {"recipe": RESPONSE, "evaluation": {"baseline": True}}
    done = job(cluster, "words", tasks.tagged, spec, {"text": "tokens", "label": "tags"})
    assert done["result"]["report"]["metric"] == "entity_f1"
    assert done["result"]["report"]["baseline"]["quality"] >= 0
    infer(cluster, "/v1/classify", model="words", input="my card is lost")


def test_vectors(cluster: Cluster) -> None:
    done = job(cluster, "vectors", tasks.similar, {"task": "embedding"}, {"text_b": "text_b", "label": "score"})
    assert done["result"]["report"]["metric"] == "spearman"
    vectors = infer(cluster, "/v1/embeddings", model="vectors", input=["my card", "a flight"])["data"]
    assert [len(v["embedding"]) for v in vectors] == [16, 16]


@pytest.mark.parametrize(("teacher", "student"), [("cross_encoder", "cross_encoder"), ("cross_encoder", "bi_encoder")])
def test_rankers(cluster: Cluster, teacher: str, student: str) -> None:
    name = f"ranker-{student.partition('_')[0]}"
    spec = {"task": "ranking", "teacher": {**MODEL, "finetune": FIT}}
    spec |= {"ranking": {"teacher": teacher, "student": student}}
    done = job(cluster, name, tasks.ranked, spec, {"text": "query", "label": "relevance"})
    assert done["result"]["report"]["metric"] == "ndcg_at_10"
    ranked = infer(cluster, "/v1/rerank", model=name, query="lost card", documents=["a flight", "card stolen", "the hotel"])
    assert sorted(r["index"] for r in ranked["results"]) == [0, 1, 2]


def test_words_in_context(cluster: Cluster) -> None:
    fit = {**MODEL, "finetune": FIT}
    done = job(cluster, "context", tasks.text, {"task": "masked-lm", "teacher": fit, "recipe": {"type": "distilbert", **SHORT}}, {})
    assert done["result"]["report"]["metric"] == "mlm_accuracy"
    infer(cluster, "/v1/embeddings", model="context", input="my card")
    files = {file["name"] for file in cluster.api.get("/v1/registry/models/context/versions/1/artifacts").json()["data"]}
    assert {"onnx/model_int8.onnx", "onnx/model_int8_vectors.onnx"} <= files


METHODS: dict[str, dict[str, Any]] = {
    "features": {
        "stages": [
            {"name": "features", "objectives": [{"type": "hidden_mse"}, {"type": "attention_mse"}], **SHORT},
            {"name": "output", "objectives": [{"type": "response"}, {"type": "hard_label"}], **SHORT},
        ]
    },
    "self": {
        "stages": [
            {"name": "first", "objectives": [{"type": "hard_label"}], **SHORT},
            {"name": "second", "restart": True, "teacher": {"type": "previous"}, "objectives": [{"type": "response"}], **SHORT},
            {"name": "third", "teacher": {"type": "ema"}, "objectives": [{"type": "response"}, {"type": "hard_label"}], **SHORT},
            {"name": "peers", "teacher": {"type": "mutual"}, "objectives": [{"type": "response"}, {"type": "hard_label"}], **SHORT},
        ]
    },
    "lora": {
        "student": {"init": "teacher_layers", "layers": 2, "adapter": {"type": "lora", "r": 4}},
        "recipe": RESPONSE,
    },
    "trimmed": {
        "student": {**NARROW, "trim_vocabulary": True},
        "quantization": {"scheme": "int8_static"},
        "recipe": RESPONSE,
    },
    "static": {"student": {"init": "static", "hidden_size": 16}, "recipe": {"type": "static", **SHORT}},
    "qad": {"quantization": {"scheme": "int8_qat", "min_elements": 16}, "recipe": {"type": "qad", **SHORT}},
    "augmented": {
        "augmentation": [{"type": "mlm_replace", "factor": 1}, {"type": "mixup"}],
        "recipe": RESPONSE,
    },
    "target": {
        "target": {
            "min_retention": 0.2,
            "max_size_ratio": 0.9,
            "layers": [1, 2],
            "hidden_sizes": [16, 32],
            "trials": 2,
            "serve_best": True,
        },
        "recipe": RESPONSE,
    },
}


@pytest.mark.parametrize("method", METHODS)
def test_methods(cluster: Cluster, method: str) -> None:
    teacher = {**MODEL, "finetune": FIT}
    done = job(cluster, method, tasks.single, {"task": "text-classification", "teacher": teacher, **METHODS[method]}, {})
    report = done["result"]["report"]
    assert report["student"]["quality"] > 0
    if method == "static":
        assert report["speedup"] > 1
    infer(cluster, "/v1/classify", model=method, input="my card is lost")


def test_a_model_that_teaches_itself(cluster: Cluster) -> None:
    spec = {
        "task": "text-classification",
        "teacher": {"source": "self", "finetune": {**FIT, "epochs": 20}},
        "student": {"init": "pretrained", **MODEL},
        "recipe": {"type": "born_again", "generations": 1, **SHORT, "epochs": 15},
    }
    report = job(cluster, "itself", tasks.single, spec, {})["result"]["report"]
    assert report["teacher"]["quality"] > 0.2
    assert report["student"]["quality"] > 0.2
    infer(cluster, "/v1/classify", model="itself", input="my card is lost")


def test_an_ensemble_routed_by_row(cluster: Cluster) -> None:
    one = {**MODEL, "finetune": FIT}
    body = {**one, "route": "a", "ensemble": [{**one, "route": "b", "finetune": {**FIT, "epochs": 4}}]}

    def routed(chance: Any, n: int) -> dict[str, Any]:
        return {**tasks.single(chance, n), "who": "ab"[n % 2]}

    spec = {"task": "text-classification", "teacher": body, "recipe": RESPONSE}
    done = job(cluster, "ensemble", routed, spec, {"route": "who"})
    assert done["result"]["report"]["teacher"]["quality"] > 0.2


def test_the_second_job_asks_nobody(cluster: Cluster) -> None:
    """Fitted teacher and labels are shared between jobs of a project: same rows, other student."""
    teacher = {**MODEL, "finetune": {**FIT, "epochs": 7}}
    spec = {"task": "text-classification", "teacher": teacher, "recipe": RESPONSE}
    times = []
    for n, layers in enumerate((1, 2)):
        student = {"init": "teacher_layers", "layers": layers}
        done = job(cluster, f"cached-{n}", tasks.single, {**spec, "student": student}, {})
        phase = next(p for p in done["phases"] if p["name"] == "labelling")
        times.append(phase["finished_at"] - phase["started_at"])
        listed = cluster.api.get(f"/v1/distillation/jobs/{done['id']}/artifacts/report.json").json()
        assert (listed["labels"]["asked"] == 0) == bool(n)
        assert listed["teachers"]["teacher"].get("reused", False) == bool(n)
        assert all((told.get("seconds_saved", 0) > 0) == bool(n) for told in (listed["labels"], listed["teachers"]["teacher"]))
    assert times[1] <= times[0]


def test_an_operators_own_objective(cluster: Cluster) -> None:
    """One file in a folder on the plug-in path: it is in the catalogue, validates and trains."""
    assert "sum |z_S - z_T|" in cluster.api.get("/v1/catalog").json()["objectives"]["own_gap"]["doc"]
    stage = {"name": "own", "objectives": [{"type": "own_gap"}], **SHORT}
    spec = {"task": "text-classification", "teacher": {**MODEL, "finetune": FIT}, "stages": [stage]}
    done = job(cluster, "own", tasks.single, spec, {})
    metrics = cluster.api.get(f"/v1/distillation/jobs/{done['id']}/metrics").json()["data"]
    assert any("own_gap/loss" in entry["values"] for entry in metrics)
