"""What may come in as a model: configuration, tokenizer and safetensors weights; nothing that is code or could unpickle.

`check_model_dir` refuses a folder that holds anything executable, even beside good weights; `copy_model` takes the
allowed files alone. Torch-free: weights are judged by their header.
"""

import contextlib
import hashlib
import json
import re
import shutil
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import orjson

from app.domain.errors import ModelNotAllowed, NotFound
from app.domain.storage import safe_join

# What is copied; everything else stays behind.
_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
_TOKENIZER = re.compile(r"tokenizer\.json|vocab\.(json|txt)|merges\.txt|(tokenizer|spiece|sentencepiece\.bpe)\.model")
_JSON = re.compile(r"(config|generation_config|model\.safetensors\.index|tokenizer_config|special_tokens_map|added_tokens)\.json")
# What is harmless beside a model, and left behind.
_BESIDE = {".json", ".txt", ".md", ".onnx", ".safetensors", ".model", ".png", ".jpg", ".jpeg", ".svg", ".license", ""}
_DANGEROUS_HEADS = {
    b"PK\x03\x04": "a zip archive (as torch.save writes)",
    b"\x7fELF": "a program",
    b"MZ": "a program",
    b"\x89HDF": "an HDF5 file",
    b"#!": "a script",
}
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_MOST_FILES = 1000
_MOST_JSON_BYTES = 64 * 2**20  # tokenizers of large vocabularies
_MOST_HEADER_BYTES = 8 * 2**20
_MOST_TENSORS = 20_000
_DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip
HINT = "Bring config.json, model.safetensors and the tokenizer's files, nothing else; convert other weights to safetensors first."


@dataclass(frozen=True)
class ModelInfo:
    """What config.json and the weights' headers say."""

    model_type: str
    architectures: list[str]
    hidden_size: int | None
    num_layers: int | None
    num_heads: int | None
    intermediate_size: int | None
    vocab_size: int | None
    max_positions: int | None  # tokens of the longest text
    num_labels: int | None
    labels: list[str] | None  # in the order of the head's outputs
    has_tokenizer: bool
    params: int
    bytes: int  # of the allowed files
    problem_type: str | None = None  # of a classification head, where the config says it
    encoder_decoder: bool = False
    matrices: tuple[str, ...] = ()  # modules with a weight of two dimensions: `encoder.layer.0.attention.self.query`


def check_model_dir(path: Path) -> ModelInfo:
    """Raises ModelNotAllowed that names the file and says why."""
    if path.is_symlink() or not path.is_dir():
        raise _refused("the folder", "is not a plain folder")
    files = _plain_files(path)
    weights = [file for file in files if file.suffix == ".safetensors"]
    for file in files:
        _check_file(path, file)
    config = path / "config.json"
    if config not in files:
        raise _refused("config.json", "is missing")
    if not any(file.parent == path and _WEIGHTS.fullmatch(file.name) for file in weights):
        raise _refused("model.safetensors", "is missing; weights in another format are not read")
    tensors = {name: shape for file in weights if file.parent == path for name, shape in _tensors(path, file).items()}
    _check_index(path, tensors)
    return _info(_object(path, config), tensors, [file for file in files if _copied(path, file)])


def copy_model(source: Path, target: Path) -> None:
    """Copy the allowed files of a checked folder into a new one."""
    target.mkdir(parents=True)
    for file in _plain_files(source):
        if _copied(source, file):
            shutil.copyfile(file, target / file.name)


def local_folder(models_dir: Path | None, name: str, param: str) -> Path:
    """A folder directly under the operator's models folder, by its plain name; never a path."""
    if models_dir is None:
        raise ModelNotAllowed("This installation has no folder of local models.", param=param, hint="Set RETORT_MODELS_DIR.")
    path_like = "/" in name or "\\" in name or name.startswith(".") or not name.isprintable()
    if path_like or len(name.encode()) > 255:
        raise ModelNotAllowed(f"'{name[:80]}' is not the name of a folder.", param=param, hint="Give the folder's plain name.")
    folder = safe_join(models_dir, name)
    if not folder.is_dir():
        raise NotFound("model", name, param=param, hint="The operator puts model folders into RETORT_MODELS_DIR.")
    return folder


