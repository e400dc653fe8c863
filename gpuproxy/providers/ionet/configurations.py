"""What can be rented at io.net, and the id of an offer of it.

A configuration is a hardware id, a number of cards and a location. io.net's ids and locations are numbers or texts, and
must be sent back with the JSON type that they came with. So the offer's id keeps the type: `ionet-i12:2:US` is the
number 12, `ionet-sB200_sxm6x8:8:AU` a text. Where the capacity is known, a fourth part counts the copies.
"""

import re
from dataclasses import dataclass

_ESCAPE = "-"
_ODD = re.compile(r"[^A-Za-z0-9_.]")
_ESCAPED = re.compile(r"-([0-9a-f]{2})")
_KEY = re.compile(r"(?P<kind>[is])(?P<id>[A-Za-z0-9_.-]+):(?P<cards>[1-9]\d{0,3}):(?P<place>[^:]+)(?::\d{1,4})?")
_LONGEST = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """A virtual machine that io.net rents out."""

    hardware: int | str
    """The `deploy_id` of a hardware row, which is the `hardware_id` of prices and deploys."""
    cards: int
    location: int | str

    @property
    def pool(self) -> str:
        """The hardware at its location, whatever the number of cards: what io.net shows instead of hosts."""
        return f"{_written(str(self.hardware))}@{_written(str(self.location))}"

    def native_id(self, copy: int = 0) -> str:
        """The offer's id without its prefix. Raises ValueError if it would be too long."""
        kind = "i" if isinstance(self.hardware, int) else "s"
        place = _written(str(self.location))
        if isinstance(self.location, int):
            place = f"{_ESCAPE}{_ESCAPE}{place}"
        key = f"{kind}{_written(str(self.hardware))}:{self.cards}:{place}" + (f":{copy}" if copy else "")
        if len(key) > _LONGEST:
            raise ValueError("the hardware id is too long")
        return key


def configuration_of(native_id: str) -> Configuration | None:
    """The configuration of an offer's id; None if it is not an id of io.net."""
    match = _KEY.fullmatch(native_id)
    if match is None:
        return None
    hardware, place = _read(match["id"]), match["place"]
    whole = place.startswith(_ESCAPE * 2)
    location = _read(place[2:] if whole else place)
    if not hardware or not location or (match["kind"] == "i" and not _is_whole(hardware)):
        return None
    if whole and not _is_whole(location):
        return None
    return Configuration(
        hardware=int(hardware) if match["kind"] == "i" else hardware,
        cards=int(match["cards"]),
        location=int(location) if whole else location,
    )


def _is_whole(text: str) -> bool:
    return text.isascii() and text.removeprefix("-").isdecimal()


def _written(text: str) -> str:
    """The text in the characters of an offer's id."""
    return _ODD.sub(lambda odd: "".join(f"{_ESCAPE}{byte:02x}" for byte in odd.group().encode()), text)


def _read(text: str) -> str:
    """The text that was written; "" if none was."""
    try:
        raw = _ESCAPED.sub(lambda each: chr(int(each[1], 16)), text).encode("latin-1").decode()
    except UnicodeError:
        return ""
    return raw if _written(raw) == text else ""
