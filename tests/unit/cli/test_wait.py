"""`--wait`: what is told of a rotation, and in which order, whatever was seen in one look."""

from datetime import timedelta

import pytest

from sds_server.cli.wait import follow

BEGUN = "2026-11-24T08:00:00Z"


def seen(*steps, proved, accepted=0):
    """What the API answers of a rotation with one target."""
    return {
        "secret": "www",
        "state": "completed" if "rotation.completed" in steps else "rolling_out",
        "stage": None,
        "triggered_at": BEGUN,
        "completed_at": BEGUN if "rotation.completed" in steps else None,
        "new_cert_id": 1,
        "last_error": None,
        "reached": {"targets": 1, "accepted": accepted, "refused": 0, "proved": proved},
        "steps": [{"name": step, "at": BEGUN, "detail": {}} for step in steps],
    }


class Answers:
    """An API that gives these, one after the other; then somebody presses Ctrl-C."""

    def __init__(self, *answers):
        self._answers = list(answers)

    def get(self, *path, **query):
        if not self._answers:
            raise KeyboardInterrupt
        return self._answers.pop(0)


ENDED = seen("certificate.issued", "rotation.completed", proved=1, accepted=1)
PROVED_FIRST = seen("certificate.issued", proved=1, accepted=1)


@pytest.mark.parametrize("answers", [[ENDED], [PROVED_FIRST, ENDED]])
def test_what_completed_a_rotation_stands_before_its_completion(answers, capsys):
    follow(Answers(*answers), 7, of="www", timeout=timedelta(minutes=1))

    assert [line.split("s  ")[-1].strip() for line in capsys.readouterr().err.splitlines()] == [
        "certificate.issued",
        "of 1 targets: accepted 1, proved 1",
        "rotation.completed",
    ]


def test_who_stops_waiting_is_told_that_it_goes_on(capsys):
    with pytest.raises(KeyboardInterrupt):
        follow(Answers(PROVED_FIRST), 7, of="www", timeout=timedelta(minutes=1))

    last = capsys.readouterr().err.splitlines()[-1]
    assert "the rotation goes on, and `certvoy why www`" in last
