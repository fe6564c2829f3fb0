"""Many rotations under handshakes that never pause, for each form in which Envoy can ask for secrets."""

import os
import subprocess
import sys

TEST = "tests/integration/test_envoy_matrix.py"


def rotate_each(rotations: int) -> bool:
    """Run them; False: a handshake failed, or showed what was no longer served."""
    argv = [sys.executable, "-m", "pytest", "-q", "-n", "2", TEST, "-k", "rotation_under_handshakes"]
    run = subprocess.run(argv, env={**os.environ, "CERTVOY_MATRIX_ROTATIONS": str(rotations)}, check=False)
    return run.returncode == 0
