"""The type of a path's file system, from the kernel's mount table, and whether it is a network file system.

On a network file system, SQLite's locks and shared memory aren't reliable: commits can be lost.
"""

import re
from pathlib import Path, PurePath

MOUNTINFO = Path("/proc/self/mountinfo")
"""The mount table. Only Linux has it; on other systems every file system counts as local."""

_REMOTE = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "9p", "afs", "coda", "ceph", "glusterfs", "lustre", "gpfs"}
_REMOTE |= {"beegfs", "fhgfs", "orangefs", "pvfs2", "panfs", "gfs2", "ocfs2"}
"""9p is included, although containers and virtual machines use it for folders of their host: it has no shared memory
and no locks that the host sees. virtiofs is not included: the guest's kernel provides both to all guest processes."""

_REMOTE_FUSE = {"sshfs", "glusterfs", "ceph", "ceph-fuse", "s3fs", "goofys", "mount-s3", "gcsfuse", "rclone", "juicefs"}
_REMOTE_FUSE |= {"seaweedfs", "mfs", "moosefs", "lizardfs", "blobfuse", "blobfuse2", "davfs", "curlftpfs", "smbnetfs"}
"""Types after `fuse.`. Every other FUSE file system counts as local."""

_OCTAL = re.compile(r"\\([0-7]{3})")


def file_system(mountinfo: str, path: PurePath) -> str:
    """The file system type of an absolute path without links, by the mount table; "" if the table doesn't say.

    The longest mount point that contains the path decides. Of equal ones it is the last, which hides the others.
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
    """True for a type that is known to be a network file system or shared between machines."""
    family, _, name = kind.partition(".")
    return kind in _REMOTE or (family == "fuse" and name in _REMOTE_FUSE)


def network_file_system(database: Path) -> str:
    """The network file system type of a database (a resolved path) or of its folder; "" if both are local."""
    try:
        mountinfo = MOUNTINFO.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
    kinds = (file_system(mountinfo, path) for path in (database, database.parent))
    return next((kind for kind in kinds if is_remote(kind)), "")


def _unescaped(text: str) -> str:
    r"""Decode a path of the table: the kernel writes a space as \040, a tab as \011 and a backslash as \134."""
    return _OCTAL.sub(lambda match: chr(int(match.group(1), 8)), text)
