from app.domain.states import LEASED, TERMINAL, TRANSITIONS, Status, can_go, sources_of


def test_every_status_has_a_row_and_terminal_ones_lead_nowhere_but_failed_to_resume() -> None:
    assert set(TRANSITIONS) == set(Status)
    assert {s for s in TERMINAL if TRANSITIONS[s]} == {Status.FAILED}
    assert TRANSITIONS[Status.FAILED] == {Status.QUEUED}


def test_every_status_is_reachable_and_can_end() -> None:
    seen, todo = set(), [Status.VALIDATING]
    while todo:
        status = todo.pop()
        if status not in seen:
            seen.add(status)
            todo.extend(TRANSITIONS[status])
    assert seen == set(Status)
    for status in set(Status) - TERMINAL:
        assert can_go(status, Status.CANCELLED) or can_go(status, Status.CANCELLING)


def test_only_leased_jobs_succeed() -> None:
    assert sources_of(Status.SUCCEEDED) == LEASED
