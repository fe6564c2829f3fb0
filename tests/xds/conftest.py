import tests.xds.quiet  # noqa: F401 - before any test module is imported
