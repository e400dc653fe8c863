"""The command `completion`: the script with which a shell completes commands, options and their values.

click writes the script. On each Tab it asks this program, so that a completion is always that of the installed version.
"""

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")
_ASK = "_GPUPROXY_COMPLETE"
"""The environment variable with which the script asks, as click derives it from the program's name."""


@click.command(
    epilog="bash: add `source <(gpuproxy completion bash)` to ~/.bashrc. zsh: add `source <(gpuproxy completion zsh)` "
    "to ~/.zshrc, after compinit. fish: run `gpuproxy completion fish > ~/.config/fish/completions/gpuproxy.fish`."
)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that completes gpuproxy's commands and options in SHELL."""
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"this version of click can't complete in {shell}.")
    click.echo(kind(ctx.find_root().command, {}, "gpuproxy", _ASK).source())
