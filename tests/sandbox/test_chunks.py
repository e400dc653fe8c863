"""Chunks of a machine overlap; renting consumes offers; a stopped instance holds no GPU."""

import pytest

from gpuproxy.sandbox.market.machines import tiles
from gpuproxy.sandbox.market.recorded import layout
from tests.sandbox.shop import KEY, OTHER_KEY, Shop


def test_smallest_chunks_tile_a_machine_and_larger_ones_are_unions() -> None:
    assert sorted(tiles(0, 4, 1)) == [(0, 1), (0, 2), (0, 4), (1, 1), (2, 1), (2, 2), (3, 1)]
    assert [gpus for _, gpus in tiles(0, 14, 2)] == [14, 8, 4, 2, 2, 4, 2, 2, 6, 4, 2, 2, 2]
    assert list(tiles(0, 8, 8)) == [(0, 8)]


def test_renting_a_chunk_makes_exactly_the_overlapping_ones_unrentable() -> None:
    shop = Shop()
    machine = shop.machine(4)
    chunks = shop.chunks(machine)
    taken = next(chunk for chunk in chunks if chunk["num_gpus"] == 2)
    shop.rented(taken["id"])
    for chunk in shop.chunks(machine):
        assert chunk["rentable"] is not bool(set(chunk["gpu_ids"]) & set(taken["gpu_ids"]))
    seen_by_other = shop.search(OTHER_KEY, machine_id={"eq": machine}, verified="any")
    assert {offer["num_gpus"] for offer in seen_by_other} == {1, 2}


@pytest.mark.parametrize("key", [KEY, OTHER_KEY])
def test_an_overlapping_chunk_cannot_be_rented_while_the_other_is(key: str) -> None:
    shop = Shop()
    chunks = shop.chunks(shop.machine(2))
    whole = next(chunk for chunk in chunks if chunk["num_gpus"] == 2)
    single = next(chunk for chunk in chunks if chunk["num_gpus"] == 1)
    shop.rented(single["id"])
    status, answer = shop.create(whole["id"], key)
    assert (status, "no_such_ask" in answer["msg"]) == (400, True)
    assert len(shop.state()["instances"]) == 1


def test_a_released_chunk_is_offered_again_under_a_new_id() -> None:
    shop = Shop()
    machine = shop.machine(2)
    before = {tuple(chunk["gpu_ids"]): chunk["id"] for chunk in shop.chunks(machine)}
    single = next(gpus for gpus in before if len(gpus) == 1)
    shop.destroy(shop.rented(before[single]))
    after = {tuple(chunk["gpu_ids"]): chunk["id"] for chunk in shop.chunks(machine)}
    assert after[single] not in before.values()
    assert {gpus: number for gpus, number in after.items() if gpus != single} == {
        gpus: number for gpus, number in before.items() if gpus != single
    }
    assert shop.create(before[single])[0] == 400


def test_a_stopped_instance_has_no_gpu_and_its_start_is_queued_until_they_are_free() -> None:
    shop = Shop()
    machine = shop.machine(1)
    contract = shop.rented(shop.chunks(machine)[0]["id"])
    assert shop.manage(contract, state="stopped") == (200, {"success": True})
    stranger = shop.rented(shop.chunks(machine)[0]["id"], OTHER_KEY)
    status, answer = shop.manage(contract, state="running")
    assert (status, answer["success"], answer["error"]) == (200, False, "resources_unavailable")
    queued = shop.get(contract)
    assert (queued["actual_status"], queued["intended_status"]) == ("exited", "running")
    assert (queued["cur_state"], queued["next_state"]) == ("stopped", "running")
    shop.destroy(stranger, OTHER_KEY)
    shop.wait(40)
    assert shop.get(contract)["actual_status"] == "running"


def test_a_stop_cancels_a_queued_start() -> None:
    shop = Shop()
    machine = shop.machine(1)
    contract = shop.rented(shop.chunks(machine)[0]["id"])
    shop.manage(contract, state="stopped")
    stranger = shop.rented(shop.chunks(machine)[0]["id"], OTHER_KEY)
    shop.manage(contract, state="running")
    shop.manage(contract, state="stopped")
    shop.destroy(stranger, OTHER_KEY)
    shop.wait(400)
    assert shop.get(contract)["intended_status"] == "stopped"
    assert shop.chunks(machine)[0]["rentable"]


def test_equal_free_chunks_are_one_row_and_after_renting_it_another_id_stands_for_the_rest() -> None:
    shop = Shop()
    machine = shop.machine(4)
    row = [offer for offer in shop.search(machine_id={"eq": machine}, verified="any") if offer["num_gpus"] == 1]
    assert len(row) == 1
    shop.rented(row[0]["id"])
    rest = [offer for offer in shop.search(machine_id={"eq": machine}, verified="any") if offer["num_gpus"] == 1]
    assert len(rest) == 1
    assert rest[0]["id"] != row[0]["id"]


def test_contract_ids_are_never_reissued() -> None:
    shop = Shop()
    contracts = []
    for _ in range(5):
        contracts.append(shop.rented())
        shop.destroy(contracts[-1])
    assert len(set(contracts)) == 5


def test_the_same_seed_makes_the_same_market_and_another_seed_another() -> None:
    first, again, other = Shop(seed=3), Shop(seed=3), Shop(seed=4)
    assert first.search(verified="any") == again.search(verified="any")
    assert first.search(verified="any") != other.search(verified="any")


def test_the_built_in_market_has_common_configurations() -> None:
    shop = Shop(machines=800)
    offers = shop.search(allocated_storage=50)
    assert {"A100 SXM4", "A100 PCIE", "H100 SXM", "RTX 4090"} <= {offer["gpu_name"] for offer in offers}
    cheap = [one for one in offers if one["num_gpus"] == 1 and one["gpu_ram"] >= 15_500 and one["dph_total"] <= 2]
    assert len(cheap) > 150
    assert len({offer["machine_id"] for offer in cheap}) > 150


@pytest.mark.parametrize(
    ("free", "held", "gpus", "taken"),
    [
        ([1, 2, 4], [1, 2, 4, 8], 8, 4),  # machine 43645 of the records
        ([], [1, 2, 4], 4, 4),
        ([2], [], 2, 0),
        ([1], [1, 2, 3], 3, 2),
        ([2], [1], 3, 1),
        ([4], [4], 8, 4),
        ([1, 2, 3], [7], 7, 4),
        ([6], [8, 14], 14, 8),
    ],
)
def test_recorded_rows_become_chunks_that_show_the_same_rows(
    free: list[int], held: list[int], gpus: int, taken: int
) -> None:
    total, taken_gpus, chunks = layout(free, held)
    assert (total, taken_gpus) == (gpus, taken)
    assert all(first >= 0 and first + size <= total for first, size in chunks)
    shown = {(size, first >= taken_gpus) for first, size in chunks}
    assert shown == {(size, True) for size in free} | {(size, False) for size in held}
