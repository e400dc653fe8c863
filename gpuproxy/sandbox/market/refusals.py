"""The market's refusals. After one of these exceptions, nothing has changed."""


class NoSuchAsk(Exception):
    """There is no such offer."""


class NotRentable(Exception):
    """The offer exists, but its GPUs or its disk are in use."""


class NoCredit(Exception):
    """The account has no credit left."""


class NoSuchVolume(Exception):
    """The volume is deleted, unknown or belongs to another account."""


class ElsewhereVolume(Exception):
    """The volume is on another machine than the offer."""


class VolumeInUse(Exception):
    """Instances use the volume, or used it a moment ago."""
