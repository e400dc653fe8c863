"""The program: `gpuproxy` and `python -m gpuproxy` are the command line. Ctrl-C is heard before that is imported."""

from gpuproxy.adapters import interrupts


def main() -> None:
    """Run the command that the program was called with."""
    interrupts.exit_on_interrupt()
    from gpuproxy import cli

    cli.main()


if __name__ == "__main__":
    main()
