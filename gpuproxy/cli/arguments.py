"""What the words of the command line may be. What no call can carry is wrong usage, told before there is one."""

import click


class IdType(click.ParamType[str]):
    """A name of something: never blank, since a blank request id is that of every reservation made without one."""

    name = "id"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Fails the command for a blank one."""
        text = str(value)
        if not text.strip():
            self.fail("must not be empty", param, ctx)
        return text
