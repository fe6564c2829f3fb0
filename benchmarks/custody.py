"""How fast keys open and are rewrapped on one core; ratios are to what they are made of, in the same run."""

import asyncio
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Final
from uuid import UUID, uuid4

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from acme_engine import keys
from benchmarks.report import Figures, Goals
from sds_server.clock import SystemClock
from sds_server.keys.kms import Sealer
from sds_server.keys.local import LocalKms
from sds_server.model import KeyId, SealedKey

COUNT: Final = 2_000
ROUNDS: Final = 5

OPENS: Final = "opens, cached DEK, a second and core"
GOALS: Final[Goals] = {OPENS: (">=", 50_000.0)}


def run(count: int = COUNT) -> tuple[Figures, Goals]:
    """Run it and return figures and goals; ``count``: so many keys."""
    with tempfile.TemporaryDirectory(prefix="certvoy-custody-") as directory:
        return asyncio.run(_measured(Path(directory), count)), GOALS


async def _measured(directory: Path, count: int) -> Figures:
    old, new = (LocalKms(directory / name, create=True) for name in ("old", "new"))
    before = Sealer(old, deployment=UUID(int=1), clock=SystemClock())
    after = Sealer(new, deployment=UUID(int=1), clock=SystemClock(), previous=[old])
    key = keys.generate(keys.KeyType.ECDSA_P256)
    content, spki = keys.pkcs8(key), keys.spki_sha256(key.public_key())
    sealed = [
        await before.seal(content, key_id=KeyId(uuid4()), purpose="leaf", spki_sha256=spki)
        for _ in range(count)
    ]
    for one in sealed:
        await before.open(one)
    plain = [os.urandom(len(content)) for _ in range(count)]
    opens, rewraps, moves, checks, ciphers = [], [], [], [], []
    for _ in range(ROUNDS):  # in turns: what else the machine does hits all of them
        ciphers.append(_rate(lambda: _encrypted(plain), count))
        checks.append(_rate(lambda: _parsed(content, count), count))
        opens.append(await _opened(before, sealed))
        rewraps.append(await _rewrapped(before, sealed))
        moves.append(await _rewrapped(after, sealed))
    return {
        OPENS: median(opens),
        "rewraps, same KEK, a second and core": median(rewraps),
        "rewraps, to another KEK, a second and core": median(moves),
        "AES-GCM of the same bytes, a second": median(ciphers),
        "opens for one AES-GCM": median(opens) / median(ciphers),
        "parses of the key with its SPKI, a second": median(checks),
        "opens for one parse": median(opens) / median(checks),
    }


async def _opened(sealer: Sealer, sealed: list[SealedKey]) -> float:
    begun = time.process_time()
    for one in sealed:
        await sealer.open(one)
    return len(sealed) / (time.process_time() - begun)


async def _rewrapped(sealer: Sealer, sealed: list[SealedKey]) -> float:
    begun = time.process_time()
    for one in sealed:
        await sealer.rewrap(one)
    return len(sealed) / (time.process_time() - begun)


def _encrypted(plain: list[bytes]) -> None:
    for content in plain:
        AESGCM(bytes(32)).encrypt(bytes(12), content, b"aad")


def _parsed(content: bytes, count: int) -> None:
    """What a first opening does besides: whose key is it?"""
    for _ in range(count):
        keys.spki_sha256(keys.load_pkcs8(content).public_key())


def _rate(work: Callable[[], None], count: int) -> float:
    begun = time.process_time()
    work()
    return count / (time.process_time() - begun)
