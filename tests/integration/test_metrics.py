"""/metrics of a running control plane: as promtool judges it, and while the database is away."""

import subprocess

import aiohttp
import pytest

from sds_server.programs.caddy import Caddy
from sds_server.programs.child import free_port
from sds_server.programs.postgres import EmbeddedPostgres
from tests.support.control_plane import HOST, ControlPlane, dsn, until
from tests.support.exposition import samples


async def scrape(plane: ControlPlane) -> bytes:
    port = (plane.directory / "ready").read_text().split()[3]
    async with aiohttp.ClientSession() as session, session.get(f"http://{HOST}:{port}/metrics") as response:
        assert 200 == response.status
        assert "text/plain" == response.content_type
        return await response.read()


@pytest.mark.debian
async def test_a_control_plane_at_work_tells_it_in_prometheus_own_manner(promtool, connect, tmp_path):
    http01_port = free_port()
    caddy = await Caddy.start(tmp_path / "caddy", responder=f"{HOST}:{http01_port}")
    plane = ControlPlane(tmp_path, database=dsn(connect), http01_port=http01_port)
    plane.issuer(caddy.directory_url, caddy.ca_file)
    plane.settings["metrics"] = {"listen": f"{HOST}:0"}
    await plane.start()

    async def complete():
        return samples(await scrape(plane))["certvoy_rotations_total", "completed_unobserved"] == 1

    try:
        await until(complete)
        raw = await scrape(plane)
    finally:
        await plane.stop()
        await caddy.stop()
    found = samples(raw)
    checked = subprocess.run([promtool, "check", "metrics"], input=raw, capture_output=True, check=False)

    assert (0, b"") == (checked.returncode, checked.stderr + checked.stdout)
    assert 1 == found["certvoy_attempts_total", "internal", "issued"]
    assert 1 == found["certvoy_acme_steps_total", "internal", "order.created"]
    assert 1 == found["certvoy_attempt_duration_seconds_count", "internal"]
    phases = ("order", "challenge", "authorization", "finalize", "download")
    timed = [found["certvoy_acme_phase_duration_seconds_count", "internal", phase] for phase in phases]
    assert [1, 1, 1, 1, 1] == timed
    assert 1 <= found["certvoy_challenges_asked_total", "answered", "http-01"]
    assert 0 == found["certvoy_rate_limited_total", "internal", "unknown"]
    assert 0 == found["certvoy_acme_bad_nonces_total", "internal"]
    assert 4 == found["certvoy_workers",]
    assert 0 == found["certvoy_workers_busy",]
    loops = {key[1] for key in found if key[0] == "certvoy_loop_last_success_timestamp_seconds"}
    assert {"feed", "publisher", "recorder", "prover", "scheduler", "census", "crl-reader"} <= loops


async def test_a_scrape_works_while_the_database_is_away_and_says_so(tmp_path):
    postgres = EmbeddedPostgres(tmp_path / "postgres", durable=False)
    await postgres.start()
    plane = ControlPlane(tmp_path, database=dsn(postgres.connect))
    plane.issuer(f"https://localhost:{free_port()}/directory", plane.client_ca)
    plane.settings["metrics"] = {"listen": f"{HOST}:0"}
    await plane.start()

    def up(value):
        async def holds():
            return samples(await scrape(plane))["certvoy_database_up",] == value

        return holds

    try:
        await until(up(1))
        postgres.kill()
        await until(up(0))
        found = samples(await scrape(plane))
    finally:
        plane.child.kill()
        await plane.child.wait()

    assert found["certvoy_loop_failures_total", "census"] >= 1
    assert 1 == found["certvoy_secrets", "none"]
