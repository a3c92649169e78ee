"""The option by which a command waits for another that works on the same store."""

import argparse
import math


def add_wait(one: argparse.ArgumentParser) -> None:
    """Add `--wait SECONDS` to a command that writes into a store."""
    one.add_argument(
        "--wait",
        type=_seconds,
        default=0.0,
        metavar="SECONDS",
        help="wait so long where another command works on the store (default: say who it is, and exit 1)",
    )


def _seconds(text: str) -> float:
    seconds = float(text)
    if not (seconds >= 0 and math.isfinite(seconds)):
        raise ValueError
    return seconds
