"""The part of the page Market that says why offers are left out, offer by offer."""

from collections.abc import Mapping

from aiohttp import web

from gpuproxy.edge.web import forms
from gpuproxy.edge.web.visits import Visit
from gpuproxy.v1 import gpuproxy_pb2 as pb

WORDS: Mapping[str, str] = {
    "provider": "at another marketplace",
    "offer": "another offer",
    "min_vram": "too little memory per GPU",
    "max_price": "too expensive",
    "num_gpus": "another number of GPUs",
    "machine_ids": "another host",
    "verified_only": "host not verified",
    "gpu_model": "another GPU model",
    "location": "another location",
    "min_reliability": "not reliable enough",
    "min_cuda": "CUDA too old",
    "compute_cap": "GPU too old for the image",
    "disk_gb": "too little disk",
    "exclude_hosts": "host to be avoided",
    "ports": "too few ports",
    "min_cpu_cores": "too few CPU cores",
    "min_ram_gb": "too little memory of the machine",
    "min_disk_bandwidth": "disk too slow",
    "min_inet_down": "download too slow",
    "min_inet_up": "upload too slow",
    "max_traffic_price": "traffic too expensive",
    "ends_too_soon": "offer ends before the machine would",
    "no_account": "no account can rent it now: paused, not answering, of another region, or unable",
    "rented": "its GPUs are rented by this service, or have just been taken",
    "unreachable": "its marketplace does not answer",
    "no_capacity": "a create there has just found no capacity",
    "ejected": "creates on this host have failed repeatedly",
    "same_model": "another model than the chosen one",
    "same_country": "another country than the chosen one",
}
"""What each rule of a decision means."""
_LISTS = ("ports", "exclude_hosts", "labels")


async def page(visit: Visit) -> web.Response:
    """The rules that leave out offers, each with its cheapest ones, under the form's filters."""
    request = forms.request_of(
        pb.ReserveGPUsRequest, visit.query, lists=_LISTS, without=("dry_run", "wait", "wait_for", "labels")
    )
    request.count = request.count or 1
    found = await visit.site.calls.left_out(request, visit.session.metadata)
    return visit.page("_left_out.html", found=found, words=WORDS)
