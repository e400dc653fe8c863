"""Deployments of io.net: listings, addresses and single reads."""

import json
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from gpuproxy.model.errors import (
    AuthFailed,
    ProviderUnavailable,
    RateLimited,
    Refused,
)
from gpuproxy.model.leases import PortMapping, SshAddress
from gpuproxy.model.offers import OfferId
from gpuproxy.ports import HttpReplyLost, HttpResponse, InstanceStatus
from tests.markets import offer
from tests.providers.ionet_wires import (
    EMPTY_PAGE,
    ID,
    LABEL,
    NOT_FOUND,
    OTHER,
    SPEC,
    Api,
    detail,
    error_of,
    failed,
    listed,
    on_api,
    page,
    quote,
    vms,
)
from tests.providers.wires import KEY, WRONG_ANSWERS, says

WEB = {"port": 8000, "protocol": "tcp", "whitelist": ["0.0.0.0/0"], "public_port": 31000, "public_ip": "203.0.113.7"}


def inventory(*answers: Any, access: Any = None) -> Any:
    return on_api(lambda provider: provider.list(), Api(list=list(answers), vms=access or vms(None)))


def one(**facts: object) -> Any:
    (instance,) = inventory(page(listed(**facts))).instances
    return instance


def got(answer: Any, **more: Any) -> Any:
    return on_api(lambda provider: provider.get(ID), Api(get=answer, **more))


# -- listings


def test_a_row_is_an_instance_with_its_name_and_the_end_of_its_booking() -> None:
    async def use(provider: Any) -> Any:
        return provider._clock.now(), (await provider.list()).instances

    now, (instance,) = on_api(use, Api(list=page(listed()), vms=vms(None)))
    assert (instance.id, instance.label, instance.status) == (ID, LABEL, InstanceStatus.RUNNING)
    assert (instance.gpu_model, instance.num_gpus, instance.price) == ("RTX 4090", 2, None)
    assert (instance.booking.until, instance.booking.paid) == (now + timedelta(minutes=90), None)


@pytest.mark.parametrize(
    ("minutes", "booked"),
    [(0, 0), (-5, 0), ("90", 90), (1.5, 1.5), (None, None), (..., None), ("soon", None), (float("nan"), None)],
)
def test_remaining_minutes_of_any_form_are_read(minutes: object, booked: float | None) -> None:
    async def use(provider: Any) -> Any:
        return provider._clock.now(), (await provider.list()).instances[0].booking

    row = json.dumps(listed(compute_minutes_remaining=minutes)).encode()
    answer = says(b'{"data":{"deployments":[' + row + b'],"total":1}}')
    now, booking = on_api(use, Api(list=answer, vms=vms(None)))
    assert (booking and (booking.until - now).total_seconds() / 60) == booked


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("deployment requested", InstanceStatus.PENDING), ("DEPLOYMENT_REQUESTED", InstanceStatus.PENDING),
        ("deploying", InstanceStatus.PENDING), ("Running", InstanceStatus.RUNNING), ("RUNNING", InstanceStatus.RUNNING),
        ("termination-requested", InstanceStatus.UNSURE), ("unpaid", InstanceStatus.UNSURE),
        ("hibernating", InstanceStatus.UNSURE), ("", InstanceStatus.UNSURE), (None, InstanceStatus.UNSURE),
        (..., InstanceStatus.UNSURE), ({}, InstanceStatus.UNSURE),
    ],
)  # fmt: skip
def test_a_status_is_read_in_every_spelling_and_an_unknown_one_is_unsure(word: Any, status: InstanceStatus) -> None:
    assert one(status=word).status is status


@pytest.mark.parametrize("word", ["completed", "failed", "destroyed", "terminated", "DESTROYED", "Completed"])
def test_an_ended_deployment_is_not_listed_and_not_unreadable(word: str) -> None:
    listing = inventory(page(listed(status=word, name={}), listed(OTHER)))
    assert ([each.id for each in listing.instances], listing.unreadable) == ([OTHER], ())


