"""Ids of one kind where another is expected: the refusal says what the id is and which call takes it."""

import pytest

from gpuproxy.edge.messages.demands import Defaults, reserve_demand
from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import InvalidArgument, NotFound
from gpuproxy.store import counters
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.edge.engine import StubEngine, service_over
from tests.edge.http_face import both_faces
from tests.world import VAST, World, in_world

CALLER = Caller(project="p1")
KEY = "gpx_canary5150"
INSTANCE = "/api/v1/gpu/instances/vast.ai"
ON_INSTANCES = ("GetGPUInstance", "StartGPUInstance", "StopGPUInstance", "GetInstanceLogs", "DestroyGPUInstance")
ON_RESERVATIONS = ("GetReservation", "ReleaseReservation", "ExtendReservation")


@pytest.mark.parametrize("name", ON_INSTANCES)
async def test_a_reservation_id_is_no_instance_and_the_error_says_which_call_takes_it(name: str) -> None:
    async with both_faces(service_over(StubEngine())) as both:
        request = getattr(pb, f"{name}Request")(instance_id="res-1")
        refused = await both.grpc.refused(name, request)
        answer = await both.send("GET", f"{INSTANCE}/res-1")
        other = await both.grpc.refused(name, type(request)(instance_id="27000000"))
    said = "You have no instance res-1. This is a reservation id: GetReservation takes it"
    assert refused.text.startswith(said)
    assert (answer.status, answer.error["message"]) == (404, refused.text)
    assert other.text.endswith("ListGPUInstances with `state: rented` lists your instances.")


@pytest.mark.parametrize("name", [*ON_INSTANCES, "GetLoadInfo"])
async def test_an_offer_is_no_instance(name: str) -> None:
    async with both_faces(service_over(StubEngine())) as both:
        refused = await both.grpc.refused(name, getattr(pb, f"{name}Request")(instance_id="vast-1"))
    assert "is an offer, which CreateGPUInstance takes; give the contract id" in refused.text


@pytest.mark.parametrize("name", ON_RESERVATIONS)
async def test_an_offer_is_no_reservation(name: str) -> None:
    async with both_faces(service_over(StubEngine())) as both:
        refused = await both.grpc.refused(name, getattr(pb, f"{name}Request")(reservation_id="vast-1"))
    assert "is an offer, which CreateGPUInstance takes; give the id of a reservation" in refused.text


@pytest.mark.parametrize("text", ["every night", "vast-nightly"])
@pytest.mark.parametrize("name", ON_RESERVATIONS)
async def test_an_error_about_a_text_that_can_be_no_id_names_the_reservation_of_this_request_id(
    name: str, text: str
) -> None:
    class Engine(StubEngine):
        async def meant_by(self, caller: Caller, request_id: str) -> dict[str, str]:
            return {"request_id_of": "res-7"} if (caller.project, request_id) == ("p1", text) else {}

    async with both_faces(service_over(Engine())) as both:
        refused = await both.grpc.refused(name, getattr(pb, f"{name}Request")(reservation_id=f" {text} "))
        other = await both.grpc.refused(name, getattr(pb, f"{name}Request")(reservation_id="no id\0"))
    assert dict(refused.info.metadata) == {"field": "reservation_id", "request_id_of": "res-7"}
    assert dict(other.info.metadata) == {"field": "reservation_id"}


async def test_only_an_offer_can_be_created() -> None:
    async with both_faces(service_over(StubEngine())) as both:
        refused = await both.grpc.refused("CreateGPUInstance", pb.CreateGPUInstanceRequest(instance_id="res-1"))
        answer = await both.send("POST", f"{INSTANCE}/27000000", {})
    assert "such as vast-123, not 'res-1'. This is a reservation id" in refused.text
    assert answer.violations()["instance_id"].endswith("such as vast-123, not '27000000'")


async def test_keys_of_the_other_kind_are_named() -> None:
    async with both_faces(service_over(StubEngine())) as both:
        api = await both.grpc.refused("RevokeAPIKey", pb.RevokeAPIKeyRequest(id="ssh-1"))
        ssh = await both.grpc.refused("DeleteSSHKey", pb.DeleteSSHKeyRequest(id="key-1"))
        unknown = await both.grpc.refused("RevokeAPIKey", pb.RevokeAPIKeyRequest(id="key-1"))
    assert api.text == "No API key has this id. This is the id of an SSH key: DeleteSSHKey takes it."
    assert ssh.text == "No SSH key has this id. This is the id of an API key: RevokeAPIKey takes it."
    assert unknown.text == "No API key has this id. ListAPIKeys shows the ids of your keys."


