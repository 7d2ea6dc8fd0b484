"""What a block of a job says of an HTTP endpoint, checked before anything is asked of it. Names are looked up by the worker."""

from collections.abc import Collection, Iterator
from typing import Any

from app.domain import egress
from app.domain.errors import DomainError, InvalidRequest, MissingParameter

SOURCE = "openai"
ATTEMPTS = 3  # texts asked for at most per row that is wanted


def check(block: dict[str, Any], at: str, private: Collection[str]) -> Iterator[DomainError]:
    """`private`: origins that the operator allows to lie in a private network."""
    url, param = block.get("base_url"), f"{at}.base_url"
    if block.get("source") != SOURCE:
        if url is not None:
            hint = f'Add "source": "{SOURCE}", or leave it out.'
            yield InvalidRequest(f"'base_url' belongs to source '{SOURCE}'.", param=param, hint=hint)
        return
    if block.get("revision") is not None:
        yield InvalidRequest("'revision' belongs to source 'hub'.", param=f"{at}.revision", hint="Leave it out.")
    if url is None:
        hint = "Add the address of the endpoint, such as https://api.example.com/v1."
        yield MissingParameter(f"Source '{SOURCE}' needs 'base_url'.", param=param, hint=hint)
    elif isinstance(url, str):  # else the catalogue has said so
        try:
            egress.check(egress.parse(url, param), private, param)
        except DomainError as error:
            yield error


def requests(block: dict[str, Any], rows: int) -> int:
    """How many a run may send at most for `rows` training rows."""
    most = round(float(block.get("factor") or 1) * rows) * ATTEMPTS
    return min(most, int(block.get("max_requests") or most))
