"""What a real Envoy said, played to the core again: it answers as it did when that was recorded.

A difference is a change of what proxies in the world see. Where it is meant: `make golden`.
"""

import pytest

from tests.xds import golden
from tests.xds.golden import FOLDER, SCENARIOS, read, replayed

RECORDINGS = sorted(FOLDER.glob("*.json"))
FORMS = ("sds-sotw", "sds-delta", "ads-sotw", "ads-delta")


def test_each_scenario_was_recorded_in_each_form():
    assert {f"{form}-{scenario}" for form in FORMS for scenario in SCENARIOS} == {
        path.stem for path in RECORDINGS
    }


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_the_answers_are_those_of_the_recording(path):
    for stream in read(path)["streams"]:
        assert stream["lines"] == replayed(stream)


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_a_recording_says_something(path):
    """One that answers nothing, or in which nothing is accepted, would be right for ever."""
    lines = [line for stream in read(path)["streams"] for line in stream["lines"]]

    assert {"<", ">", "!", "-"} <= {kind for kind, *_ in lines}
    assert any("= accepted" in line[1] for line in lines if line[0] == "=")


def test_an_answer_too_many_is_seen(monkeypatch):
    """The replay can fail: a core that sends a secret twice is found out."""
    stream = read(FOLDER / "ads-delta-rotate.json")["streams"][0]
    twice = golden.Stream.respond

    def respond(core, view, now):
        core.recheck()
        for subscription in core._wanted.values():
            subscription.again = True
        return twice(core, view, now)

    monkeypatch.setattr(golden.Stream, "respond", respond)

    assert stream["lines"] != replayed(stream)


def test_no_key_is_in_a_recording():
    assert not [path for path in RECORDINGS if "PRIVATE" in path.read_text()]
