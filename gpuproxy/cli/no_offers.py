"""Why `list` found nothing: a GPU model or a place that no offer has, or a market that is not read yet.

The server's refusal of `reserve` gives the same hint. A list is no refusal, so all offers are read once more here.
"""

from collections.abc import Iterable
from difflib import get_close_matches

from gpuproxy.cli.connection import Connection, ServerRefused
from gpuproxy.model.gpus import gpu_matches, near_models
from gpuproxy.model.offers import HIGHEST_PRICE, location_matches
from gpuproxy.v1 import gpuproxy_pb2 as pb

_PAGE = 5_000
_PAGES = 20
_NEAR = 5


def hint(connection: Connection, asked: pb.ListGPUInstancesRequest) -> str:
    """What to say about an empty answer; "" if nothing is known to say."""
    try:
        offers, unread = _all_offers(connection)
    except ServerRefused:
        return ""
    if not offers:
        silent = f"the market is still being read, or {', '.join(unread)} does not answer"
        return f"No offer is known: {silent}." if unread else "No marketplace has an offer now."
    lines = []
    models = sorted({offer.gpu_model for offer in offers if offer.gpu_model})
    if asked.gpu_model and not any(gpu_matches(asked.gpu_model, model) for model in models):
        lines.append(f'No offer has a GPU model "{asked.gpu_model}".{_like(near_models(asked.gpu_model, models))}')
    places = sorted({offer.location for offer in offers if offer.location})
    if asked.location and not any(location_matches(asked.location, place) for place in places):
        lines.append(f'No offer has a location like "{asked.location}".{_like(_near_places(asked.location, places))}')
    if lines and unread:
        lines.append(f"Not all offers have been read: no answer from {', '.join(unread)}.")
    return "\n".join(lines)


def _all_offers(connection: Connection) -> tuple[list[pb.GPUInstance], list[str]]:
    """All offers at any price, and the marketplaces that do not answer."""
    request = pb.ListGPUInstancesRequest(verified_only=False, max_price=HIGHEST_PRICE, page_size=_PAGE)
    offers: list[pb.GPUInstance] = []
    for _ in range(_PAGES):
        answer = connection.call(connection.stub.ListGPUInstances, request)
        offers += answer.instances
        request.page_token = answer.next_page_token
        if not request.page_token:
            break
    return offers, list(answer.unreachable)


def _near_places(wanted: str, places: Iterable[str]) -> list[str]:
    """Up to five known places that are spelled like this one, the nearest first."""
    parts = {part.strip().casefold(): part.strip() for place in places for part in (place, *place.split(","))}
    return [parts[key] for key in get_close_matches(wanted.strip().casefold(), parts, n=_NEAR)]


def _like(names: Iterable[str]) -> str:
    listed = ", ".join(names)
    return f" Near ones: {listed}." if listed else ""
