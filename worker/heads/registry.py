"""Which head a task has."""

import json
from pathlib import Path

from worker.heads.base import About, Head
from worker.heads.embedding import Embedding
from worker.heads.masked_lm import MaskedLM
from worker.heads.ranking import Ranking
from worker.heads.text_classification import TextClassification
from worker.heads.token_classification import TokenClassification

HEADS: dict[str, type[Head]] = {h.task: h for h in (TextClassification, TokenClassification, Embedding, Ranking, MaskedLM)}


def head_for(prepared: Path, scorer: str = "cross_encoder") -> Head:
    """The head of the job whose data was prepared into this folder."""
    about = About.of(json.loads((prepared / "data.json").read_text(encoding="utf-8")), scorer)
    return HEADS[about.task](about)
