"""The options by which `list` and `reserve` choose machines alike. Their parameters have the names of the fields."""

from collections.abc import Callable

import click

from gpuproxy.cli.arguments import NumberType


def machine_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options for processor, memory, disk and network. An offer that does not tell a number does not pass."""
    for option in reversed(
        (
            _least("--min-cpu-cores", metavar="N", text="Minimum number of CPU cores of an offer."),
            _least("--min-ram", "min_ram_gb", metavar="GB", text="Minimum memory of an offer."),
            _least("--min-disk-bandwidth", metavar="MB/S", text="Minimum disk bandwidth."),
            _least("--min-inet-down", metavar="MBIT/S", text="Minimum download speed."),
            _least("--min-inet-up", metavar="MBIT/S", text="Minimum upload speed."),
            click.option(
                "--max-traffic-price",
                type=NumberType(),
                metavar="USD",
                help="Maximum price of a GB of traffic, in both directions. 0: free traffic only.",
            ),
        )
    ):
        command = option(command)
    return command


def _least(*names: str, metavar: str, text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(*names, type=NumberType(), default=0.0, metavar=metavar, help=text)
