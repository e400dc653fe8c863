"""The golden vectors and fairness bounds of the strategies, with one pick and with many picks for each call."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from gpuproxy.loadbalancer.balancer import Want, choose
from gpuproxy.model.leases import LeaseEvent
from gpuproxy.model.load import HostLoad, Rotation
from gpuproxy.model.measured import Measured, Outcome, after_outcome, outcome, with_sample
from gpuproxy.model.offers import HostKey, Offer
from gpuproxy.model.strategies import STRATEGIES, weight
from tests.markets import VAST, offer, random_market

pytestmark = pytest.mark.long

T0 = datetime(2026, 6, 1, tzinfo=UTC)
_PARTS = 4


class Market:
    """Hosts with unlimited offers, and the state that the database would keep between calls."""

    def __init__(self, strategy: str) -> None:
        self.strategy = strategy
        self.rotation = Rotation()
        self.load: dict[HostKey, HostLoad] = {}
        self._picked = 0

    def picks(self, offers: Sequence[Offer], count: int, *, a_call: int = 1) -> str:
        """The hosts of these picks, in calls of `a_call` picks each."""
        told = ""
        while len(told) < count:
            want = Want(count=min(a_call, count - len(told)))
            choice = choose(want, offers, self.load, self.strategy, self.rotation)
            self.rotation = choice.rotation
            for pick in choice.picks:
                self._remember(pick.host)
            told += "".join(pick.machine_id for pick in choice.picks)
        return told

    def _remember(self, host: HostKey) -> None:
        self._picked += 1
        before = self.load.get(host, HostLoad())
        at = T0 + timedelta(seconds=self._picked)
        self.load[host] = replace(before, live=before.live + 1, picks=before.picks + 1, last_picked_at=at)


def hosts(names: str, **facts: object) -> list[Offer]:
    return [offer(ord(name), name, conflict_keys=(), **facts) for name in names]


@pytest.mark.parametrize("a_call", [1, 2, 9, 16])
def test_round_robin_goes_round(a_call: int) -> None:
    assert Market("round_robin").picks(hosts("dbca"), 9, a_call=a_call) == "abcdabcda"


def test_round_robin_neither_skips_nor_repeats_when_hosts_come_and_go() -> None:
    market = Market("round_robin")
    assert market.picks(hosts("abcd"), 2) == "ab"
    assert market.picks(hosts("acd"), 3) == "cda"
    assert market.picks(hosts("abcde"), 5) == "bcdea"


def test_round_robin_looks_at_no_price() -> None:
    cheap = [replace(each, gpu_price=1) for each in hosts("d")]
    assert Market("round_robin").picks([*hosts("abc"), *cheap], 4) == "abcd"


@pytest.mark.parametrize("a_call", [1, 3, 16])
def test_equal_weighted_lets_a_newcomer_start_level_with_the_others(a_call: int) -> None:
    market = Market("equal_weighted")
    assert market.picks(hosts("abc"), 7, a_call=a_call) == "abcabca"
    assert market.picks(hosts("abcd"), 8, a_call=a_call) == "bcdabcda"


def test_equal_weighted_counts_gpus_not_machines() -> None:
    big = [offer(1, "a", num_gpus=4, conflict_keys=()), *hosts("bc")]
    market = Market("equal_weighted")
    choice = choose(Want(count=4, packing="single_host"), big[:1], {}, "equal_weighted")
    market.rotation = choice.rotation
    assert market.picks([*hosts("a"), *big[1:]], 8) == "bcbcbcbc"


@pytest.mark.parametrize("a_call", [1, 7, 16])
def test_weighted_round_robin_is_smooth(monkeypatch: pytest.MonkeyPatch, a_call: int) -> None:
    monkeypatch.setattr("gpuproxy.loadbalancer.balancer.weight", lambda vram_gb, _price, _gpus: vram_gb)
    for weights, golden in (
        ({"a": 5, "b": 1, "c": 1}, "aabacaa"),
        ({"a": 36, "b": 24, "c": 18, "d": 12}, "abcadbacabdacba"),
        ({"a": 30, "b": 24, "c": 18, "d": 10}, "abcdabacbacbadabcabdacbacbadabcabcabadcba"),
    ):
        offers = [offer(ord(name), name, conflict_keys=(), vram_gb=each) for name, each in weights.items()]
        assert Market("weighted_round_robin").picks(offers, len(golden), a_call=a_call) == golden


def test_a_weight_goes_by_memory_and_price() -> None:
    told = [weight(vram, price, 1) for vram in (80, 48, 24, 16) for price in (1_000_000, 999_999)]
    assert told == [30, 36, 20, 24, 15, 18, 10, 12]
    assert weight(24, 7_900_000, 8) == 18


def test_least_response_time_prefers_quick_hosts_and_counts_starting_machines() -> None:
    quick, slow = HostKey("vast.ai/a"), HostKey("vast.ai/b")
    load = {
        quick: HostLoad(response_ms=40_000, samples=50, gpu_model="RTX 4090"),
        slow: HostLoad(response_ms=100_000, samples=50, gpu_model="RTX 4090"),
    }
    picked = choose(Want(count=4), hosts("ab"), load, "least_response_time").picks
    assert "".join(pick.machine_id for pick in picked) == "aaba"
    load[quick] = replace(load[quick], starting=3)
    assert choose(Want(count=1), hosts("ab"), load, "least_response_time").picks[0].machine_id == "b"


def test_a_host_without_samples_counts_like_similar_hosts() -> None:
    load = {HostKey("vast.ai/a"): HostLoad(response_ms=50_000, samples=1, gpu_model="RTX 4090")}
    choice = choose(Want(count=1), hosts("ab"), load, "least_response_time")
    assert choice.decision.top[0].why == "same as the runner-up by every rule; first by name"
    alone = choose(Want(count=2), hosts("ab"), {}, "least_response_time").decision
    assert alone.picks[1].why == "lowest score (120000; runner-up 240000)"


def test_least_response_time_never_starves_an_unmeasured_host() -> None:
    measured = {HostKey("vast.ai/a"): HostLoad(response_ms=200_000, samples=9, gpu_model="RTX 4090")}
    picked = choose(Want(count=4), hosts("ab"), measured, "least_response_time").picks
    assert Counter(pick.machine_id for pick in picked) == {"a": 2, "b": 2}


@pytest.mark.parametrize("strategy", ["round_robin", "equal_weighted", "least_connections"])
def test_equal_hosts_get_equal_shares(strategy: str) -> None:
    for seed in range(700):
        dice = random.Random(seed)
        names = "abcdefghi"[: dice.randrange(2, 10)]
        shares = Counter(Market(strategy).picks(hosts(names), dice.randrange(1, 60), a_call=dice.choice((1, 5, 16))))
        assert max(shares.values()) - min(shares[name] for name in names) <= 1


@pytest.mark.seeds(1, _PARTS)
def test_weighted_shares_are_exact_over_a_round_and_close_in_between(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr("gpuproxy.loadbalancer.balancer.weight", lambda vram_gb, _price, _gpus: vram_gb)
    for number in range(seed, 400, _PARTS):
        dice = random.Random(number)
        weights = {name: dice.choice((10, 12, 15, 18, 20, 24, 30, 36)) for name in "abcdefghi"[: dice.randrange(2, 10)]}
        offers = [offer(ord(name), name, conflict_keys=(), vram_gb=each) for name, each in weights.items()]
        total = sum(weights.values())
        picked = Market("weighted_round_robin").picks(offers, total, a_call=16)
        assert Counter(picked) == weights
        for at in range(1, total):
            shares = Counter(picked[:at])
            assert all(abs(at * each / total - shares[name]) < 1.5 for name, each in weights.items())


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_a_choice_depends_only_on_the_market_and_the_database(strategy: str) -> None:
    for seed in range(200):
        dice = random.Random(seed)
        offers = random_market(seed, 20)
        names = sorted({each.host for each in offers})
        load = {
            name: HostLoad(live=dice.randrange(3), response_ms=dice.randrange(90_000), samples=dice.randrange(4))
            for name in names
        }
        standing = {name: dice.randrange(-50, 50) for name in names}
        rotation = Rotation(last=dice.choice(names), level=dice.randrange(9), standing=standing)
        want = Want(count=3)
        first = choose(want, offers, load, strategy, rotation)
        dice.shuffle(offers)
        again = choose(want, offers, dict(reversed(load.items())), strategy, rotation)
        assert (again.picks, again.decision) == (first.picks, first.decision)
        assert again.rotation == first.rotation


def test_a_worse_sample_counts_at_once_and_a_better_one_in_time() -> None:
    record = Measured(provider=VAST, gpu_model="RTX 4090")
    told = []
    for at, ms in ((0, 40000), (60, 42000), (120, 180000), (180, 41000), (300, 41000), (900, 40000), (1800, 40000)):
        record = with_sample(record, ms, T0 + timedelta(seconds=at), tau_s=600)
        told.append(int(record.response_ms))
    assert told == [40000, 42000, 180000, 166772, 143973, 78249, 40000]
    assert record.samples == 7


def test_samples_of_yesterday_are_none() -> None:
    record = with_sample(Measured(provider=VAST, gpu_model=""), 40_000, T0)
    assert record.fresh(T0 + timedelta(hours=23)) == 1
    assert record.fresh(T0 + timedelta(hours=24)) == 0
    assert with_sample(record, 90_000, T0 + timedelta(hours=25)).samples == 1


def test_a_clock_that_goes_back_ages_nothing() -> None:
    record = with_sample(Measured(provider=VAST, gpu_model=""), 90_000, T0)
    assert with_sample(record, 40_000, T0 - timedelta(hours=1)).response_ms == 90_000


def test_three_failures_in_a_row_eject_a_host_for_longer_each_time() -> None:
    record, at, outs = Measured(provider=VAST, gpu_model=""), T0, []
    for _ in range(70):
        at = max(at, record.ejected_until or at)
        record = after_outcome(record, Outcome(False, None), at)
        if record.ejected_until and record.ejected_until > at:
            outs.append((record.ejected_until - at).total_seconds())
    assert record.failures == 70
    assert outs[:3] == [30, 60, 90]
    assert outs[-1] == max(outs) == 1800


def test_failures_of_machines_created_before_an_ejection_do_not_prolong_it() -> None:
    record = Measured(provider=VAST, gpu_model="")
    for _ in range(10):
        record = after_outcome(record, Outcome(False, None), T0)
    assert record.ejected_until == T0 + timedelta(seconds=30)


def test_a_success_resets_failures_and_halves_the_next_ejection() -> None:
    record = replace(Measured(provider=VAST, gpu_model=""), failures=2, ejections=5)
    record = after_outcome(record, Outcome(True, 50_000.0), T0)
    assert (record.failures, record.ejections, record.ejected_until) == (0, 2, None)


def test_a_machine_that_never_got_ready_counts_as_at_least_ten_minutes() -> None:
    after = T0 + timedelta(seconds=90)
    assert outcome(T0, False, LeaseEvent.RELEASE, "NOT_READY", after) == Outcome(False, 600_000)
    assert outcome(T0, False, LeaseEvent.VANISHED, "", T0 + timedelta(minutes=20)) == Outcome(False, 1_200_000)
    assert outcome(T0, False, LeaseEvent.READY, "", after) == Outcome(True, 90_000)


@pytest.mark.parametrize("reason", ["NO_CAPACITY", "PRICE_MOVED", "PROVIDER_FUNDS", "OFFER_GONE", "RELEASED"])
def test_capacity_price_credit_and_the_callers_own_release_are_no_failures(reason: str) -> None:
    for event in (LeaseEvent.REFUSED, LeaseEvent.RELEASE):
        assert outcome(T0, False, event, reason, T0) is None
