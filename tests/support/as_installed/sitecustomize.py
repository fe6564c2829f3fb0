"""Programs that tests start go without what only development brings: structlog would load it, for 100 ms."""

import sys

sys.modules["rich"] = None  # type: ignore[assignment]  # an import of it fails, as it does where certvoy is installed
