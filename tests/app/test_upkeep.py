"""Commands of operators: doctor, reconcile, export and import of the signing key, backup and restore."""

import json
import stat
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from gpuproxy.app import upkeep, user_admin
from gpuproxy.cli import root
from gpuproxy.config.environment import ConfigError
from gpuproxy.config.settings import Settings
from gpuproxy.model.demands import Caller
from gpuproxy.model.leases import LeaseState
from gpuproxy.store.sqlite.driver import sqlite3
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.adapters.test_ssh_login import key_file
from tests.system.processes import KIND, UNPACED, Market, Server, until
from tests.world import World, in_world

pytestmark = pytest.mark.long


def settings_in(directory: Path) -> Settings:
    return Settings(database_url=f"sqlite:///{directory}/books.db")


def test_a_new_database_with_the_signing_key_is_the_same_deployment(tmp_path: Path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    user_admin.create_key(settings_in(old), "ci", "user", "default")
    upkeep.export_signing(settings_in(old), tmp_path / "key")
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    upkeep.import_signing(settings_in(new), tmp_path / "key")
    upkeep.export_signing(settings_in(new), tmp_path / "again")
    assert (tmp_path / "again").read_text() == (tmp_path / "key").read_text()


CARRIED = pytest.mark.parametrize("words", [("keys", "export-signing"), ("backup",)], ids=" ".join)


@CARRIED
@pytest.mark.parametrize("name", ["another", "link", "books.db"])
def test_an_exported_key_replaces_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], name: str
):
    another = json.dumps({"deployment": "abcdef", "key": "a" * 44})
    (tmp_path / "another").write_text(another)
    (tmp_path / "link").symlink_to(tmp_path / "target")
    user_admin.create_key(settings_in(tmp_path), "ci", "user", "default")
    before = {file.name for file in tmp_path.iterdir()}
    _use(monkeypatch, tmp_path)
    result = CliRunner().invoke(root, [*words, str(tmp_path / name)])
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert result.stderr.endswith("Name another file.\n")
    assert {file.name for file in tmp_path.iterdir()} == before
    assert (tmp_path / "another").read_text() == another
    assert [key.name for key in user_admin.list_keys(settings_in(tmp_path))] == ["ci"]


@CARRIED
@pytest.mark.parametrize("end", ["", "-wal", "-shm", ".lock", ".ballast", ".admin-key", ".demand-key", ".sandbox"])
def test_an_exported_key_never_gets_the_path_of_a_database_file_even_if_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], end: str
):
    user_admin.create_key(settings_in(tmp_path), "ci", "user", "default")
    before = {file.name for file in tmp_path.iterdir()}
    _use(monkeypatch, tmp_path)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(root, [*words, f"books.db{end}"])
    said = f"books.db{end} is a file of the database itself. Name another file.\n"
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", said)
    assert {file.name for file in tmp_path.iterdir()} == before


def test_an_export_over_the_same_key_is_allowed_and_made_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    user_admin.create_key(settings_in(tmp_path), "ci", "user", "default")
    _use(monkeypatch, tmp_path)
    file = tmp_path / "key"
    assert CliRunner().invoke(root, ["keys", "export-signing", str(file)]).stdout.startswith(f"wrote {file}")
    kept = file.read_text()
    file.chmod(0o644)
    again = CliRunner().invoke(root, ["keys", "export-signing", str(file)])
    said = f"{file} already contains this key; store it separately from the database\n"
    assert (again.exit_code, again.stdout.endswith(said), file.read_text()) == (0, True, kept)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_an_invalid_signing_key_is_refused(tmp_path: Path):
    (tmp_path / "key").write_text(json.dumps({"deployment": "abcdef"}))
    with pytest.raises(ConfigError, match="not a signing key"):
        upkeep.import_signing(settings_in(tmp_path), tmp_path / "key")


def test_a_lost_database_with_its_key_releases_its_machines():
    async def story(world: World) -> None:
        made = await world.reserve(2)
        await world.sleep(700)
        world.lose_books()
        await world.restart()
        await world.sleep(590)
        assert len(world.alive()) == 2  # an operator who restored an old copy has ten minutes to react
        await world.sleep(120)
        assert world.alive() == {}
        orphans = [lease for lease in await world.leases() if lease.reason == "ORPHAN"]
        assert {lease.instance_id for lease in orphans} == {lease.instance_id for lease in made.leases}

    in_world(story)


def test_without_the_key_machines_of_a_lost_database_are_not_touched():
    async def story(world: World) -> None:
        await world.reserve(2)
        await world.sleep(700)
        world.lose_books(keep_key=False)
        await world.restart()
        await world.sleep(3600)
        assert len(world.alive()) == 2

    in_world(story)


def test_a_dry_run_prints_the_steps_and_changes_nothing():
    async def story(world: World) -> None:
        made = await world.reserve(1)
        await world.sleep(60)
        await world.db.write(lambda tx: tx.execute("UPDATE leases SET expires_at = 0, version = version + 1"))
        decided = await next(iter(world.engine.watches)).preview()
        assert [type(step).__name__ for step in decided.steps] == ["Advance"]
        assert (await world.view(made.reservation.id)).leases[0].state is LeaseState.ACTIVE
        assert len(world.alive()) == 1

    in_world(story)