def test_every_page_is_read_and_a_repeated_row_counts_once() -> None:
    rows = [listed(f"d-{at}", name=f"n-{at}") for at in range(150)]
    api = Api(list=[page(*rows[:100], total=150), page(rows[3], *rows[100:], total=150)], vms=vms(None))
    listing = on_api(lambda provider: provider.list(), api)
    assert sorted(each.id for each in listing.instances) == sorted(f"d-{at}" for at in range(150))
    asked = [parse_qs(urlsplit(each.url).query) for each in api.requests if "deployments" in each.url]
    assert asked == [{"page": [str(number)], "page_size": ["100"]} for number in (1, 2)]


def test_a_server_with_smaller_pages_than_asked_for_is_read_to_the_end() -> None:
    rows = [listed(f"d-{at}") for at in range(25)]
    listing = inventory(page(*rows[:10], total=25), page(*rows[10:20], total=25), page(*rows[20:], total=25))
    assert len(listing.instances) == 25


@pytest.mark.parametrize(
    "answers",
    [
        [page(listed(), total=2), EMPTY_PAGE, page(total=2)],
        [page(*(listed(f"d-{at}") for at in range(100)), total=300)],
        [page(listed(), total=2), says("", 500)],
        [page(listed(), total=2), HttpReplyLost("reset")],
    ],
)
def test_a_missing_or_repeated_page_is_an_error(answers: list[Any]) -> None:
    if answers[1:2] == [EMPTY_PAGE]:
        answers = [answers[0], answers[2]]
    error = error_of(lambda provider: provider.list(), Api(list=answers, vms=vms(None)))
    assert isinstance(error, ProviderUnavailable)


def test_pages_without_end_are_an_error() -> None:
    numbers = iter(range(10**6))

    def endless(_: object) -> HttpResponse:
        return page(*(listed(f"d-{next(numbers)}") for _ in range(100)), total=10**6)

    assert isinstance(error_of(lambda provider: provider.list(), Api(list=endless)), ProviderUnavailable)


@pytest.mark.parametrize("answer", [*WRONG_ANSWERS, says({"data": {}}), says({"data": []}), failed(200, "no")])
def test_another_answer_is_an_error_and_no_empty_account(answer: Any) -> None:
    error_of(lambda provider: provider.list(), Api(list=answer))
    error_of(lambda provider: provider.get(ID), Api(get=answer))


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (None, "no id"), (5, "no id"), ({}, "no id"), (listed(id=None, name="gpx-a"), "no id, name gpx-a"),
        (listed(id="a b"), f"no id, name {LABEL}"), (listed(id="x" * 200, name=...), "no id"),
    ],
)  # fmt: skip
def test_a_row_without_an_id_is_reported_and_hides_no_other(odd: object, words: str) -> None:
    listing = inventory(page(listed(), odd, listed(OTHER)))
    assert [each.id for each in listing.instances] == [ID, OTHER]
    assert listing.unreadable == (f"row 2 of page 1: {words}",)


@pytest.mark.parametrize("name", [..., {}, [], True])
def test_an_unreadable_name_is_reported_and_its_deployment_is_listed(name: object) -> None:
    listing = inventory(page(listed(name=name)))
    assert [(each.id, each.label) for each in listing.instances] == [(ID, None)]
    assert listing.unreadable == (f"row 1 of page 1: the name of deployment {ID} can't be read",)


def test_the_name_is_read_under_its_other_key_too_and_a_missing_one_may_be_null() -> None:
    assert one(name=..., resource_private_name=LABEL).label == LABEL
    assert one(name=None).label is None


def test_a_listing_that_would_have_to_wait_too_long_is_refused() -> None:
    async def use(provider: Any) -> Any:
        with pytest.raises(RateLimited):
            await provider.list()
        await provider.list()

    api = Api(list=[says({"detail": "Too many"}, 429, retry_after="60"), EMPTY_PAGE])
    assert isinstance(error_of(use, api), RateLimited)
    assert api.calls() == ["list"]


