"""Odd hosts: a share of machines with few ports, old drivers, old GPUs and offers that end."""

from tests.sandbox.shop import START, Shop

_DAY = 86_400


def _everything(shop: Shop) -> list[dict[str, object]]:
    return list(shop.search(rentable="any", verified="any"))


def test_there_are_no_odd_hosts_unless_they_are_asked_for():
    rows = _everything(Shop())
    assert min(row["direct_port_count"] for row in rows) == 99  # type: ignore[type-var]
    assert min(row["cuda_max_good"] for row in rows) >= 12.2  # type: ignore[type-var,operator]
    assert min(row["end_date"] for row in rows) > START.timestamp() + 29 * _DAY  # type: ignore[type-var,operator]


def test_odd_hosts_are_of_every_kind_and_the_others_stay_as_they_are():
    usual = {row["id"]: row for row in _everything(Shop(machines=400))}
    odd = {row["id"]: row for row in _everything(Shop(machines=400, odd_hosts=0.5))}
    assert usual.keys() == odd.keys()
    changed = [odd[number] for number in odd if odd[number] != usual[number]]
    assert 0.3 * len(odd) < len(changed) < 0.7 * len(odd)
    now = START.timestamp()
    ports = {row["direct_port_count"] for row in changed}
    assert {0, 1, 2, 3} <= ports
    assert {row["cuda_max_good"] for row in changed} >= {11.4, 11.7, 12.0}
    assert {row["compute_cap"] for row in changed} >= {370, 520, 600, 610}
    ends = [float(str(row["end_date"])) - now for row in changed]
    assert any(0 < each < _DAY for each in ends)
    assert any(_DAY < each < 6 * _DAY for each in ends)


def test_an_odd_host_does_not_extend_its_offers():
    shop = Shop(machines=400, odd_hosts=1.0)
    ending = {row["machine_id"]: row["end_date"] for row in _everything(shop)}
    shop.wait(3 * _DAY)
    now = {row["machine_id"]: row["end_date"] for row in _everything(shop)}
    ended = [machine for machine, end in ending.items() if float(str(end)) < START.timestamp() + 6 * _DAY]
    assert ended
    assert all(now[machine] == ending[machine] for machine in ended)


def test_the_same_seed_makes_the_same_odd_hosts():
    assert _everything(Shop(odd_hosts=0.3)) == _everything(Shop(odd_hosts=0.3))
