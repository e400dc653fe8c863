"""The wrong values in the first rows of some new instances ("shy rows"). The market itself isn't affected."""

from gpuproxy.sandbox.market.instances import Instance, Misreport, Phase


def hidden(instance: Instance, now: float) -> str:
    """The wrong status in the row of a loading or running instance: exited, stopped or null; "" for none.

    If the instance was stopped or its container died, the row always shows it.
    """
    misreport = _present(instance, now)
    if misreport is None or instance.pretends or instance.phase not in (Phase.LOADING, Phase.RUNNING):
        return ""
    return misreport.status


def name(instance: Instance, now: float) -> str:
    """The GPU model that the next row shows."""
    misreport = _present(instance, now)
    if misreport is None or not misreport.gpu_name or (misreport.flips and instance.reads % 2):
        return instance.gpu_model
    return misreport.gpu_name


def was_read(instance: Instance) -> None:
    """Count that a row was shown; a flipping name changes with each row."""
    if instance.misreport is not None and instance.misreport.flips:
        instance.reads += 1


def _present(instance: Instance, now: float) -> Misreport | None:
    misreport = instance.misreport
    return misreport if misreport is not None and now < instance.created_at + misreport.seconds else None
