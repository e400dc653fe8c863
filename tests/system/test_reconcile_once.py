"""`gpuproxy reconcile --once` beside servers: it respects their database and their claims, and says so."""

import os
import re
from pathlib import Path

import psycopg
import pytest

from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests import forked, postgres
from tests.system.processes import KIND, UNPACED, Market, Server, until

_BETWEEN = 8
"""Seconds between two destroys, so that three of them take longer than a claim lasts."""


class Place:
    """A folder, a market and a database, with the command's settings."""

    def __init__(self, folder: Path, market: Market, url: str) -> None:
        self.folder, self.market, self.url = folder, market, url
        self.settings = UNPACED | {"GPUPROXY_DATABASE_URL": url, "GPUPROXY_ALLOW_UNSAFE_POSTGRES": "true"}

    def server(self) -> Server:
        return Server(self.folder, self.market, **self.settings)

    def reconcile(self, *options: str, **settings: str) -> tuple[int, str, str]:
        """The exit code, the output, and what else was said."""
        account = {"GPUPROXY_VASTAI_URL": self.market.url, "VASTAI_API_KEY": "sandbox-key"}
        done = forked.run(self.folder, os.environ | self.settings | account | settings, "reconcile", "--once", *options)
        return done.returncode, done.stdout, done.stderr

    def execute(self, *statements: str) -> None:
        with psycopg.connect(self.url) as connection:
            for each in statements:
                connection.execute(each)

    def owners(self) -> list[tuple[str, str, int]]:
        with psycopg.connect(self.url) as connection:
            return connection.execute("SELECT name, owner, fence FROM claims ORDER BY name").fetchall()

    def left_by_a_dead_server(self, machines: int) -> None:
        """So many machines, whose leases have ended since. Nobody has a claim."""
        with self.server() as server:
            with server.client() as client:
                until(client.knows_offers)
                client.call("ReserveGPUs", pb.ReserveGPUsRequest(count=machines, max_price=5))
                until(lambda: len(client.instances()) == machines)
            server.kill()
        self.execute(
            "UPDATE writers SET alive_at = 0", "UPDATE claims SET until = 0", "UPDATE leases SET expires_at = 1",
            "UPDATE reservations SET expires_at = 1",
        )  # fmt: skip


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_beside_a_running_server_only_a_dry_run_is_allowed(tmp_path: Path, store: str) -> None:
    url = postgres.server().create() if store == "postgres" else f"sqlite:///{tmp_path}/books.db"
    with Market(tmp_path, *KIND) as market:
        place = Place(tmp_path, market, url)
        with place.server() as server, server.client() as client:
            until(client.knows_offers)
            client.call("ReserveGPUs", pb.ReserveGPUsRequest(count=1, max_price=5))
            before = place.owners() if store == "postgres" else []
            code, out, said = place.reconcile()
            assert (code, out) == (2, "")
            assert re.search(r"is in use by (a|another) GPU Proxy server\. Stop (it|all servers) first", said)
            assert "Traceback" not in said
            code, out, _ = place.reconcile("--dry-run")
            assert (code, "vast-1" in out) == (0, True)
            assert (place.owners() if store == "postgres" else []) == before
            assert len(client.instances()) == len(market.alive()) == 1
        code, out, _ = place.reconcile()
        assert (code, "vast-1" in out) == (0, True)


def test_an_account_that_another_process_has_is_left_alone(tmp_path: Path) -> None:
    """Such as a server that started after the command had looked for servers."""
    with Market(tmp_path, *KIND) as market:
        place = Place(tmp_path, market, postgres.server().create())
        place.left_by_a_dead_server(1)
        place.execute("UPDATE claims SET owner = 'another', until = 9000000000000000 WHERE name LIKE 'account:%'")
        code, out, said = place.reconcile()
        assert (code, out) == (2, "")
        assert "vast.ai vast-1 is reconciled by another process" in said
        assert len(market.alive()) == 1
        place.execute("UPDATE claims SET until = 0")
        while market.alive():  # the end of the lease, and its destroy
            assert place.reconcile()[0] == 0


def test_a_pass_that_takes_longer_than_a_claim_is_done_in_full_and_leaves_no_claim(tmp_path: Path) -> None:
    with Market(tmp_path, *KIND) as market:
        place = Place(tmp_path, market, postgres.server().create())
        place.left_by_a_dead_server(3)
        code, out, _ = place.reconcile()
        assert (code, out.count("release")) == (0, 3)
        code, out, _ = place.reconcile(GPUPROXY_VASTAI_DESTROY_INTERVAL=str(_BETWEEN))
        assert (code, out.count("destroy")) == (0, 3)
        assert market.alive() == {}
        assert [owner for name, owner, _ in place.owners() if name.startswith("account:")] == [""]


def test_it_makes_no_tables_in_an_empty_database(tmp_path: Path) -> None:
    with Market(tmp_path, *KIND) as market:
        place = Place(tmp_path, market, postgres.server().create())
        code, out, said = place.reconcile()
        assert (code, out, "start the server" in said) == (2, "", True)
        with psycopg.connect(place.url) as connection:
            assert connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)
