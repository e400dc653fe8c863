"""A plausible programming mistake, as a small edit of the source."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Mistake:
    """One edit: in `file` (below gpuproxy/), `old` becomes `new`."""

    name: str
    file: str
    old: str
    new: str

    def applied(self, text: str) -> str:
        """The source with the mistake. Raises ValueError unless `old` occurs exactly once."""
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: the place occurs {text.count(self.old)} times in {self.file}")
        return text.replace(self.old, self.new)

    def plant(self, root: Path) -> None:
        """Apply the mistake to a copy of the project."""
        path = root / "gpuproxy" / self.file
        path.write_text(self.applied(path.read_text()))
