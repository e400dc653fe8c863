"""What the first rows of a shy instance say instead of the truth. Nothing here changes the market."""

from gpuproxy.sandbox.market.instances import Instance, Phase, Shyness


def hidden(instance: Instance, now: float) -> str:
    """The status behind which a row hides that the instance loads or runs: exited, stopped, null; empty: it does not.

    What happened to an instance since (it was stopped, or its container died) is never hidden.
    """
    shyness = _present(instance, now)
    if shyness is None or instance.phase not in (Phase.LOADING, Phase.RUNNING):
        return ""
    return shyness.status


def name(instance: Instance, now: float) -> str:
    """The model as the next row shows it."""
    shyness = _present(instance, now)
    if shyness is None or not shyness.gpu_name or (shyness.flips and instance.reads % 2):
        return instance.gpu_model
    return shyness.gpu_name


def was_read(instance: Instance) -> None:
    """A row was shown; a name that flips is the other one in the next."""
    if instance.shyness is not None and instance.shyness.flips:
        instance.reads += 1


def _present(instance: Instance, now: float) -> Shyness | None:
    shyness = instance.shyness
    return shyness if shyness is not None and now < instance.created_at + shyness.seconds else None
