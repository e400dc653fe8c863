"""The file system of a path, read from samples of the kernel's mount table."""

from pathlib import Path, PurePosixPath

import pytest

from gpuproxy.store.sqlite import mounts
from gpuproxy.store.sqlite.mounts import file_system, is_remote

SAMPLE = r"""
22 27 0:20 / /proc rw,nosuid shared:12 - proc proc rw
27 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw,errors=remount-ro
60 27 0:52 / /mnt/share rw,relatime shared:30 - nfs4 store:/export rw,vers=4.2,hard
61 60 259:3 / /mnt/share/local rw,relatime - xfs /dev/sdb1 rw
62 27 0:53 / /mnt/my\040disk rw,relatime - cifs //store/my\040disk rw
63 27 0:52 /gpuproxy /srv/books rw,relatime shared:30 - nfs4 store:/export/gpuproxy rw
64 27 259:2 /var/data /srv/data rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw
65 27 0:54 / /media/remote rw,nosuid,nodev - fuse.sshfs me@host: rw,user_id=1000
66 27 0:55 / /media/stick rw,nosuid,nodev - fuseblk /dev/sdc1 rw
67 27 0:56 / /auto rw - autofs systemd-1 rw,fd=51
68 67 0:57 / /auto rw master:3 propagate_from:2 - nfs store:/auto rw
69 27 259:2 /var/data/books.db /app/books.db rw - ext4 /dev/nvme0n1p2 rw
70 27 0:58 / /back\134slash\011tab rw - 9p host rw
a line that is none
71 27 0:59 / /short
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/books.db", "ext4"),
        ("/mnt/books.db", "ext4"),
        ("/mnt/share/books.db", "nfs4"),
        ("/mnt/share", "nfs4"),
        ("/mnt/shared/books.db", "ext4"),  # a longer name, not a folder within
        ("/mnt/share/local/a/books.db", "xfs"),  # a mount within a mount
        ("/mnt/my disk/books.db", "cifs"),
        ("/srv/books/books.db", "nfs4"),  # bound to a folder of the share
        ("/srv/data/books.db", "ext4"),
        ("/media/remote/books.db", "fuse.sshfs"),
        ("/media/stick/books.db", "fuseblk"),
        ("/auto/books.db", "nfs"),  # what is mounted last covers the rest
        ("/app/books.db", "ext4"),
        ("/back\\slash\ttab/books.db", "9p"),
        ("/short/books.db", "ext4"),
    ],
)
def test_the_longest_mount_point_of_a_path_determines_its_file_system(path: str, kind: str) -> None:
    assert file_system(SAMPLE, PurePosixPath(path)) == kind


@pytest.mark.parametrize("mountinfo", ["", "nothing of the kind\n", "1 2 3\n - \n"])
def test_an_empty_mount_table_gives_no_file_system(mountinfo: str) -> None:
    assert file_system(mountinfo, PurePosixPath("/books.db")) == ""


REMOTE = "nfs nfs4 cifs smb3 smbfs 9p afs ceph glusterfs lustre gpfs beegfs fuse.sshfs fuse.glusterfs fuse.rclone"
LOCAL = "ext4 xfs btrfs zfs tmpfs overlay fuse fuseblk fuse.ntfs-3g fuse.bindfs virtiofs apfs sshfs fuse.nfs"


def test_a_network_file_system_is_remote() -> None:
    assert [kind for kind in REMOTE.split() if not is_remote(kind)] == []


def test_a_local_or_unknown_file_system_is_not_remote() -> None:
    assert [kind for kind in ("", *LOCAL.split()) if is_remote(kind)] == []


def test_the_folder_of_a_database_counts_too_because_the_log_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "mountinfo"
    monkeypatch.setattr(mounts, "MOUNTINFO", table)
    table.write_text(SAMPLE + "80 27 0:60 / /app rw - nfs4 store:/app rw\n")
    assert mounts.network_file_system(Path("/app/books.db")) == "nfs4"
    assert mounts.network_file_system(Path("/srv/data/books.db")) == ""


def test_without_a_mount_table_nothing_is_remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "MOUNTINFO", tmp_path / "none")
    assert mounts.network_file_system(Path("/mnt/share/books.db")) == ""