def _refused(name: str, why: str) -> ModelNotAllowed:
    return ModelNotAllowed(f"This model is refused: {name} {why}.", hint=HINT)


def _plain_files(root: Path) -> list[Path]:
    files = []
    for path in sorted(root.rglob("*")):
        if path.is_symlink():
            raise _refused(_shown(root, path), "is a link")
        if path.is_file():
            files.append(path)
        elif not path.is_dir():
            raise _refused(_shown(root, path), "is not a plain file")
        if len(files) > _MOST_FILES:
            raise _refused("the folder", f"holds more than {_MOST_FILES} files")
    return files


def _shown(root: Path, path: Path) -> str:
    return "'" + "".join(c if c.isprintable() else "?" for c in path.relative_to(root).as_posix())[:120] + "'"


def _copied(root: Path, file: Path) -> bool:
    return file.parent == root and any(kind.fullmatch(file.name) for kind in (_WEIGHTS, _TOKENIZER, _JSON))


def _check_file(root: Path, file: Path) -> None:
    name = _shown(root, file)
    if file.suffix.lower() not in _BESIDE:
        raise _refused(name, f"is of a kind that is not allowed ({file.suffix}): it may hold code")
    if file.suffix == "" and not (file.name.startswith(".git") or file.name.upper() in ("LICENSE", "NOTICE", "README")):
        raise _refused(name, "is not a file of a model")
    with file.open("rb") as f:
        head = f.read(8)
    if file.suffix.lower() != ".safetensors":  # its first eight bytes are a length, and it is checked as a whole
        kind = next((kind for magic, kind in _DANGEROUS_HEADS.items() if head.startswith(magic)), None)
        if kind or _PICKLE.match(head):
            raise _refused(name, f"is not what its name says but {kind or 'a pickle'}")
    if file.suffix.lower() == ".json":
        if _mentions_auto_map(_object(root, file)):
            raise _refused(name, "asks for code of its own (auto_map)")
    elif file.suffix.lower() == ".safetensors":
        _tensors(root, file)


def _object(root: Path, file: Path) -> Any:
    if file.stat().st_size > _MOST_JSON_BYTES:
        raise _refused(_shown(root, file), f"is larger than {_MOST_JSON_BYTES:,} bytes")
    try:
        return json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _refused(_shown(root, file), "is not valid JSON") from error


