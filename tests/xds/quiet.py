"""Importing this first imports envoy-data-plane without its warnings, which the tests would take for errors.

It decorates its validators in a way that pydantic 2.12 deprecates.
"""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import envoy_data_plane.envoy.service.discovery.v3  # noqa: F401

    import sds_server.xds.bootstrap  # noqa: F401
