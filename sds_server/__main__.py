"""The command ``certvoy``; also ``python -m sds_server``."""

import sys

from sds_server.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
