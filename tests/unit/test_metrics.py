"""Metrics: their names keep Prometheus' conventions, and each control plane has its own."""

import re

import pytest

from sds_server import metrics
from sds_server.metrics import METRICS, Kind, Metrics
from tests.support.exposition import samples


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_name_says_what_kind_and_which_unit(metric):
    assert re.fullmatch(r"certvoy_[a-z0-9_]+", metric.name)
    assert (metric.kind is Kind.COUNTER) == metric.name.endswith("_total")
    assert metric.kind is not Kind.HISTOGRAM or metric.name.endswith("_seconds")
    assert not re.search(r"_(days|hours|minutes|ms|percent)\b|_left|_ago", metric.name)
    assert metric.help.endswith(".")


def test_no_metric_is_labelled_by_what_proxies_call_themselves():
    ours = {
        "by",
        "identifier",  # of a Secret: what else a CA names is left out
        "issuer",
        "kind",
        "limit",
        "loop",
        "operation",
        "outcome",
        "phase",
        "reason",
        "result",
        "secret",
        "state",
        "step",
        "target",  # of those that an operator has named: others are called as their clients like
        "type",
    }

    assert ours | {"version"} == {label for metric in METRICS for label in metric.labels}


def test_two_control_planes_in_one_process_count_apart():
    one, other = Metrics(version="1"), Metrics(version="2")
    one.count(metrics.PUSHES)

    assert (1, 0) == tuple(samples(m.exposition())["certvoy_xds_pushes_total",] for m in (one, other))
    assert 1 == samples(other.exposition())["certvoy_build_info", "2"]


def test_what_can_fail_is_there_at_zero_before_it_does():
    """An increase from nothing is none to Prometheus."""
    found = samples(Metrics(version="1").exposition())

    assert 0 == found["certvoy_publications_total", "refused"]
    assert 0 == found["certvoy_kms_operations_total", "unwrap", "unavailable"]
    assert 0 == found["certvoy_xds_nacks_total",]


def test_the_time_to_an_ack_is_told_from_five_milliseconds_on():
    told = Metrics(version="1")
    told.observe(metrics.ACCEPTED, 0.004)
    told.observe(metrics.ACCEPTED, 0.02)
    found = samples(told.exposition())

    assert 1 == found["certvoy_delivery_accepted_seconds_bucket", "0.005"]
    assert 2 == found["certvoy_delivery_accepted_seconds_bucket", "0.025"]
    assert 2 == found["certvoy_delivery_accepted_seconds_count",]


def test_a_gauge_is_read_at_the_scrape_and_forgets_what_is_gone():
    told, now = Metrics(version="1"), {("www",): 1.0}
    told.read(metrics.NOT_AFTER, lambda: now)
    before = samples(told.exposition())
    now = {}

    assert 1.0 == before["certvoy_certificate_not_after_timestamp_seconds", "www"]
    assert ("certvoy_certificate_not_after_timestamp_seconds", "www") not in samples(told.exposition())
