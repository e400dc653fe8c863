"""The options by which `list` and `reserve` choose machines alike. Their parameters have the names of the fields."""

from collections.abc import Callable

import click


def machine_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options for processor, memory, disk and network. An offer that does not tell a number does not pass."""
    for option in reversed(
        (
            click.option(
                "--min-cpu-cores", type=float, default=0.0, metavar="N", help="Minimum number of CPU cores of an offer."
            ),
            click.option(
                "--min-ram", "min_ram_gb", type=float, default=0.0, metavar="GB", help="Minimum memory of an offer."
            ),
            click.option(
                "--min-disk-bandwidth", type=float, default=0.0, metavar="MB/S", help="Minimum disk bandwidth."
            ),
            click.option("--min-inet-down", type=float, default=0.0, metavar="MBIT/S", help="Minimum download speed."),
            click.option("--min-inet-up", type=float, default=0.0, metavar="MBIT/S", help="Minimum upload speed."),
            click.option(
                "--max-traffic-price",
                type=float,
                metavar="USD",
                help="Maximum price of a GB of traffic, in both directions. 0: free traffic only.",
            ),
        )
    ):
        command = option(command)
    return command