def _mentions_auto_map(value: Any) -> bool:
    """As a key, at any depth. A word `auto_map` in a vocabulary maps to its number, and does not count."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            if "auto_map" in item and not isinstance(item["auto_map"], int | float):
                return True
            waiting.extend(v for v in item.values() if isinstance(v, dict | list))
        elif isinstance(item, list):
            waiting.extend(v for v in item if isinstance(v, dict | list))
    return False


def _tensors(root: Path, file: Path) -> dict[str, list[int]]:
    """{name: shape} of a safetensors file whose header describes exactly the bytes that follow it."""
    name, size = _shown(root, file), file.stat().st_size
    with file.open("rb") as f:
        head = f.read(8)
        if len(head) < 8:
            raise _refused(name, "is not a safetensors file: it is too short")
        length = struct.unpack("<Q", head)[0]
        if length > min(_MOST_HEADER_BYTES, size - 8):
            raise _refused(name, "is not a safetensors file: its header is too long")
        try:
            header = json.loads(f.read(length))
            header.pop("__metadata__", None)
            shapes, end = _layout(header)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise _refused(name, "is not a safetensors file: its header cannot be read") from error
    if end != size - 8 - length:
        raise _refused(name, "is damaged: its tensors do not fill it exactly")
    return shapes


def _layout(header: dict[str, Any]) -> tuple[dict[str, list[int]], int]:
    if len(header) > _MOST_TENSORS:
        raise ValueError("too many tensors")
    end = 0
    for entry in sorted(header.values(), key=lambda e: tuple(e["data_offsets"])):
        start, stop = entry["data_offsets"]
        shape = entry["shape"]
        if not all(type(n) is int and n >= 0 for n in (*shape, start, stop)):
            raise ValueError("a shape or offset that is none")
        if start != end or stop - start != prod(shape) * _DTYPE_BYTES[entry["dtype"]]:
            raise ValueError("tensors with gaps or overlaps")
        end = stop
    return {name: list(entry["shape"]) for name, entry in header.items()}, end


def _check_index(root: Path, tensors: dict[str, list[int]]) -> None:
    index = root / "model.safetensors.index.json"
    if not index.is_file():
        return
    mapped = _object(root, index)
    names = mapped.get("weight_map") if isinstance(mapped, dict) else None
    if not isinstance(names, dict):
        raise _refused("'model.safetensors.index.json'", "has no weight_map")
    for tensor, shard in names.items():
        if not isinstance(shard, str) or not _WEIGHTS.fullmatch(shard) or tensor not in tensors:
            raise _refused("'model.safetensors.index.json'", f"names a weight that is not here ('{str(tensor)[:80]}')")


def _info(config: Any, tensors: dict[str, list[int]], files: list[Path]) -> ModelInfo:
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise _refused("'config.json'", "does not say its model_type")
    architectures = [a for a in config.get("architectures") or [] if isinstance(a, str)]
    classifies = any(a.endswith(("ForSequenceClassification", "ForTokenClassification")) for a in architectures)
    labels, number, problem = _labels(config), config.get("num_labels"), config.get("problem_type")
    return ModelInfo(
        model_type=config["model_type"],
        architectures=architectures,
        hidden_size=_number(config, "hidden_size", "dim", "d_model", "n_embd"),
        num_layers=_number(config, "num_hidden_layers", "n_layers", "num_layers", "n_layer"),
        num_heads=_number(config, "num_attention_heads", "n_heads", "num_heads", "n_head"),
        intermediate_size=_number(config, "intermediate_size", "hidden_dim", "d_ff", "n_inner"),
        vocab_size=_number(config, "vocab_size"),
        max_positions=_number(config, "max_position_embeddings", "n_positions"),
        num_labels=len(labels) if labels else number if type(number) is int else 2 if classifies else None,
        labels=labels,
        has_tokenizer=any(_TOKENIZER.fullmatch(file.name) for file in files),
        params=sum(prod(shape) for shape in tensors.values()),
        bytes=sum(file.stat().st_size for file in files),
        problem_type=problem if isinstance(problem, str) else None,
        encoder_decoder=config.get("is_encoder_decoder") is True,
        matrices=tuple(sorted(n.removesuffix(".weight") for n, s in tensors.items() if len(s) == 2 and n.endswith(".weight"))),
    )


def vocabulary_digest(folder: Path) -> str | None:
    """Equal for tokenizers that give the same pieces the same numbers; None where no file says them plainly."""
    described, plain = folder / "tokenizer.json", folder / "vocab.txt"
    pieces: Any = None
    if described.is_file():
        with contextlib.suppress(orjson.JSONDecodeError, KeyError, TypeError):
            pieces = orjson.loads(described.read_bytes())["model"]["vocab"] if described.stat().st_size < _MOST_JSON_BYTES else None
    elif plain.is_file() and plain.stat().st_size < _MOST_JSON_BYTES:
        pieces = plain.read_text(encoding="utf-8", errors="replace").splitlines()
        pieces = {piece: number for number, piece in enumerate(pieces) if piece}
    if isinstance(pieces, list):  # Unigram: pairs of piece and score
        pieces = {str(pair[0]): number for number, pair in enumerate(pieces) if isinstance(pair, list) and pair}
    if not isinstance(pieces, dict) or not pieces:
        return None
    return hashlib.sha256(orjson.dumps(pieces, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _labels(config: dict[str, Any]) -> list[str] | None:
    names = config.get("id2label")
    if not isinstance(names, dict) or not names:
        return None
    try:
        ordered = sorted((int(n), str(label)) for n, label in names.items())
    except ValueError as error:
        raise _refused("'config.json'", "has an id2label whose keys are not numbers") from error
    if [n for n, _ in ordered] != list(range(len(ordered))):
        raise _refused("'config.json'", "has an id2label that does not count from 0")
    return [label for _, label in ordered]


def _number(config: dict[str, Any], *names: str) -> int | None:
    return next((config[name] for name in names if type(config.get(name)) is int), None)
