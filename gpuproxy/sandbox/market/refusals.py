"""The market's ways of saying no. Whoever gets one knows that nothing happened."""


class NoSuchAsk(Exception):
    """Nobody offers that."""


class NotRentable(Exception):
    """The offer exists, its GPUs or its disk are held."""


class NoCredit(Exception):
    """The account has nothing left."""


class NoSuchVolume(Exception):
    """Not this account's, or deleted."""


class ElsewhereVolume(Exception):
    """The volume lies on another machine than the offer."""


class VolumeInUse(Exception):
    """Instances have it, or had it a moment ago."""