# -- addresses


def test_the_addresses_come_from_the_machine_and_its_command_is_passed_on() -> None:
    (instance,) = inventory(page(listed()), access=vms(network_services={"port-8000": WEB})).instances
    assert instance.ssh == (SshAddress("203.0.113.7", 30022, "ubuntu"),)
    assert instance.ports == (PortMapping(container_port=8000, protocol="tcp", host="203.0.113.7", public_port=31000),)
    assert instance.status_message == "ssh ubuntu@203.0.113.7 -p 30022"


@pytest.mark.parametrize(
    ("command", "address"),
    [
        ("ssh -p 30022 ubuntu@h.example", ("h.example", 30022, "ubuntu")),
        ("ssh h.example", ("h.example", 22, "root")),
        ("ssh -l me h.example", ("h.example", 22, "me")),
        ("ssh -i ~/.ssh/id -p30022 h.example", ("h.example", 30022, "root")),
        ("ssh -o StrictHostKeyChecking=no u@10.0.0.1 -p 7", ("10.0.0.1", 7, "u")),
        ("ssh ssh://u@h.example -p 5", ("h.example", 5, "u")),
        ("scp h.example", None),
        ("ssh", None),
        ("soon", None),
        ("ssh u@h -p 99999", None),
        ("ssh 'u@h;rm'", None),
        ("", None),
        (None, None),
    ],
)
def test_an_address_is_read_from_the_command_as_far_as_its_form_is_known(command: Any, address: Any) -> None:
    (instance,) = inventory(page(listed()), access=vms(command)).instances
    assert list(instance.ssh) == ([SshAddress(*address)] if address else [])


def test_addresses_are_asked_for_only_until_they_are_known_and_only_of_running_machines() -> None:
    async def use(provider: Any) -> Any:
        return [(await provider.list()).instances[0].ssh for _ in range(4)]

    api = Api(list=page(listed(), listed(OTHER, status="deploying")), vms=[vms(None), vms(), vms("ssh u@other")])
    first, *rest = on_api(use, api)
    assert (first, len({*rest}), bool(rest[0])) == ((), 1, True)
    assert api.calls().count("vms") == 2


def test_a_service_without_a_public_port_is_asked_for_again() -> None:
    async def use(provider: Any) -> Any:
        return [len((await provider.list()).instances[0].ports) for _ in range(3)]

    waiting = vms(network_services={"port-8000": {**WEB, "public_port": None, "public_ip": None}})
    api = Api(list=page(listed()), vms=[waiting, vms(network_services={"port-8000": WEB})])
    assert on_api(use, api) == [0, 1, 1]
    assert api.calls().count("vms") == 2


def test_a_machine_that_never_has_an_address_is_asked_for_once_a_minute_in_the_end() -> None:
    async def use(provider: Any) -> int:
        for _ in range(200):
            await provider.list()
            await provider._clock.sleep(10)
        return 0

    api = Api(list=page(listed()), vms=vms(None))
    on_api(use, api)
    assert 90 < api.calls().count("vms") < 120


@pytest.mark.parametrize("answer", [says("", 500), HttpReplyLost("reset"), says({"data": {}}), NOT_FOUND])
def test_a_failed_read_of_addresses_fails_no_listing(answer: Any) -> None:
    (instance,) = inventory(page(listed()), access=answer).instances
    assert instance.ssh == ()


# -- single reads


def test_a_single_read_has_what_was_paid_and_no_name() -> None:
    instance = got(detail())
    assert (instance.id, instance.label, instance.num_gpus) == (ID, None, 2)
    assert (instance.booking.paid, instance.price) == (1_200_000, 600_000)
    assert instance.created_at.isoformat() == "2030-01-01T00:00:00+00:00"


