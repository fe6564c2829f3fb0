"""AWS KMS as moto tells it, on loopback; unlike AWS, a disabled key still decrypts there."""

import sys
from pathlib import Path

import aiohttp
from aiobotocore.session import get_session

from sds_server.programs.child import Child, free_port

REGION = "eu-west-1"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class Moto:
    """A running server."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._child = Child(
            "moto",
            [Path(sys.executable).parent / "moto_server", "-H", "127.0.0.1", "-p", str(self.port)],
            log=directory / "moto.log",
            env=CREDENTIALS,
        )

    @classmethod
    async def start(cls, directory: Path) -> "Moto":
        moto = cls(directory)
        await moto._child.ready(moto._answers, timeout_s=180)
        return moto

    async def stop(self) -> None:
        await self._child.stop()

    def kill(self) -> None:
        self._child.kill()

    async def key(self) -> str:
        """Make a key, and return its ARN."""
        async with get_session().create_client(
            "kms",
            region_name=REGION,
            endpoint_url=self.endpoint,
            aws_access_key_id="test",
            aws_secret_access_key="test",
        ) as client:
            made = await client.create_key()
        return made["KeyMetadata"]["Arn"]

    async def _answers(self) -> bool:
        try:
            async with (
                aiohttp.ClientSession() as http,
                http.get(f"{self.endpoint}/moto-api/data.json") as answer,
            ):
                return answer.status == 200
        except aiohttp.ClientError:
            return False
