"""The systemd unit: systemd accepts it, it exposes little, and the server works within its limits."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.deploy.confined import UNAVAILABLE
from tests.deploy.programs import FILES, debian, environment, unavailable
from tests.system.processes import KIND, Client, Market, until

pytestmark = pytest.mark.long
UNIT = FILES / "gpuproxy.service"
MOST_EXPOSED = 2.0
_CONFINED = Path(__file__).with_name("confined.py")


def judged(folder: Path, text: str) -> list[str]:
    """What systemd finds wrong with a unit; the program that it starts is Python."""
    unit = folder / "gpuproxy.service"
    unit.write_text(text.replace("/opt/gpuproxy/bin/gpuproxy", sys.executable))
    analyze, env = debian("systemd-analyze"), environment("systemd-analyze")
    found = [] if "\nUser=gpuproxy\n" in text else ["it runs as another user"]
    words = [analyze, "verify", "--man=no", str(unit)]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    if done.returncode or done.stderr:
        found.append(done.stderr or "verify")
    words = [analyze, "security", "--offline=yes", f"--threshold={MOST_EXPOSED * 10:.0f}", "--no-pager", str(unit)]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        found.append(f"exposed: {done.stdout[-200:]}{done.stderr}")
    return found


def test_systemd_accepts_the_unit_and_it_exposes_little(tmp_path: Path) -> None:
    assert judged(tmp_path, UNIT.read_text()) == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("ProtectHome=yes", "ProtectHom=yes"),
        ("Type=exec", "Type=exe"),
        ("Restart=always", "Restart=sometimes"),
        ("User=gpuproxy", "User=root"),
        ("SystemCallFilter=@system-service\nSystemCallFilter=~@privileged @resources\n", ""),
        ("CapabilityBoundingSet=\n", ""),
        ("RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX\nRestrictNamespaces=yes\n", ""),
    ],
)
def test_a_broken_or_open_unit_is_noticed(right: str, wrong: str, tmp_path: Path) -> None:
    assert right in UNIT.read_text()
    assert judged(tmp_path, UNIT.read_text().replace(right, wrong)) != []


def test_the_unit_and_the_image_keep_the_same_files_and_stop_in_time() -> None:
    unit, image = UNIT.read_text(), (FILES / "Containerfile").read_text()
    assert "\nStateDirectory=gpuproxy\n" in unit
    for text in (unit, image):
        assert "GPUPROXY_DATABASE_URL=sqlite:////var/lib/gpuproxy/gpuproxy.db" in text
    assert "\nTimeoutStopSec=60\n" in unit  # more than GPUPROXY_DRAIN_SECONDS
    assert "\nRestart=always\n" in unit


def started(folder: Path, unit: Path, writable: Path, market: str) -> "subprocess.Popen[str]":
    """A server within the unit's limits."""
    analyze = debian("systemd-analyze")
    env = environment("systemd-analyze") | {
        "PATH": f"{Path(analyze).parent}:{os.environ['PATH']}",
        "GPUPROXY_DATABASE_URL": f"sqlite:///{folder}/gpuproxy.db",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    lines = (
        "GPUPROXY_GRPC_ADDR=127.0.0.1:0",
        "GPUPROXY_HTTP_ADDR=127.0.0.1:0",
        f"GPUPROXY_VASTAI_URL={market.replace('127.0.0.1', 'localhost')}",  # so that it asks for an address
        "VASTAI_API_KEY=sandbox-key",
    )
    (folder.parent / "gpuproxy.env").write_text("\n".join(lines))
    (folder / ".env").symlink_to(folder.parent / "gpuproxy.env")
    words = [sys.executable, str(_CONFINED), str(unit), str(writable), sys.executable, "-m", "gpuproxy", "serve"]
    pipe = subprocess.PIPE
    return subprocess.Popen(words, cwd=folder, env=env, stdout=pipe, stderr=subprocess.STDOUT, text=True)


def address(process: "subprocess.Popen[str]") -> str:
    """The address for gRPC; fails with all that was printed if the server has ended."""
    printed = []
    assert process.stdout is not None
    for line in process.stdout:
        printed.append(line)
        if line.startswith("gRPC"):
            return line.removeprefix("gRPC").strip()
    if process.wait() == UNAVAILABLE:
        unavailable("a confined process", printed[-1])
    raise AssertionError("".join(printed))


@pytest.mark.sampled(0)
def test_the_server_rents_and_stops_within_the_limits_of_the_unit(tmp_path: Path) -> None:
    with Market(tmp_path, *KIND, "--boot-time", "1,2") as market:
        folder = tmp_path / "state"
        folder.mkdir()
        with started(folder, UNIT, folder, market.url) as process:
            try:
                to = address(process)
                with Client(to, (folder / "gpuproxy.db.admin-key").read_text().strip()) as client:
                    until(client.knows_offers)
                    wanted = pb.ReserveGPUsRequest(count=1, max_price=5.0, request_id="a", wait_for="ready")
                    assert client.call("ReserveGPUs", wanted).reserved_count == 1
                process.send_signal(signal.SIGTERM)
                printed = process.communicate(timeout=600)[0]
            finally:
                process.kill()
        assert process.returncode == 0, printed
        assert "error" not in printed.lower(), printed
        assert len(market.alive()) == 1


@pytest.mark.parametrize(
    ("right", "wrong", "elsewhere"),
    [
        ("", "", True),
        ("~@privileged @resources", "~@privileged @resources @network-io", False),
        ("AF_INET AF_INET6 AF_UNIX", "AF_INET6", False),
        ("LimitNOFILE=16384", "LimitNOFILE=16", False),
    ],
)
@pytest.mark.sampled(0)
def test_limits_that_are_too_tight_are_noticed(right: str, wrong: str, elsewhere: bool, tmp_path: Path) -> None:
    unit, folder, other = tmp_path / "gpuproxy.service", tmp_path / "state", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    unit.write_text(UNIT.read_text().replace(right, wrong) if right else UNIT.read_text())
    assert not right or unit.read_text() != UNIT.read_text()
    with started(folder, unit, other if elsewhere else folder, "http://127.0.0.1:9") as process:
        try:
            with pytest.raises(AssertionError):
                address(process)
        finally:
            process.kill()
