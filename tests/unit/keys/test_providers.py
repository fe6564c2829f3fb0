"""Providers are imported when they are chosen, and not before: Google's client takes a second."""

import subprocess
import sys

import pytest

HEAVY = ("aiobotocore", "botocore", "google.cloud.kms_v1", "sds_server.keys.aws", "sds_server.keys.gcp")


@pytest.mark.parametrize("module", ["sds_server.parts", "sds_server.keys.providers", "sds_server.cli.kms"])
def test_what_is_not_chosen_is_not_imported(module):
    said = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)

    assert "[]" == done.stdout.strip()
