"""The program: `gpuproxy` and `python -m gpuproxy` are the command line. Ctrl-C is heard before that is imported."""

import sys

from gpuproxy.adapters import interrupts

_NO_COMMAND_LINE = (
    "The command line is not installed, only the Python client. To run the server: pip install 'gpuproxy[server]'. "
    "For the commands that call a server: pip install 'gpuproxy[cli]'."
)


def main() -> None:
    """Run the command that the program was called with."""
    interrupts.exit_on_interrupt()
    try:
        from gpuproxy import cli
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        print(_NO_COMMAND_LINE, file=sys.stderr)  # noqa: T201 - click.echo is what is missing
        raise SystemExit(2) from None

    cli.main()


if __name__ == "__main__":
    main()
