"""A GPU model that no offer has is named first, with models that are meant perhaps."""

from gpuproxy.loadbalancer.balancer import Shortage
from gpuproxy.loadbalancer.refusals import Seen, not_enough
from gpuproxy.model.demands import Order
from gpuproxy.model.errors import FailedPrecondition
from gpuproxy.model.offers import OfferFilter, ProviderName
from tests.loadbalancer.test_nearest import refused
from tests.world import World, in_world

_NONE = Shortage(available=0, best=0, per_provider={}, sizes=())
_MODELS = ("A100 SXM4", "H100 SXM", "RTX 3090", "RTX 4090", "RTX 5090")


def told(model: str, seen: Seen, rejected: dict[str, int] | None = None) -> FailedPrecondition:
    order = Order(count=2, filter=OfferFilter(gpu_model=model, max_price=1.5))
    return not_enough(order, _NONE, {"min_vram": 5, "gpu_model": 4} if rejected is None else rejected, seen, None)


def test_an_unknown_model_is_named_first_with_near_ones():
    refusal = told("RTX 4900", Seen(models=_MODELS))
    assert str(refusal).startswith('Not enough GPUs: no offer has a GPU model "RTX 4900". Near ones: RTX ')
    assert "RTX 4090" in str(refusal)
    assert "H100" not in str(refusal)
    assert str(refusal).endswith("Asked 2 x RTX 4900 at <=$1.50/GPU-h. Nothing was rented.")
    assert refusal.metadata["unknown_gpu_model"] == "RTX 4900"
    assert "RTX 4090" in refusal.metadata["near_gpu_models"].split(",")
    assert {name: count for name, count in refusal.metadata.items() if name.startswith("rejected.")} == {
        "rejected.gpu_model": "9"
    }


def test_a_model_like_no_other_has_no_near_ones():
    refusal = told("Quantum Blaster", Seen(models=_MODELS))
    assert "Near ones" not in str(refusal)
    assert refusal.metadata["near_gpu_models"] == ""


def test_a_known_model_in_any_spelling_is_not_called_unknown():
    for model in ("rtx_4090", "NVIDIA GeForce RTX 4090", "A100", "h100 sxm", ""):
        refusal = told(model, Seen(models=_MODELS))
        assert "no offer has" not in str(refusal)
        assert "unknown_gpu_model" not in refusal.metadata
        assert refusal.metadata["rejected.min_vram"] == "5"


def test_a_market_without_offers_says_nothing_about_models():
    assert "no offer has" not in str(told("RTX 4900", Seen(models=())))


def test_what_was_not_read_is_said():
    vast, ionet = ProviderName("vast.ai"), ProviderName("io.net")
    partly = str(told("B300", Seen(models=_MODELS, truncated=True, silent=((ionet, 42.0),))))
    assert "It may exist all the same: io.net has been silent for 42 s; not all offers have been read." in partly
    assert "It may exist" not in str(told("B300", Seen(models=_MODELS)))
    assert "vast.ai has been silent" in str(told("B300", Seen(models=_MODELS, silent=((vast, 9.0),))))


def test_a_reservation_of_an_unknown_model_says_so_whatever_other_filters_there_are():
    async def story(world: World) -> None:
        refusal = await refused(world, count=1, gpu_model="RTX 4909", max_price=0.001, min_vram=80.0)
        assert 'no offer has a GPU model "RTX 4909". Near ones:' in str(refusal)
        known = await refused(world, count=1, gpu_model="RTX 4090", max_price=0.001, min_vram=80.0)
        assert "no offer has" not in str(known)

    in_world(story)
