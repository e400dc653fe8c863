"""The example of docs/providers.md, which is no installed package: its adapter and its stand-in."""

import sys
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[1] / "docs" / "examples" / "marketplace"
sys.path.append(str(EXAMPLE))

from moon_stand_in import KEY, StandIn, subject  # noqa: E402 - found beside the documentation only

__all__ = ["EXAMPLE", "KEY", "StandIn", "subject"]