async def test_an_api_key_in_place_of_an_id_is_not_quoted() -> None:
    calls = [(name, {"instance_id": KEY}) for name in (*ON_INSTANCES, "GetLoadInfo", "CreateGPUInstance")]
    calls += [(name, {"reservation_id": KEY}) for name in ON_RESERVATIONS]
    calls += [("RevokeAPIKey", {"id": KEY}), ("DeleteSSHKey", {"id": KEY})]
    async with both_faces(service_over(StubEngine())) as both:
        for name, fields in calls:
            refused = await both.grpc.refused(name, getattr(pb, f"{name}Request")(**fields))
            assert "his is an API key and no id" in refused.text, name
            assert KEY not in f"{refused.text} {dict(refused.info.metadata)}", name


def test_an_offer_or_a_reservation_is_no_host_to_avoid() -> None:
    defaults = Defaults(max_price=1.0, marketplaces={"vast": "vast.ai"})
    wrong = pb.ReserveGPUsRequest(count=1, exclude_hosts=["vast-1", "res-1"])
    with pytest.raises(InvalidArgument) as caught:
        reserve_demand(wrong, defaults)
    texts = [each.description for each in caught.value.violations]
    assert texts[0].endswith("not 'vast-1'. This is the id of an offer: CreateGPUInstance takes it.")
    assert "This is a reservation id" in texts[1]
    right = pb.ReserveGPUsRequest(count=1, exclude_hosts=["vast.ai/1", "13589"])
    assert reserve_demand(right, defaults).filter.exclude_hosts == {"vast.ai/1", "13589"}


def test_what_is_named_instead_of_a_reservation_is_recognised() -> None:
    async def story(world: World) -> None:
        made = await world.reserve(1, request_id="mine")
        reservations = world.engine.reservations
        assert (await reservations.by_id(CALLER, made.reservation.id)).reservation.request_id == "mine"
        for name, said in (
            ("mine", f"This is the request_id of reservation {made.reservation.id}: use that id."),
            (str(made.leases[0].instance_id), "The id of a reservation begins with `res-`. If this is a contract id,"),
            (made.leases[0].id, "This is a lease id"),
            ("res-none", "ListReservations lists your reservations."),
        ):
            with pytest.raises(NotFound) as caught:
                await reservations.by_id(CALLER, name)
            assert str(caught.value).startswith(f"You have no reservation {name}. {said}")
        with pytest.raises(NotFound) as caught:
            await reservations.by_id(Caller(project="other"), "mine")
        assert made.reservation.id not in str(caught.value)

    in_world(story)


def test_a_request_id_means_the_reservation_of_the_callers_own_project_also_for_an_admin() -> None:
    async def story(world: World) -> None:
        mine = await world.reserve(1, request_id="nightly", project="p1")
        theirs = await world.reserve(1, request_id="nightly", project="team")
        await world.reserve(1, request_id="theirs", project="team")
        reservations = world.engine.reservations

        async def meant(caller: Caller, name: str) -> str | None:
            with pytest.raises(NotFound) as caught:
                await reservations.release(caller, name)
            return caught.value.metadata.get("request_id_of")

        admin = Caller(project="p1", role="admin")
        assert await meant(admin, "nightly") == mine.reservation.id
        assert await meant(Caller(project="team"), "nightly") == theirs.reservation.id
        assert await meant(admin, "theirs") is None
        assert await meant(Caller(project="other"), "nightly") is None

    in_world(story)


def test_what_is_being_released_is_no_load_but_still_counts_for_the_balancer() -> None:
    async def story(world: World) -> None:
        made = await world.reserve(2, packing="single_host", min_vram=16)
        first = str(made.leases[0].instance_id)
        before = await world.engine.load.report(CALLER, "")
        assert [row.connections for row in before.server] == [len(made.leases)] * len(made.leases)
        world.arm("destroy", "destroy_ignored", times=0)
        await world.engine.instances.destroy(CALLER, VAST, first)
        after = await world.engine.load.report(CALLER, "")
        assert first not in [row.id for row in after.server]
        assert [row.connections for row in after.server] == [len(made.leases) - 1] * (len(made.leases) - 1)
        assert sum(row.connections for row in after.provider) == len(made.leases) - 1
        assert sum(row.gpus for row in after.provider) == 2 - made.leases[0].offered.num_gpus
        with pytest.raises(NotFound, match="It does not exist, or it is being released"):
            await world.engine.load.report(CALLER, first)
        with pytest.raises(NotFound, match="This is a reservation id"):
            await world.engine.load.report(CALLER, made.reservation.id)
        counted = await world.db.read(counters.loads)
        assert counted[made.leases[0].offered.host].live == len(made.leases)

    in_world(story, machines=200)
