"""Models small enough to run in every test, records of every task, and jobs whose rows are prepared."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import BertForMaskedLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from app.domain.spec import JobSpec
from tests.fixtures.tiny import make_rows, make_tiny_teacher, make_tokenizer, tiny_config
from worker.augmenters.base import Scene
from worker.heads.base import About
from worker.heads.registry import HEADS
from worker.phases import augment, label
from worker.phases.base import Context
from worker.run import protocol

Record = dict[str, Any]
LABELS = ("balance", "card", "delivery", "refund", "travel")


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BertModel without a head."""
    return make_tiny_teacher(tmp_path_factory.mktemp("encoder") / "encoder")


@pytest.fixture(scope="session")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BertForMaskedLM whose guesses depend on what stands around: its weights are large enough."""
    folder, tokenizer = tmp_path_factory.mktemp("masked") / "masked", make_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        BertForMaskedLM(tiny_config(tokenizer, initializer_range=0.4)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LlamaForCausalLM over bytes that writes noise."""
    folder = tmp_path_factory.mktemp("writer") / "writer"
    pieces = {piece: n for n, piece in enumerate(["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    plain = Tokenizer(models.BPE(vocab=pieces, merges=[]))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, bos_token="<s>", eos_token="</s>")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    rows = make_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", 40, seed=2)
    return [{"id": n, "text": row["text"], "label": LABELS.index(str(row["label"]))} for n, row in enumerate(rows)]


def records_of(problem: str, texts: list[Record]) -> list[Record]:
    """The same rows as prepared records of another problem."""

    def record(row: Record) -> Record:
        text, label, n = row["text"], row["label"], row["id"]
        match problem:
            case "pairs":
                return {"id": n, "text": text, "text_b": texts[n - 1]["text"], "label": label}
            case "multi_label":
                return {"id": n, "text": text, "label": [float(label == c or n % 5 == c) for c in range(5)]}
            case "regression":
                return {"id": n, "text": text, "label": label / 5}
            case "tokens":
                words = text.split(" ")
                return {"id": n, "words": words, "label": [int(len(word) > 5) for word in words]}
            case "embedding":
                second = {"text_b": texts[n - 1]["text"]} if n % 2 else {}
                return {"id": n, "text": text, **second, "label": 0.5 if second else None}
            case "ranking":
                documents = [texts[(n + i) % len(texts)]["text"] for i in range(2 + n % 2)]
                return {"id": n, "query": text, "documents": documents, "label": [float(i == 1) for i in range(len(documents))]}
            case "masked_lm":
                return {"id": n, "text": text, "label": None}
            case _:
                return dict(row)

    return [record(row) for row in texts]


def about_of(problem: str) -> About:
    tasks = {"tokens": "token-classification", "masked_lm": "masked-lm", "embedding": "embedding", "ranking": "ranking"}
    labels = {"tokens": ("O", "LONG"), "regression": (), "embedding": (), "ranking": (), "masked_lm": ()}
    pairs = problem == "pairs"
    task = tasks.get(problem, "text-classification")
    return About(task, "single_label" if pairs else problem, labels.get(problem, LABELS), 32, pairs)


PROBLEMS = ("single_label", "pairs", "multi_label", "regression", "tokens", "embedding", "ranking", "masked_lm")


@pytest.fixture
def scene(encoder: Path) -> Callable[..., Scene]:
    def make(problem: str = "single_label", seed: int = 7, teachers: tuple[Path, ...] = (), model: Path | None = None) -> Scene:
        about = about_of(problem)
        folders = teachers or (encoder, encoder)
        return Scene(folders, HEADS[about.task](about), torch.device("cpu"), torch.float32, seed, lambda: None, model)

    return make


Made = Callable[..., Context]


@pytest.fixture(scope="module")
def teacher_folder(tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> Callable[[str, int], Path]:
    """A teacher of a problem, made once; the n-th answers otherwise than the others."""
    root = tmp_path_factory.mktemp("teachers")

    def folder(problem: str, n: int) -> Path:
        about, made = about_of(problem), root / f"{problem}-{n}"
        if not made.exists():
            torch.manual_seed(n)
            head = HEADS[about.task](about)
            model = head.load(encoder)
            with torch.no_grad():
                for value in model.parameters():
                    if value.dim() == 2:
                        value.mul_(15.0)  # far from the even answers of a new model
            head.save(model, encoder, made)
        return made

    return folder


@pytest.fixture
def job(tmp_path: Path, encoder: Path, teacher_folder: Callable[[str, int], Path]) -> Made:
    """A job whose rows are prepared and whose teachers stand."""

    def make(problem: str, records: list[Record], *blocks: dict[str, Any], teachers: int = 1, **request: Any) -> Context:
        about, workdir = about_of(problem), tmp_path / f"work-{len(list(tmp_path.iterdir()))}"
        route = {"route": "by"} if any("route" in record for record in records) else {}
        names = [{"route": f"t{n}"} if route else {} for n in range(teachers)]
        spec = {
            "name": "test",
            "task": about.task,
            "teacher": {
                "source": "local",
                "model": "t",
                "batch_size": 7,
                **names[0],
                "ensemble": [{"source": "local", "model": "t", "weight": 2.0, **name} for name in names[1:]],
            },
            "student": {"init": "teacher_layers"},
            "data": {
                "training_file": "file-" + "0" * 26,
                "problem": about.problem if about.task == "text-classification" else "single_label",
                **route,
            },
            "augmentation": list(blocks),
        }
        (workdir / "prepared").mkdir(parents=True)
        data = {"task": about.task, "problem": about.problem, "labels": about.labels, "max_length": 32, "pairs": about.pairs}
        (workdir / "prepared" / "data.json").write_text(json.dumps(data))
        for split in ("train", "validation"):
            (workdir / "prepared" / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
        for n in range(teachers):
            (workdir / ("teacher" if n == 0 else f"teacher-{n}")).symlink_to(teacher_folder(problem, n))
        asked = {"ensemble_dirs": [str(encoder)] * (teachers - 1), "device": "cpu", "config_hash": "sha256:x", **request}
        ask = protocol.RunRequest(
            job_id="djob_t", attempt=1, spec={}, workdir=str(workdir), cache_dir=str(tmp_path / "cache"),
            files={}, formats={}, teacher_dir=str(encoder), **asked,
        )  # fmt: skip
        events: list[Any] = []
        context = Context(ask, JobSpec.model_validate(spec), workdir, events.append)
        context.events = events  # type: ignore[attr-defined]
        return context

    return make


def kept(context: Context) -> tuple[list[Record], dict[str, Any]]:
    augment.run(context, label.members(context, "prepared-train"), 0.2, 0.4)
    folder = context.output("augmented")
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    return rows, json.loads((folder / "augmentation.json").read_text())


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Models this small are slower on several threads, and far slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
