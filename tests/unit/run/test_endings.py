"""What becomes of a job whose endpoint fails: tried again where waiting helps, ended at once where it does not."""

import pytest

from app.domain.errors import DomainError, EndpointAnswerInvalid, EndpointNotAllowed, EndpointRefused, EndpointUnavailable
from worker.outcomes import Action, Ended, decide
from worker.run.__main__ import _explain


@pytest.mark.parametrize(
    ("error", "action", "retryable"),
    [
        (EndpointUnavailable("away", hint="wait"), Action.REQUEUE, True),
        (EndpointRefused("no", hint="set a key"), Action.FAIL, True),
        (EndpointAnswerInvalid("what", hint="look"), Action.FAIL, False),
        (EndpointNotAllowed("private", hint="ask the operator"), Action.FAIL, False),
    ],
)
def test_how_an_endpoint_ends_a_job(error: DomainError, action: Action, retryable: bool) -> None:
    code, told = _explain(error, "labelling")
    verdict = decide(Ended(code=code, failed=told))
    assert verdict.action is action
    assert not verdict.free  # or an endpoint that is gone would be asked for ever
    said = {name: verdict.error[name] for name in ("code", "message", "hint", "retryable", "phase")}
    assert said == {
        "code": error.code,
        "message": error.message,
        "hint": error.hint,
        "retryable": retryable,
        "phase": "labelling",
    }
