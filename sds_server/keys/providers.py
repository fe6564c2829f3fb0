"""The KMS providers, each imported when it is chosen: some take a second to import."""

from collections.abc import Callable, Mapping

from sds_server.config.kms import KekConfig, KmsConfig
from sds_server.keys.kms import Kms


def _local(settings: KekConfig) -> Kms:
    from sds_server.keys.local import LocalKms  # noqa: PLC0415 - imported when chosen

    assert settings.key_file is not None  # noqa: S101 - the configuration asks for it
    # One that wrapped before is there, or nothing of it opens: a new one would hide that it is lost.
    return LocalKms(settings.key_file, create=isinstance(settings, KmsConfig))


def _gcp(settings: KekConfig) -> Kms:
    from sds_server.keys.gcp import GcpKms  # noqa: PLC0415 - imported when chosen

    assert settings.key is not None  # noqa: S101 - the configuration asks for it
    return GcpKms(key=settings.key, endpoint=settings.endpoint, credentials_file=settings.credentials_file)


def _aws(settings: KekConfig) -> Kms:
    from sds_server.keys.aws import AwsKms  # noqa: PLC0415 - imported when chosen

    assert settings.key is not None  # noqa: S101 - the configuration asks for it
    return AwsKms(key=settings.key, endpoint=settings.endpoint)


def _vault(settings: KekConfig) -> Kms:
    from sds_server.keys.vault import VaultKms  # noqa: PLC0415 - imported when chosen
    from sds_server.keys.vault_token import AppRole, Login, TokenFile  # noqa: PLC0415 - the same

    assert settings.key is not None and settings.address is not None  # noqa: S101, PT018 - the same
    login: Login
    if settings.role_id is not None and settings.secret_id_file is not None:
        login = AppRole(settings.role_id, settings.secret_id_file, mount=settings.auth_mount)
    else:
        assert settings.token_file is not None  # noqa: S101 - the same
        login = TokenFile(settings.token_file)
    return VaultKms(
        address=settings.address,
        key=settings.key,
        login=login,
        mount=settings.mount,
        namespace=settings.namespace,
        ca_file=settings.ca_file,
    )


PROVIDERS: Mapping[str, Callable[[KekConfig], Kms]] = {
    "local": _local,
    "gcp": _gcp,
    "aws": _aws,
    "vault": _vault,
}
