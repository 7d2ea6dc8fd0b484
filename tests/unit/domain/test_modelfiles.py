"""Model folders: the good one is read, every poisoned one is refused by name, and nothing in them ever runs."""

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.domain.errors import InvalidRequest, ModelNotAllowed, NotFound
from app.domain.modelfiles import check_model_dir, copy_model, local_folder, vocabulary_digest
from tests.fixtures.models import TENSORS, model_folder, safetensors


class Poison:
    """Unpickling it leaves a file behind."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.sentinel),)


def test_a_good_folder_is_described(tmp_path: Path) -> None:
    info = check_model_dir(model_folder(tmp_path / "m", labels=["no", "yes"]))
    assert (info.model_type, info.hidden_size, info.num_layers, info.num_heads) == ("bert", 8, 3, 2)
    assert (info.labels, info.num_labels, info.has_tokenizer) == (["no", "yes"], 2, True)
    assert info.params == 20 * 8 + 3 * 8 * 16
    assert check_model_dir(model_folder(tmp_path / "n")).num_labels is None


def test_only_allowed_files_are_copied(tmp_path: Path) -> None:
    source = model_folder(tmp_path / "m")
    for beside in ("README.md", "retort.json", "MANIFEST.json", "onnx/model.onnx", "1_Pooling/config.json", ".gitattributes"):
        (source / beside).parent.mkdir(exist_ok=True)
        (source / beside).write_text("{}")
    info = check_model_dir(source)
    copy_model(source, tmp_path / "copy")
    assert sorted(p.name for p in (tmp_path / "copy").rglob("*")) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert check_model_dir(tmp_path / "copy") == info


NAMES = [
    "pytorch_model.bin", "model.pt", "model.pth", "weights.pkl", "weights.pickle", "state.ckpt", "tf_model.h5", "flax.msgpack",
    "rng_state.npy", "optimizer.joblib", "training_args.bin", "model.dill", "run.sh", "lib.so", "data", "archive.zip", "model.gguf",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_other_weights_and_programs_are_refused_even_beside_good_ones(tmp_path: Path, name: str) -> None:
    folder, sentinel = model_folder(tmp_path / "m"), tmp_path / "sentinel"
    (folder / name).write_bytes(pickle.dumps(Poison(sentinel)))
    with pytest.raises(ModelNotAllowed, match=name.replace(".", r"\.")):
        check_model_dir(folder)
    assert not sentinel.exists()


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "vocab.txt",
        "spiece.model",
        "README.md",
        "onnx/model.onnx",
        "deep/er/x.txt",
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_in_disguise_is_refused(tmp_path: Path, name: str, protocol: int) -> None:
    folder, sentinel = model_folder(tmp_path / "m"), tmp_path / "sentinel"
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(pickle.dumps(Poison(sentinel), protocol))
    with pytest.raises(ModelNotAllowed, match=Path(name).name.replace(".", r"\.")):
        check_model_dir(folder)
    assert not sentinel.exists()


def _write(name: str, content: Any) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))

    return act


def _auto_map_in_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "modeling.Evil"}}))


def _link_out(folder: Path) -> None:
    (folder / "vocab.txt").symlink_to("/etc/passwd")


def _link_dir(folder: Path) -> None:
    (folder / "onnx").symlink_to(folder.parent)


def _linked_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "w.safetensors")
    (folder / "model.safetensors").symlink_to(folder.parent / "w.safetensors")


def _fifo(folder: Path) -> None:
    os.mkfifo(folder / "vocab.txt")


POISONS: list[tuple[str, Callable[[Path], None], str]] = [
    ("python", _write("modeling.py", "import os"), "modeling"),
    ("compiled", _write("x.pyc", "x"), "pyc"),
    ("python below", _write("code/x.py", "x"), r"x\.py"),
    ("auto_map", _auto_map_in_config, "auto_map"),
    ("auto_map in the tokenizer", _write("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["x.Y", None]}}), "auto_map"),
    ("auto_map deep", _write("processor_config.json", {"a": [{"b": {"auto_map": "x.Y"}}]}), "auto_map"),
    ("auto_map below", _write("1_Pooling/config.json", {"auto_map": {}}), "auto_map"),
    ("link out", _link_out, "link"),
    ("linked folder", _link_dir, "link"),
    ("linked weights", _linked_weights, "link"),
    ("fifo", _fifo, "plain file"),
    ("no weights", lambda f: (f / "model.safetensors").unlink(), "safetensors is missing"),
    ("no config", lambda f: (f / "config.json").unlink(), "config.json is missing"),
    ("config is a list", _write("config.json", []), "model_type"),
    ("config is not JSON", _write("config.json", "{"), "not valid JSON"),
    ("config is deep", _write("config.json", "[" * 200_000), "not valid JSON"),
    ("labels with holes", _write("config.json", {"model_type": "bert", "id2label": {"0": "a", "2": "b"}}), "count from 0"),
    ("index of other shards", _write("model.safetensors.index.json", {"weight_map": {"a": "../x.safetensors"}}), "names a weight"),
]


@pytest.mark.parametrize(("poison", "words"), [p[1:] for p in POISONS], ids=[p[0] for p in POISONS])
def test_poisoned_folders_are_refused(tmp_path: Path, poison: Callable[[Path], None], words: str) -> None:
    folder = model_folder(tmp_path / "m")
    poison(folder)
    with pytest.raises(ModelNotAllowed, match=words) as caught:
        check_model_dir(folder)
    assert str(tmp_path) not in caught.value.message
    assert caught.value.hint


def _header(text: bytes, claimed: int | None = None, body: int = 0) -> bytes:
    return struct.pack("<Q", len(text) if claimed is None else claimed) + text + bytes(body)


def _entry(shape: list[Any], offsets: list[Any], dtype: str = "F32") -> bytes:
    return json.dumps({"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}).encode()


GOOD = safetensors(TENSORS)
BAD_WEIGHTS = [
    b"",
    b"\x00" * 7,
    _header(b"{}", claimed=2**40),
    _header(b"not json"),
    _header(b"[]"),
    _header(b"{}", body=4),
    _header(_entry([1], [0, 4]), body=8),
    _header(_entry([1], [0, 8]), body=8),
    _header(_entry([1], [4, 8]), body=8),
    _header(_entry([-1], [0, -4])),
    _header(_entry([1], [0, 4], "PICKLE"), body=4),
    _header(_entry(["1"], [0, 4]), body=4),
    _header(b'{"a": 3}'),
    _header(b"[" * 100_000),
    _header(json.dumps({str(n): {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for n in range(20_001)}).encode()),
    GOOD[:-1],
    GOOD + b"\0",
]


@pytest.mark.parametrize("content", BAD_WEIGHTS, ids=range(len(BAD_WEIGHTS)))
def test_weights_whose_header_lies_are_refused(tmp_path: Path, content: bytes) -> None:
    folder = model_folder(tmp_path / "m")
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelNotAllowed, match=r"model\.safetensors"):
        check_model_dir(folder)


@pytest.mark.parametrize("name", ["../x", "a/b", "..", ".", ".hidden", "a\\b", "/etc", "a\0b", "~root/../..", "x" * 300])
def test_a_local_model_is_a_plain_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "models").mkdir()
    with pytest.raises((InvalidRequest, NotFound)):
        local_folder(tmp_path / "models", name, "teacher.model")


def test_a_link_out_of_the_operators_folder_is_refused(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (models / "out").symlink_to(model_folder(tmp_path / "elsewhere"))
    with pytest.raises(InvalidRequest):
        local_folder(models, "out", "teacher.model")


def test_tokenizers_are_compared_by_what_their_pieces_are_called_and_numbered(tmp_path: Path) -> None:
    def of(name: str, **files: Any) -> str | None:
        folder = tmp_path / name
        folder.mkdir()
        for file, content in files.items():
            (folder / file.replace("_", ".")).write_text(content if isinstance(content, str) else json.dumps(content))
        return vocabulary_digest(folder)

    one = of("one", tokenizer_json={"model": {"vocab": {"a": 0, "é": 1}}, "truncation": {"max_length": 128}})
    assert one is not None
    assert of("order", tokenizer_json={"padding": None, "model": {"vocab": {"é": 1, "a": 0}}}) == one
    assert of("text", vocab_txt="a\né\n") == one
    assert of("unigram", tokenizer_json={"model": {"vocab": [["a", -1.5], ["é", -2]]}}) == one
    assert of("other", tokenizer_json={"model": {"vocab": {"a": 1, "é": 0}}}) not in (one, None)
    for n, odd in enumerate(({}, {"model": None}, {"model": {"vocab": 3}}, {"model": {"vocab": {}}}, [], "broken", "")):
        assert of(f"odd-{n}", tokenizer_json=odd) is None, odd
    assert of("none", spiece_model="x") is None


def test_matrices_are_named_by_their_modules(tmp_path: Path) -> None:
    info = check_model_dir(model_folder(tmp_path / "m"))
    assert info.matrices == tuple(sorted(name.removesuffix(".weight") for name in TENSORS))
