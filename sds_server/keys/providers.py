"""The KMS providers, each imported when it is chosen: some take a second to import."""

from collections.abc import Callable, Mapping

from sds_server.config import KmsConfig
from sds_server.keys.kms import Kms


def _local(settings: KmsConfig) -> Kms:
    from sds_server.keys.local import LocalKms  # noqa: PLC0415 - imported when chosen

    return LocalKms(settings.key_file, create=True)


PROVIDERS: Mapping[str, Callable[[KmsConfig], Kms]] = {"local": _local}
