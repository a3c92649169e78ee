"""The option by which a command waits for another that works on the same store."""

import argparse
import math


def add_wait(parser: argparse.ArgumentParser) -> None:
    """Add `--wait SECONDS` to a command that writes into a store."""
    parser.add_argument(
        "--wait",
        type=_seconds,
        default=0.0,
        metavar="SECONDS",
        help="time to wait for another command that works on the store (default: 0: report its owner and exit 1)",
    )


def _seconds(text: str) -> float:
    seconds = float(text)
    if not (seconds >= 0 and math.isfinite(seconds)):
        raise ValueError
    return seconds
