"""`certvoy why` of the next renewal, when it is and why then; and of a target that is not seen."""

from sds_server.cli.why import Branch, _certificate, _sealed, _target
from sds_server.conditions import renewal_said

CERTIFICATE = {
    "generation": 3,
    "status": "active",
    "serial_number": "0a",
    "fingerprint": "ff",
    "not_after": "2027-02-22T08:00:00Z",
    "renew_at": "2026-11-24T08:00:00Z",
}
SILENT = {"window_start": None, "window_end": None, "explanation_url": None, "error": None}


def said(renewal, *, uploaded=False):
    root = Branch("www")
    _certificate(root, CERTIFICATE, renewal, uploaded=uploaded)
    return "\n".join(root.lines())


def test_the_share_of_life_is_the_reason_where_no_ca_has_wished():
    text = said(SILENT | {"message": renewal_said("third-left")})

    assert "renewed at 2026-11-24T08:00:00Z" in text
    assert "renewed then because a third of its life is left then" in text


def test_a_ca_s_window_and_its_explanation_are_told():
    text = said(
        {
            "message": renewal_said("ari-window-past"),
            "window_start": "2026-11-20T00:00:00Z",
            "window_end": "2026-11-21T00:00:00Z",
            "explanation_url": "https://ca.example.test/incident/1",
            "error": None,
        }
    )

    assert "because its CA wants it replaced at once: its window is over" in text
    assert "its CA's window: 2026-11-20T00:00:00Z to 2026-11-21T00:00:00Z" in text
    assert "its CA explains: https://ca.example.test/incident/1" in text


def test_a_ca_that_was_asked_in_vain_is_told():
    assert "asked in vain: no answer" in said(SILENT | {"message": "x", "error": "no answer"})


def test_what_is_uploaded_is_renewed_by_a_person():
    text = said(SILENT | {"message": "x"}, uploaded=True)

    assert "another pair is wanted at 2026-11-24T08:00:00Z" in text
    assert "renewed then" not in text


def test_a_target_that_was_proved_and_is_not_seen_since_is_told():
    root = Branch("www")
    delivery = {"target": "edge-1", "sent": 3, "accepted": 3, "refused": None, "proved": 3, "instances": 1}
    _target(root, delivery | {"state": "unseen", "reason": "it was proved; 10.0.0.1:443: refused"})

    assert "✗ it was proved; 10.0.0.1:443: refused" in "\n".join(root.lines())


def test_a_sealed_replica_says_so_and_how_it_ends():
    root = Branch("www")
    _sealed(root, "by person:ada at 2026-11-24T08:00:00+00:00: a thief")
    _sealed(root, None)
    text = "\n".join(root.lines())

    assert 1 == text.count("✗ sealed")
    assert "sealed by person:ada at 2026-11-24T08:00:00+00:00: a thief" in text
    assert "certvoy unseal" in text
