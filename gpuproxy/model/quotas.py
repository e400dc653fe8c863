"""How much a project may have at once."""

from collections.abc import Sequence
from dataclasses import dataclass

from gpuproxy.model.errors import FailedPrecondition
from gpuproxy.model.limits import Hold
from gpuproxy.model.money import Micro, dollars
from gpuproxy.model.reasons import Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """How much a project may have at once. None: any number. `project` "": every project without a quota."""

    project: str
    gpus: int | None = None
    rate: Micro | None = None
    """All-in micro-dollars per hour of everything that is rented, or may be."""

    def refusal(self, project: str, before: Sequence[Hold], after: Sequence[Hold]) -> FailedPrecondition | None:
        """The error if these holds of the project exceed its quota and its holds before did not use as much."""
        gpus, gpus_before = (sum(h.gpus for h in holds if h.admitted) for holds in (after, before))
        rate, rate_before = (sum(h.rate for h in holds if h.admitted) for holds in (after, before))
        if self.gpus is not None and gpus > max(self.gpus, gpus_before):
            return _over_quota(
                f"The quota of project {project} is {self.gpus} GPUs at once: it has {gpus_before}, and this needs "
                f"{gpus - gpus_before} more. Nothing was rented. Release machines, or ask an admin for a larger quota.",
                quota="gpus", project=project, limit=self.gpus, used=gpus_before, asked=gpus - gpus_before,
            )  # fmt: skip
        if self.rate is not None and rate > max(self.rate, rate_before):
            return _over_quota(
                f"The quota of project {project} is {dollars(self.rate)} per hour: it pays {dollars(rate_before)}, and "
                f"this costs {dollars(rate - rate_before)} more. Nothing was rented. Release machines, or ask an "
                "admin for a larger quota.",
                quota="price_per_hour", project=project, limit=self.rate, used=rate_before, asked=rate - rate_before,
            )  # fmt: skip
        return None


def _over_quota(message: str, **metadata: object) -> FailedPrecondition:
    return FailedPrecondition(
        message, reason=Reason.QUOTA_EXCEEDED, metadata={name: str(value) for name, value in metadata.items()}
    )
