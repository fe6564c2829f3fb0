"""What /metrics says, read back by Prometheus' own library."""

from prometheus_client.parser import text_string_to_metric_families


def samples(raw: bytes) -> dict[tuple[str, ...], float]:
    """Return (name, label values...) -> value of every sample."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(raw.decode())
        for sample in family.samples
    }