def test_without_a_key_reconcile_names_the_settings_of_every_marketplace_of_the_sandbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    user_admin.create_key(settings_in(tmp_path), "ci", "user", "default")
    _use(monkeypatch, tmp_path)
    told = CliRunner().invoke(root, ["reconcile", "--once", "--dry-run"])
    assert told.exit_code == 2
    for env in ("VASTAI", "IONET"):
        for setting in (f"GPUPROXY_{env}_URL", f"{env}_API_KEY=sandbox-key", f"{env}_API_KEY_NAMES=sandbox-1"):
            assert setting in told.stderr


@pytest.mark.parametrize(
    ("fault", "reason"), [("rate_limited", "RATE_LIMITED: "), ("refuse_connection", "PROVIDER_UNAVAILABLE: ")]
)
def test_a_pass_without_an_answer_says_why_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, reason: str
):
    user_admin.create_key(settings_in(tmp_path), "ci", "user", "default")
    _use(monkeypatch, tmp_path)
    with Market(tmp_path, *KIND) as market:
        _use_market(monkeypatch, market)
        faults = {"provider": "vast.ai", "call": "any", "fault": fault, "times": 0}
        market.control("POST", "faults", faults)
        told = CliRunner().invoke(root, ["reconcile", "--once", "--dry-run"])
        assert told.exit_code == 1
        assert f"vast-1: no step, because the provider does not answer. {reason}" in told.stdout
        assert ("uses the same limit" in told.stdout) == (fault == "rate_limited")
        market.control("DELETE", "faults")
        assert CliRunner().invoke(root, ["reconcile", "--once", "--dry-run"]).exit_code == 0


NOTHING = "No problems found."
KEYLESS = "No marketplace key is set here: only the database was checked."


def test_doctor_reports_unknown_outcomes_and_what_to_do():
    async def story(world: World) -> None:
        from gpuproxy.health.checkup import findings

        world.arm("create", "reset_before")
        made = await world.reserve(1, request_id="a")
        key = (made.leases[0].provider, made.leases[0].account)
        found = await world.db.read(lambda tx: findings(tx, {key}))
        assert [finding.kind for finding in found] == ["unknown"]
        assert made.leases[0].label in found[0].advice
        gone = await world.db.read(lambda tx: findings(tx, set()))
        assert [finding.kind for finding in gone] == ["unknown", "unconfigured"]

    in_world(story)


def test_doctor_reports_nothing_if_nothing_is_wrong():
    async def story(world: World) -> None:
        from gpuproxy.health.checkup import findings

        made = await world.reserve(2)
        await world.sleep(100)
        await world.engine.reservations.release(Caller(project="p1"), made.reservation.id)
        await world.sleep(30)
        key = (made.leases[0].provider, made.leases[0].account)
        assert await world.db.read(lambda tx: findings(tx, {key})) == ()

    in_world(story)


def test_a_database_copied_beside_a_running_server_works_after_a_restore(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with Market(tmp_path, *KIND, "--boot-time", "0.1,0.2") as market:
        with Server(tmp_path, market, **UNPACED) as server:
            with server.client() as client:
                until(client.knows_offers)
                made = client.call("ReserveGPUs", pb.ReserveGPUsRequest(count=2, max_price=5, request_id="a"))
            _use(monkeypatch, tmp_path)
            keyless = CliRunner().invoke(root, ["doctor"])  # this shell has no key, even if the server has one
            assert (keyless.exit_code, keyless.output) == (0, f"{KEYLESS}\n{NOTHING}\n")
            _use_market(monkeypatch, market)
            copied = CliRunner().invoke(root, ["backup", str(tmp_path / "copy.db")])
            assert copied.exit_code == 0, copied.output
            dry = CliRunner().invoke(root, ["reconcile", "--once", "--dry-run"])
            assert dry.exit_code == 0, dry.output
            assert "vast-1" in dry.output
            assert CliRunner().invoke(root, ["doctor"]).exit_code == 0
        for name in ("books.db", "books.db-wal", "books.db-shm"):
            (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / "copy.db").rename(tmp_path / "books.db")
        with closing(sqlite3.connect(tmp_path / "books.db")) as copy:
            assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        with Server(tmp_path, market, **UNPACED) as server, server.client() as client:
            again = client.call("ReserveGPUs", pb.ReserveGPUsRequest(count=2, max_price=5, request_id="a"))
            assert again.reservation_id == made.reservation_id
            assert {i.contract_id for i in again.reserved_instances} == set(market.alive())


def test_what_a_pass_logs_goes_to_stderr_and_its_steps_to_stdout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with Market(tmp_path, *KIND, "--boot-time", "0.1,0.2") as market:
        with Server(tmp_path, market, **UNPACED) as server, server.client() as client:
            wanted = pb.ReserveGPUsRequest(count=1, max_price=5, wait_for="ready", request_id="a")
            until(client.knows_offers)
            (machine,) = client.call("ReserveGPUs", wanted).reserved_instances
        market.control("POST", f"instances/{machine.contract_id}/kill", {"how": "container"})
        _use(monkeypatch, tmp_path)
        _use_market(monkeypatch, market)
        done = CliRunner().invoke(root, ["reconcile", "--once"])
    assert done.exit_code == 0, done.output
    assert "instance_died" in done.stderr
    assert "instance_died" not in done.stdout
    assert "vast-1" in done.stdout


def _rented(tmp_path: Path, market: Market, **settings: str) -> None:
    """Rent a machine with an end from a server with these settings. When this returns, only the machine runs."""
    with Server(tmp_path, market, **UNPACED, **settings) as server, server.client() as client:
        until(client.knows_offers)
        wanted = pb.ReserveGPUsRequest(count=1, max_price=5, request_id="a")
        wanted.lease_duration.FromSeconds(36_000)
        (machine,) = client.call("ReserveGPUs", wanted).reserved_instances
    until(lambda: market.alive()[machine.contract_id]["status"] == "running")


@pytest.mark.parametrize("has_key", [True, False])
def test_a_pass_believes_a_machine_that_only_greets_unless_a_check_key_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_key: bool
):
    with Market(tmp_path, *KIND, "--boot-time", "4,5") as market:
        settings = {"GPUPROXY_SSH_CHECK_KEY": str(key_file(tmp_path))} if has_key else {}
        _rented(tmp_path, market, **settings)
        _use(monkeypatch, tmp_path)
        _use_market(monkeypatch, market)
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        done = CliRunner().invoke(root, ["reconcile", "--once"])
    assert done.exit_code == 0, done.output
    with closing(sqlite3.connect(tmp_path / "books.db")) as books:
        assert (books.execute("SELECT state FROM leases").fetchall() == [("active",)]) == (not has_key)


