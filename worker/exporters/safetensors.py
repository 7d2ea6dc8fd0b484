"""safetensors: the transformers folder itself, without what tells where or when it was made."""

import json
import shutil
from pathlib import Path
from typing import ClassVar

from app.domain.errors import ArtifactCorrupt
from worker.exporters.base import Exporter
from worker.heads.base import Head

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
)
_TELLS_WHERE = ("_name_or_path", "name_or_path")


class Safetensors(Exporter):
    """Copies config.json, the weights and the tokenizer's files; transformers loads the result.

    JSON files are rewritten with sorted keys and without the folder they were loaded from, so equal models give equal
    bytes. Raises ArtifactCorrupt when config.json or model.safetensors is missing.
    """

    name: ClassVar[str] = "safetensors"

    def export(self, model_dir: Path, out_dir: Path, head: Head) -> Path:
        export_tokenizer(model_dir, out_dir)
        weights = model_dir / "model.safetensors"
        if not weights.is_file():
            raise ArtifactCorrupt("The student's folder has no model.safetensors.")
        return Path(shutil.copyfile(weights, out_dir / weights.name))


def export_tokenizer(model_dir: Path, out_dir: Path) -> None:
    """config.json and the tokenizer: what even a folder without float weights needs."""
    if not (model_dir / "config.json").is_file():
        raise ArtifactCorrupt("The student's folder has no config.json.")
    for name in ("config.json", *_TOKENIZER_FILES):
        source, target = model_dir / name, out_dir / name
        if not source.is_file():
            continue
        if name in ("config.json", "tokenizer_config.json"):
            content = {k: v for k, v in json.loads(source.read_text()).items() if k not in _TELLS_WHERE}
            target.write_text(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
        else:
            shutil.copyfile(source, target)
