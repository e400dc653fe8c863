"""The command `providers`."""

import json

from tests.cli.world import Run


def test_providers_shows_what_each_marketplace_can_do_and_its_accounts(run: Run) -> None:
    result = run("providers")
    assert result.exit_code == 0
    vast, moon = result.stdout.split("\n\n")
    assert "can: volumes" in vast
    assert "can't: spot: may be stopped without notice" in vast
    assert "least time between two calls of an account: create 4.5 s" in vast
    row = next(line for line in vast.splitlines() if "team-a" in line)
    for cell in ("DE", "paused (PROVIDER_FUNDS)", "resting (2 failed)", "12.5 s", "4.5 s", "3", "1", "$1.25/h"):
        assert cell in row
    assert "a key rents only in its own region" in moon
    assert "no bound is known" in moon
    assert "no key is set" in moon


def test_one_marketplace_can_be_named_and_json_is_the_answer_itself(run: Run) -> None:
    result = run("providers", "moon", "--json")
    [info] = json.loads(result.stdout)["providers"]
    assert info["provider"] == "moon"
    assert info["late_execution_seconds"] is None
    assert info["accounts"] == []


def test_measured_values_are_shown_with_their_dates_and_pools_per_account_where_they_are_known(run: Run) -> None:
    vast, moon = run("providers").stdout.split("\n\n")
    assert "warm pools per account: 144" in vast
    assert "measured with account team-a:" in vast
    [row] = [line for line in vast.splitlines() if "listing_lag" in line]
    assert all(cell in row for cell in ("3.5 s", "2026-11-22 10:00:00Z"))
    [row] = [line for line in vast.splitlines() if "volume_sharing" in line]
    assert row.split() == ["volume_sharing", "no", "2026-11-22", "10:00:00Z", "in", "use"]
    assert "measured" not in moon
    assert "pools" not in moon