@pytest.mark.parametrize(("notice", "told"), [("40m", True), ("10m", False)])
def test_a_pass_has_the_limits_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notice: str, *, told: bool
):
    with Market(tmp_path, *KIND, "--boot-time", "0.1,0.2") as market:
        _rented(tmp_path, market)
        with closing(sqlite3.connect(tmp_path / "books.db")) as books, books:
            half = 1_800 * 1_000_000
            change = "UPDATE leases SET expires_at = created_at + ?, created_at = created_at - 20 * ?"
            books.execute(change, (half, half))
        _use(monkeypatch, tmp_path)
        _use_market(monkeypatch, market)
        monkeypatch.setenv("GPUPROXY_ENDING_SOON", notice)
        done = CliRunner().invoke(root, ["reconcile", "--once"])
    assert done.exit_code == 0, done.output
    assert ("lease_ending_soon" in done.stderr) == told


def test_a_notice_alone_is_printed_and_marked_but_is_no_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _use(monkeypatch, tmp_path)
    with (
        Market(tmp_path, *KIND, "--boot-time", "0.1,0.2") as market,
        Server(tmp_path, market, **UNPACED, GPUPROXY_RECONCILE_INTERVAL="2") as server,
        server.client() as client,
    ):
        wanted = pb.ReserveGPUsRequest(count=1, max_price=5, wait_for="ready", request_id="a")
        until(client.knows_offers)
        (machine,) = client.call("ReserveGPUs", wanted).reserved_instances
        market.control("POST", f"instances/{machine.contract_id}/contract", {"ends_in_seconds": 3600})
        until(lambda: "contract_ends" in CliRunner().invoke(root, ["doctor"]).stdout)
    told, as_json = CliRunner().invoke(root, ["doctor"]), CliRunner().invoke(root, ["doctor", "--json"])
    assert (told.exit_code, as_json.exit_code) == (0, 0)
    assert told.stdout.startswith(f"{KEYLESS}\ncontract_ends (notice): ")
    assert f"End of the contract of vast.ai {machine.contract_id}: " in told.stdout
    assert told.stdout.endswith("\nNo problems found, only notices.\n")
    assert [(each["kind"], each["notice"]) for each in json.loads(as_json.stdout)["findings"]] == [
        ("contract_ends", True)
    ]
    with closing(sqlite3.connect(tmp_path / "books.db")) as books, books:
        books.execute("UPDATE leases SET account = 'vast-9'")
    told, as_json = CliRunner().invoke(root, ["doctor"]), CliRunner().invoke(root, ["doctor", "--json"])
    assert (told.exit_code, as_json.exit_code) == (1, 1)
    assert "unconfigured: vast.ai vast-9" in told.stdout
    assert "No problems" not in told.stdout
    assert {each["kind"]: each["notice"] for each in json.loads(as_json.stdout)["findings"]} == {
        "contract_ends": True,
        "unconfigured": False,
    }


def _use(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    monkeypatch.setenv("GPUPROXY_DATABASE_URL", f"sqlite:///{directory}/books.db")


def _use_market(monkeypatch: pytest.MonkeyPatch, market: Market) -> None:
    monkeypatch.setenv("GPUPROXY_VASTAI_URL", market.url)
    monkeypatch.setenv("VASTAI_API_KEY", "sandbox-key")