@pytest.mark.parametrize("paid", [None, ..., -1, "?"])
def test_without_a_readable_amount_nothing_is_said_about_the_price(paid: object) -> None:
    instance = got(detail(amount_paid=paid))
    assert (instance.booking.paid, instance.price) == (None, None)


@pytest.mark.parametrize("word", ["completed", "destroyed", "terminated", "FAILED"])
def test_an_ended_deployment_is_none(word: str) -> None:
    assert got(detail(status=word), vms=vms(None)) is None


@pytest.mark.parametrize(
    "answer",
    [
        NOT_FOUND, failed(404, "Not found"), says({"detail": "Deployment does not exist"}, 404),
        failed(404, f"Deployment {ID} not found"), says({"message": "cluster not found"}, 410),
    ],
)  # fmt: skip
def test_a_404_in_io_nets_own_words_is_none(answer: HttpResponse) -> None:
    assert got(answer) is None


@pytest.mark.parametrize(
    "answer",
    [
        says({"detail": "Not Found"}, 404), says("Not Found", 404), says("<html>404</html>", 404), says("", 404),
        says({}, 404), failed(404, f"Deployment {OTHER} not found"), failed(404, "Unknown error"),
        failed(500, "Deployment not found"), failed(200, "Deployment not found"), says({"data": None}),
        says({"data": {}}), detail(OTHER), detail(status=...), says({"detail": "Invalid API key"}, 401),
    ],
)  # fmt: skip
def test_any_other_answer_is_an_error_and_never_none(answer: HttpResponse) -> None:
    assert isinstance(error_of(lambda provider: provider.get(ID), Api(get=answer)), Refused)


@pytest.mark.parametrize(("seconds", "gone"), [(0, False), (119, False), (121, True)])
def test_a_new_deployment_that_is_not_found_yet_is_not_gone(seconds: float, gone: bool) -> None:
    wanted = offer(1, provider="io.net", id=OfferId("ionet-i12:2:US"))

    async def use(provider: Any) -> Any:
        await provider.create(wanted, SPEC, LABEL)
        await provider._clock.sleep(seconds)
        return await provider.get(ID)

    api = Api(price=quote(0.1), create=says({"deployment_id": ID}), get=NOT_FOUND)
    if gone:
        assert on_api(use, api) is None
    else:
        assert isinstance(error_of(use, api), ProviderUnavailable)


def test_a_dead_key_is_reported_by_reads() -> None:
    for status in (401, 403):
        answer = says({"detail": "Forbidden"}, status)
        assert isinstance(error_of(lambda provider: provider.list(), Api(list=answer)), AuthFailed)


def test_rows_that_were_missed_are_found_by_a_second_pass() -> None:
    rows = [listed(f"d-{at}") for at in range(101)]
    first, second = page(*rows[:100], total=101), page(rows[7], total=101)
    listing = inventory(first, second, page(*rows[1:], total=101), page(rows[0], total=101))
    assert len(listing.instances) == 101


def test_what_two_passes_miss_fails_no_listing_if_later_pages_had_something_new() -> None:
    rows = [listed(f"d-{at}") for at in range(103)]
    first, second = page(*rows[:100], total=103), page(*rows[99:102], total=103)
    assert len(inventory(first, second, first, second).instances) == 102


def test_a_small_first_page_that_is_repeated_is_an_error() -> None:
    rows = page(*(listed(f"d-{at}") for at in range(5)), total=6)
    assert isinstance(error_of(lambda provider: provider.list(), Api(list=rows)), ProviderUnavailable)


def test_no_row_or_message_tells_the_key() -> None:
    row = listed(status=f"bad {KEY}", name=f"{KEY}")
    listing = inventory(page(row, listed(id=None, name=KEY)), access=vms(f"ssh {KEY}@h"))
    assert KEY not in str([each.raw_status + each.status_message for each in listing.instances]) + str(
        listing.unreadable
    )
