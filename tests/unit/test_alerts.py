"""The alert rules, judged by promtool: each fires in its case, and none does while all is well."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from sds_server.metrics import METRICS, Kind

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "docs" / "alerts.yaml"
OPERATIONS = ROOT / "docs" / "operations.md"
(GROUP,) = yaml.safe_load(RULES.read_text())["groups"]
ALERTS = {rule["alert"]: rule for rule in GROUP["rules"] if "alert" in rule}

HOUR, DAY = 3600, 86400
HORIZON = "2h"
PUBLICATIONS = 'certvoy_publications_total{instance="a",result='
ATTEMPTS = 'certvoy_attempts_total{instance="a",issuer="le",outcome='
KMS = 'certvoy_kms_operations_total{instance="a",operation="unwrap",result='
BUCKET = 'certvoy_delivery_accepted_seconds_bucket{instance="a",le='
ROTATION = 'certvoy_rotation_oldest_open_timestamp_seconds{instance="a",state='
UNPROVED = 'certvoy_secret_unproved_targets{instance="a",secret="www",state='
ROLLED_BACK = 'certvoy_rotations_rolled_back_total{instance="a",reason='
FROZEN = 'certvoy_secret_frozen_timestamp_seconds{instance="a",secret="www",by='
LISTS = 'certvoy_crl_answers_total{instance="a",result='
STAPLES = 'certvoy_staple_answers_total{instance="a",result='
LOOP = 'certvoy_loop_last_success_timestamp_seconds{instance="a",loop='


def staple(begun, ends):
    """The staple of www, in seconds from the beginning of the test."""
    return {
        f'certvoy_staple_{name}_timestamp_seconds{{instance="a",secret="www"}}': f"{value}x200"
        for name, value in {"this_update": begun, "next_update": ends}.items()
    }


def dates(not_before, not_after, renewal):
    """The dates of www, in seconds from the beginning of the test."""
    series = {"not_before": not_before, "not_after": not_after, "renewal": renewal}
    return {
        f'certvoy_certificate_{name}_timestamp_seconds{{instance="a",secret="www"}}': f"{value}x200"
        for name, value in series.items()
    }


WELL = {
    'certvoy_build_info{instance="a",version="1"}': "1x200",
    'certvoy_database_up{instance="a"}': "1x200",
    # 6 days of life, to be renewed tomorrow: an alert by fixed days would fire.
    **dates(-3 * DAY, 3 * DAY, DAY),
    **staple(-2 * DAY, 2 * DAY),
    f'{STAPLES}"good"}}': "0+1x200",
    f'{STAPLES}"revoked"}}': "0x200",
    f'{LISTS}"revoked"}}': "0x200",
    f'{PUBLICATIONS}"published"}}': "0+1x200",
    f'{PUBLICATIONS}"refused"}}': "0x200",
    f'{ROLLED_BACK}"targets-refused"}}': "0x200",
    f'{ROLLED_BACK}"operator"}}': "0+1x200",
    f'{FROZEN}"person"}}': "0x200",  # since the beginning, two hours ago
    f'{ATTEMPTS}"issued"}}': "0+1x200",
    f'{ATTEMPTS}"refused"}}': "0x200",
    f'{ATTEMPTS}"interrupted"}}': "0+5x200",
    'certvoy_orders_deferred{instance="a",issuer="le",reason="budget.in_flight"}': "4x200",
    f'{LOOP}"census"}}': "0+60x200",
    f'{LOOP}"worker-0"}}': "0x200",
    f'{KMS}"success"}}': "0+1x200",
    f'{KMS}"unavailable"}}': "0+1x200",
    f'{BUCKET}"0.1"}}': "0+100x200",
    f'{BUCKET}"60"}}': "0+100x200",
    f'{BUCKET}"+Inf"}}': "0+100x200",
    f'{ROTATION}"rolling_out"}}': "0+60x200",
    'certvoy_kms_insecure{instance="a"}': "0x200",
    'certvoy_sealed{instance="a"}': "0x200",
    'certvoy_memory_scrub{instance="a"}': "1x200",
    'certvoy_clock_ahead_seconds{instance="a",issuer="le"}': "-1x200",
    'certvoy_audit_broken{instance="a"}': "0x200",
    'certvoy_audit_unsealed_seconds{instance="a"}': "1x200",
}

CASES = {
    # alert: what is other than well, and the labels with which it fires
    "CertvoyAbsent": ({'certvoy_build_info{instance="a",version="1"}': None}, {}),
    "CertvoyDatabaseDown": ({'certvoy_database_up{instance="a"}': "0x200"}, {"instance": "a"}),
    "CertvoyCertificateExpiring": (dates(-30 * DAY, 3 * DAY, 3 * DAY), {"secret": "www"}),
    "CertvoyRenewalOverdue": (dates(-3 * DAY, 3 * DAY, -DAY), {"secret": "www"}),
    "CertvoyRotationStuck": ({f'{ROTATION}"rolling_out"}}': "0x200"}, {"state": "rolling_out"}),
    "CertvoyTargetUnproved": ({f'{UNPROVED}"stale"}}': "1x200"}, {"secret": "www", "state": "stale"}),
    "CertvoySecretRefused": ({f'{UNPROVED}"refused"}}': "1x200"}, {"secret": "www"}),
    "CertvoyRolledBack": (
        {f'{ROLLED_BACK}"targets-refused"}}': "0x110 1x90"},
        {"reason": "targets-refused"},
    ),
    "CertvoyTargetStale": (
        {'certvoy_secret_stale_timestamp_seconds{instance="a",secret="www"}': "6000x200"},
        {"secret": "www"},
    ),
    "CertvoyDecisionWanted": ({f'{FROZEN}"certvoy"}}': "7000x200"}, {"secret": "www"}),
    "CertvoySecretFrozen": ({f'{FROZEN}"person"}}': f"{-2 * DAY}x200"}, {"secret": "www"}),
    "CertvoyCertificateWithheld": (
        {f'{PUBLICATIONS}"refused"}}': "0x110 1x90"},
        {"instance": "a", "result": "refused"},
    ),
    "CertvoyStapleEnding": (staple(-4 * DAY, DAY), {"secret": "www"}),
    "CertvoyRevokedElsewhere": ({f'{STAPLES}"revoked"}}': "0+1x200"}, {"instance": "a"}),
    "CertvoyIssuanceFailing": ({f'{ATTEMPTS}"refused"}}': "0+3x200"}, {"issuer": "le"}),
    "CertvoyOrdersDeferred": (
        {'certvoy_orders_deferred{issuer="le",instance="a",reason="budget.domain"}': "3x200"},
        {"issuer": "le", "reason": "budget.domain"},
    ),
    "CertvoyIssuerPaused": ({'certvoy_issuer_paused{issuer="le",instance="a"}': "1x200"}, {"issuer": "le"}),
    "CertvoyClockSkewed": (
        {'certvoy_clock_ahead_seconds{instance="a",issuer="le"}': "-90x200"},
        {"instance": "a"},
    ),
    "CertvoyRenewalHeldBack": (
        {'certvoy_renewals_held_back_total{instance="a",issuer="le"}': "0x110 1x90"},
        {"issuer": "le"},
    ),
    "CertvoyLoopStalled": ({f'{LOOP}"census"}}': "0x200"}, {"instance": "a", "loop": "census"}),
    "CertvoyKmsFailing": ({f'{KMS}"success"}}': "5x200"}, {"instance": "a", "operation": "unwrap"}),
    "CertvoyAuditBroken": ({'certvoy_audit_broken{instance="a"}': "1x200"}, {"instance": "a"}),
    "CertvoyAuditUnsealed": ({'certvoy_audit_unsealed_seconds{instance="a"}': "0+60x200"}, {}),
    "CertvoySlowDelivery": ({f'{BUCKET}"0.1"}}': "0x200"}, {}),
    "CertvoySealed": ({'certvoy_sealed{instance="a"}': "1x200"}, {"instance": "a"}),
    "CertvoyMemoryKept": ({'certvoy_memory_scrub{instance="a"}': "0x200"}, {"instance": "a"}),
    "CertvoyTrialKek": ({'certvoy_kms_insecure{instance="a"}': "1x200"}, {"instance": "a"}),
}


def judge(promtool, directory, tests):
    """Let promtool run the tests; returns what it says of failures."""
    path, rules = directory / "tests.yaml", directory / "rules.yaml"
    # Annotations hold the numbers of the moment: they are left to `promtool check`.
    bare = [{key: value for key, value in rule.items() if key != "annotations"} for rule in GROUP["rules"]]
    rules.write_text(yaml.safe_dump({"groups": [{"name": "certvoy", "rules": bare}]}))
    path.write_text(yaml.safe_dump({"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": tests}))
    done = subprocess.run(
        [promtool, "test", "rules", path], capture_output=True, text=True, check=False, cwd=directory
    )
    return done.returncode, done.stdout + done.stderr


def scenario(changes, firing):
    """One world for two hours, and what fires at its end: nothing but ``firing``, alert -> labels."""
    series = {**WELL, **changes}
    return {
        "interval": "1m",
        "input_series": [
            {"series": name, "values": values} for name, values in series.items() if values is not None
        ],
        "alert_rule_test": [
            {"eval_time": HORIZON, "alertname": alert, "exp_alerts": _expected(alert, firing.get(alert))}
            for alert in ALERTS
        ],
    }


def _expected(alert, labels):
    if labels is None:
        return []
    rule = ALERTS[alert]
    return [
        {
            "exp_labels": {**labels, **rule["labels"]},
        }
    ]


@pytest.mark.debian
def test_promtool_takes_the_rules(promtool):
    done = subprocess.run([promtool, "check", "rules", RULES], capture_output=True, text=True, check=False)

    assert 0 == done.returncode, done.stdout + done.stderr


@pytest.mark.debian
def test_no_alert_fires_while_all_is_well(promtool, tmp_path):
    code, said = judge(promtool, tmp_path, [scenario({}, {})])

    assert 0 == code, said


@pytest.mark.debian
@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_fires_in_its_case_and_alone(promtool, tmp_path, alert):
    changes, labels = CASES[alert]
    code, said = judge(promtool, tmp_path, [scenario(changes, {alert: labels})])

    assert 0 == code, said


@pytest.mark.debian
def test_a_revocation_is_as_good_by_a_list_as_by_a_responder(promtool, tmp_path):
    firing = {"CertvoyRevokedElsewhere": {"instance": "a"}}
    code, said = judge(promtool, tmp_path, [scenario({f'{LISTS}"revoked"}}': "0+1x200"}, firing)])

    assert 0 == code, said


@pytest.mark.debian
def test_one_replica_that_is_behind_alarms_nobody(promtool, tmp_path):
    """It is cut off from the database and tells old dates; the other one tells the new ones."""
    old = {
        name.replace('instance="a"', 'instance="b"'): v for name, v in dates(-60 * DAY, HOUR, -DAY).items()
    }

    code, said = judge(promtool, tmp_path, [scenario(old, {})])

    assert 0 == code, said


def test_every_alert_has_a_case():
    assert set(ALERTS) == set(CASES)


def test_every_metric_of_a_rule_is_one_that_the_code_has():
    known = {metric.name for metric in METRICS}
    known |= {
        f"{m.name}_{part}" for m in METRICS if m.kind is Kind.HISTOGRAM for part in ("bucket", "sum", "count")
    }
    used = {name for rule in GROUP["rules"] for name in re.findall(r"\bcertvoy_[a-z0-9_]+\b", rule["expr"])}

    assert set() == used - known
    assert len(used) > 10


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_leads_to_its_section(alert):
    """`runbook` names the heading, and the section says what to do."""
    assert f"docs/operations.md#{alert.lower()}" == ALERTS[alert]["annotations"]["runbook"]
    assert f"\n### {alert}\n" in OPERATIONS.read_text()
    assert ALERTS[alert]["labels"]["severity"] in {"critical", "warning", "info"}


def test_there_is_no_section_for_an_alert_that_is_gone():
    assert set(ALERTS) == set(re.findall(r"^### (Certvoy\w+)$", OPERATIONS.read_text(), re.MULTILINE))
