"""Which file system a path is on, by the kernel's table of mounts, and whether other machines can reach it.

On a network file system SQLite's locks and its shared memory can't be relied on: commits can be lost.
"""

import re
from pathlib import Path, PurePath

MOUNTINFO = Path("/proc/self/mountinfo")
"""Linux has it; elsewhere nothing is known."""

_REMOTE = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "9p", "afs", "coda", "ceph", "glusterfs", "lustre", "gpfs"}
_REMOTE |= {"beegfs", "fhgfs", "orangefs", "pvfs2", "panfs", "gfs2", "ocfs2"}
"""9p is among them although containers and virtual machines use it for folders of their own host: it has neither
shared memory nor locks that the host sees. virtiofs is not: the guest's kernel has both for all processes in it."""

_REMOTE_FUSE = {"sshfs", "glusterfs", "ceph", "ceph-fuse", "s3fs", "goofys", "mount-s3", "gcsfuse", "rclone", "juicefs"}
_REMOTE_FUSE |= {"seaweedfs", "mfs", "moosefs", "lizardfs", "blobfuse", "blobfuse2", "davfs", "curlftpfs", "smbnetfs"}
"""What follows `fuse.`. Every other FUSE file system counts as local."""

_OCTAL = re.compile(r"\\([0-7]{3})")


def file_system(mountinfo: str, path: PurePath) -> str:
    """The type of the file system that an absolute path without links is on; "" where the table does not say.

    The longest mount point that contains the path counts, and of equal ones the last: it covers the others.
    """
    found, depth = "", 0
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        fields, kinds = before.split(" "), after.split(" ")
        if not separator or len(fields) < 6:
            continue
        point = PurePath(_unescaped(fields[4]))
        if path.is_relative_to(point) and len(point.parts) >= depth:
            found, depth = kinds[0], len(point.parts)
    return found


def is_remote(kind: str) -> bool:
    """True for a file system that is known to be reached over a network, or shared between machines."""
    family, _, name = kind.partition(".")
    return kind in _REMOTE or (family == "fuse" and name in _REMOTE_FUSE)


def network_file_system(database: Path) -> str:
    """The type of the network file system that a database (its resolved path) or its folder is on; "" where none."""
    try:
        mountinfo = MOUNTINFO.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
    kinds = (file_system(mountinfo, path) for path in (database, database.parent))
    return next((kind for kind in kinds if is_remote(kind)), "")


def _unescaped(text: str) -> str:
    r"""The kernel writes a space as \040, a tab as \011, a line end as \012 and a backslash as \134."""
    return _OCTAL.sub(lambda match: chr(int(match.group(1), 8)), text)
