from pathlib import Path

import pytest
from transformers import BertConfig

from tests.unit.quantizers.graphs import write_encoder


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The float graph of a classifier with two layers, 32 wide; `torch/` beside it is the model."""
    config = BertConfig(
        vocab_size=200,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=66,
    )
    return write_encoder(tmp_path_factory.mktemp("encoder"), config)
