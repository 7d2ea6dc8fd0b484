"""The stock openai client, pointed at us: files."""

import io
from collections.abc import Iterator

import openai
import pytest

from tests.fixtures.api import Api
from tests.fixtures.listening import listening

ROWS = b'{"text": "where is my card?", "label": "card"}\n{"text": "money back", "label": "refund"}\n'


@pytest.fixture
def client(api: Api) -> Iterator[openai.OpenAI]:
    key = api.client.headers["authorization"].removeprefix("Bearer ")
    with listening(api.app) as url, openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as made:
        yield made


def test_files(client: openai.OpenAI) -> None:
    made = client.files.create(file=("train.jsonl", io.BytesIO(ROWS)), purpose="fine-tune")
    assert (made.object, made.filename, made.bytes, made.purpose, made.status) == (
        "file",
        "train.jsonl",
        len(ROWS),
        "fine-tune",
        "processed",
    )
    assert client.files.wait_for_processing(made.id, poll_interval=0.05).status == "processed"
    assert client.files.retrieve(made.id).id == made.id
    assert client.files.content(made.id).content == ROWS
    more = [client.files.create(file=("more.jsonl", ROWS), purpose="fine-tune").id for _ in range(3)]
    listed = [file.id for file in client.files.list(limit=2)]
    assert listed == [*reversed(more), made.id], "the client pages by itself"
    assert [f.id for f in client.files.list(purpose="fine-tune", order="asc")] == [made.id, *more]
    assert client.files.delete(made.id).deleted is True
    with pytest.raises(openai.NotFoundError) as missing:
        client.files.retrieve(made.id)
    assert missing.value.code == "file_not_found"
    assert missing.value.request_id


def test_errors_become_the_clients_own(client: openai.OpenAI, api: Api) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.files.create(file=("empty.jsonl", b""), purpose="fine-tune")
    assert bad.value.param == "file"
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="rt_wrong").files.list()
    in_use = api.job()["data"]["training_file"]
    with pytest.raises(openai.ConflictError) as conflict:
        client.with_options(max_retries=5).files.delete(in_use)
    assert conflict.value.response.headers["x-should-retry"] == "false"
    assert "x-stainless-retry-count" not in conflict.value.response.request.headers or (
        conflict.value.response.request.headers["x-stainless-retry-count"] == "0"
    )
