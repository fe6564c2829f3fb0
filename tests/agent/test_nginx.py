"""nginx by its pid file: who gets the signal, and who does not."""

import subprocess
import sys

import pytest

from sds_server.agent.installers.installer import NotRunning, Placed, Rejected
from sds_server.agent.installers.nginx import Nginx, NginxSettings


@pytest.fixture
def nginx(tmp_path):
    settings = NginxSettings.model_construct(
        command=("nginx",), pid_file=tmp_path / "nginx.pid", reload=True, timeout=None
    )
    return Nginx(settings)


async def load(nginx, tmp_path):
    await nginx.load(None, Placed(tmp_path))


@pytest.mark.parametrize("content", [None, "", "\n", "soon\n", "4194305\n"])
async def test_a_pid_file_that_names_no_process_is_no_running_nginx(nginx, tmp_path, content):
    if content is not None:
        (tmp_path / "nginx.pid").write_text(content)
    with pytest.raises(NotRunning):
        await load(nginx, tmp_path)


async def test_a_process_that_has_the_number_now_gets_no_signal(nginx, tmp_path):
    """SIGHUP would end it."""
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        (tmp_path / "nginx.pid").write_text(f"{other.pid}\n")
        with pytest.raises(NotRunning, match="is no nginx"):
            await load(nginx, tmp_path)
        assert other.poll() is None
    finally:
        other.kill()
        other.communicate()


async def test_a_pid_file_that_is_none_is_said(nginx, tmp_path):
    (tmp_path / "nginx.pid").mkdir()
    with pytest.raises(Rejected, match="cannot read"):
        await load(nginx, tmp_path)
