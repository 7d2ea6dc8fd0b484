"""docs/errors.md, made from the catalogue: `python -m tests.architecture.errors_page > docs/errors.md`."""

from collections.abc import Iterator

from app.domain.errors import DomainError, JobError, NotFound

HEAD = """# Errors

Every error is `application/problem+json`:

```json
{
  "type": "…", "title": "…", "status": 400, "detail": "…", "instance": "/v1/…", "request_id": "req_…",
  "error": {"code": "invalid_parameter", "type": "invalid_request_error", "param": "student.layers",
            "message": "what was wrong", "hint": "what to do next", "details": []}
}
```

Programs decide by `code`; people read `message` and `hint`. `details` lists the places, such as lines of a data file.
Quote `request_id` (also the header `x-request-id`) when you ask the operator. This page is made from `app/domain/errors.py`.

## Answers to requests

A retry helps where it says so; wait for `Retry-After` where the answer carries it.
Another project's object looks exactly like one that does not exist.

| code | HTTP | retry | meaning |
| --- | --- | --- | --- |
"""

JOBS = """
## How a job fails

In `error` of the job. After a retryable one, `POST …/{id}/resume` goes on from the last checkpoint.

| code | retry | meaning |
| --- | --- | --- |
"""


def _all(base: type[DomainError]) -> Iterator[type[DomainError]]:
    yield base
    for child in base.__subclasses__():
        yield from _all(child)


def page() -> str:
    classes = [c for c in _all(DomainError) if c.__module__ == DomainError.__module__]
    requests = sorted(
        {
            (c.status, "<kind>_not_found" if c is NotFound else c.code, c.retryable, c.title)
            for c in classes
            if not issubclass(c, JobError) and c is not DomainError
        }
    )
    jobs = sorted({(c.code, c.retryable, c.title) for c in classes if issubclass(c, JobError)})
    answer = [f"| `{code}` | {status} | {'yes' if retry else 'no'} | {title} |" for status, code, retry, title in requests]
    failed = [f"| `{code}` | {'yes' if retry else 'no'} | {title} |" for code, retry, title in jobs]
    return HEAD + "\n".join(answer) + "\n" + JOBS + "\n".join(failed) + "\n"


if __name__ == "__main__":
    print(page(), end="")
