"""The rules about creates. If one is broken, a paid machine can be lost."""

from gpuproxy.conformance.bench import Bench
from gpuproxy.conformance.subject import Make
from gpuproxy.conformance.verdict import NotJudged, require
from gpuproxy.conformance.wire import BAD_ANSWER, FAILURES, NO_ANSWER, OTHER_SCHEMA
from gpuproxy.model.errors import OutcomeUnknown, Refused
from gpuproxy.model.leases import InstanceId
from gpuproxy.ports import HttpRequest, HttpResponse, Receipt


async def a_create_is_sent_at_most_once(make: Make) -> None:
    """A create is sent at most once, whatever happens to it. A second request may rent a second machine."""
    answers = [refusal.answer for refusal in make().refusals]
    for spoil in (None, *FAILURES, *OTHER_SCHEMA, *answers):
        bench = Bench(make)
        offer = (await bench.offers())[0]
        if spoil is not None:
            bench.wire.spoil(spoil, which=bench.subject.is_create, times=1)
        await bench.create(offer)
        sent = sum(bench.subject.is_create(request) for request in bench.wire.requests)
        require(sent == 1, f"{sent} creates were sent when {_when(spoil)}")


async def a_lost_answer_to_a_create_is_an_unknown_outcome(make: Make) -> None:
    """A create without an answer may have been executed, so it ends with OutcomeUnknown."""
    for spoil in NO_ANSWER:
        bench = Bench(make)
        offer = (await bench.offers())[0]
        bench.wire.spoil(spoil, which=bench.subject.is_create, times=1)
        outcome = await bench.create(offer)
        require(isinstance(outcome, OutcomeUnknown), f"when {spoil.value}, a create ended as {_named(outcome)}")


async def a_refusal_is_claimed_only_where_nothing_was_executed(make: Make) -> None:
    """A create that was executed but has an unusable answer is not Refused. The engine would rent another machine."""
    for spoil in BAD_ANSWER:
        bench = Bench(make)
        offer = (await bench.offers())[0]
        bench.wire.spoil(spoil, which=bench.subject.is_create, times=1)
        outcome = await bench.create(offer)
        require(not isinstance(outcome, Refused), f"when {spoil.value}, a create ended as {_named(outcome)}")


async def a_known_refusal_of_a_create_has_its_own_error(make: Make) -> None:
    """Each refusal of the subject raises its error class. The engine's next step depends on the class."""
    if not make().refusals:
        raise NotJudged("the subject has no refusals")
    for refusal in make().refusals:
        bench = Bench(make)
        offer = (await bench.offers())[0]
        bench.wire.spoil(refusal.answer, which=bench.subject.is_create, times=1)
        outcome = await bench.create(offer)
        body = refusal.answer.body[:80].decode("utf-8", "replace")
        require(type(outcome) is refusal.error, f"{body!r} is {_named(outcome)}, not {refusal.error.__name__}")


async def an_error_with_an_instance_id_is_a_created_instance(make: Make) -> None:
    """If an error contains an instance id, the machine exists. The result is a Receipt, or OutcomeUnknown with it."""
    error_with_id = make().error_with_id
    if error_with_id is None:
        raise NotJudged("the subject has no such error")
    instance_id = InstanceId("27182818")
    bench = Bench(make)
    offer = (await bench.offers())[0]
    bench.wire.spoil(error_with_id(instance_id), which=bench.subject.is_create, times=1)
    outcome = await bench.create(offer)
    if isinstance(outcome, OutcomeUnknown):
        require(instance_id in f"{outcome} {outcome.body}", "OutcomeUnknown lacks the id that the error contains")
        return
    kept = isinstance(outcome, Receipt) and outcome.instance_id == instance_id
    require(kept, f"an error with the id of an instance ended as {_named(outcome)}")


async def the_label_is_on_the_machine_from_birth(make: Make) -> None:
    """When the create is answered, the machine has its label. A machine without a label is not found after a crash."""
    bench = Bench(make)
    offer = (await bench.offers())[0]
    label, subject = bench.label(), bench.subject
    labels: list[list[str]] = []

    class Watching:
        async def send(self, request: HttpRequest) -> HttpResponse:
            response = await subject.http.send(request)
            if subject.is_create(request):
                labels.append(list(subject.machines().values()))
            return response

    bench.wire.through(Watching())
    receipt = await bench.create(offer, label)
    require(isinstance(receipt, Receipt), f"a create without a fault ended as {_named(receipt)}")
    require(labels == [[label]], f"right after its create the machine has the label {labels}, not {label!r}")
    machines = subject.machines()
    exists = isinstance(receipt, Receipt) and receipt.instance_id in machines
    require(exists, f"no machine has the receipt's id; existing machines: {sorted(machines)}")


def _when(spoil: object) -> str:
    if spoil is None:
        return "there is no fault"
    return str(getattr(spoil, "value", "the create is refused"))


def _named(outcome: object) -> str:
    return f"{type(outcome).__name__}: {outcome}"
