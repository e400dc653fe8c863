"""An empty list says whether the GPU model or the place is unknown, or the market not read yet."""

import json

from gpuproxy.model.offers import HIGHEST_PRICE
from tests.cli.world import Run, World


def test_an_unknown_gpu_model_gets_near_ones_from_all_offers(run: Run, world: World) -> None:
    result = run("list", "--gpu", "RTX 4900", "--location", "US")
    assert result.exit_code == 0
    assert result.stdout.startswith("0 offers · ")
    assert result.stderr.splitlines()[0] == 'No offer has a GPU model "RTX 4900". Near ones: RTX 4090.'
    everything = world.listed[1]
    assert (everything.gpu_model, everything.location, everything.verified_only) == ("", "", False)
    assert everything.max_price == HIGHEST_PRICE


def test_an_unknown_place_gets_near_ones(run: Run) -> None:
    near = run("list", "--location", "Texsa")
    assert near.stderr.splitlines()[0] == 'No offer has a location like "Texsa". Near ones: Texas.'
    assert run("list", "--location", "Atlantis").stderr.splitlines()[0] == 'No offer has a location like "Atlantis".'


def test_what_was_not_read_is_said(run: Run) -> None:
    assert "Not all offers have been read: no answer from io.net." in run("list", "--gpu", "B300").stderr


def test_a_market_without_offers_says_nothing_about_models(run: Run, world: World) -> None:
    world.has_offers = False
    assert run("list", "--gpu", "RTX 4900").stderr == "No marketplace has an offer now.\n"
    world.silent = ["vast.ai"]
    said = "No offer is known: the market is still being read, or vast.ai does not answer.\n"
    assert run("list", "--gpu", "RTX 4900").stderr == said


def test_a_known_model_and_place_get_no_hint(run: Run, world: World) -> None:
    assert run("list", "--gpu", "rtx_4090", "--location", "us").stderr == ""
    assert len(world.listed) == 1


def test_json_has_no_hint(run: Run, world: World) -> None:
    result = run("list", "--gpu", "RTX 4900", "--json")
    assert (json.loads(result.stdout)["instances"], result.stderr, len(world.listed)) == ([], "", 1)
