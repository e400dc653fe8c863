"""The OpenAPI description matches the server: schemathesis tests some cases, some hundred with --all-seeds.

`make http-fuzz` tests more.
"""

import asyncio
import importlib.util
from pathlib import Path

import pytest

from gpuproxy.edge.http.openapi import document
from gpuproxy.edge.http.reference import page
from gpuproxy.edge.rpc.rpcs import CONTRACT
from gpuproxy.instances.requests import LeaseView
from gpuproxy.model.money import Micro
from scripts.http_fuzz import command
from tests.edge.engine import StubEngine, lease, offer, service_over
from tests.edge.http_face import both_faces
from tests.edge.pools import StubPools

pytestmark = pytest.mark.long

PHASES = (("examples,fuzzing", 2), ("coverage", 1), ("fuzzing", 12))
"""What schemathesis does, and the number of random requests for each call."""
EVERYTHING = document(frozenset(method.name for method in CONTRACT.methods))


def test_every_call_and_field_is_described() -> None:
    for verbs in EVERYTHING["paths"].values():
        for operation in verbs.values():
            assert operation["summary"]
            assert all(each["description"] for each in operation["parameters"])
    for schema in EVERYTHING["components"]["schemas"].values():
        assert all(each.get("description") for each in schema["properties"].values() if "description" in schema)


def test_every_reference_has_a_target() -> None:
    schemas = EVERYTHING["components"]["schemas"]

    def check(node: object) -> None:
        if isinstance(node, dict):
            if "$ref" in node:
                assert node["$ref"].removeprefix("#/components/schemas/") in schemas
            for each in node.values():
                check(each)
        elif isinstance(node, list):
            for each in node:
                check(each)

    check(EVERYTHING)


def test_the_published_examples_are_shown() -> None:
    text = page(EVERYTHING)
    assert "&quot;filters&quot;: {&quot;min_vram&quot;: 16, &quot;max_price&quot;: 2.0" in text
    assert "&quot;host_machine_id&quot;: 88888" in text


@pytest.mark.seeds(1, len(PHASES))
async def test_generated_requests_agree_with_the_description(tmp_path: Path, seed: int) -> None:
    phases, count = PHASES[seed]
    if importlib.util.find_spec("schemathesis") is None:
        pytest.skip("schemathesis is not installed")
    engine = StubEngine(
        offers=[offer(number) for number in range(1, 4)], mine=[LeaseView(lease=lease(1), cost=Micro(5))]
    )
    async with both_faces(service_over(engine, StubPools())) as both:
        process = await asyncio.create_subprocess_exec(
            *command(both.url, "gp_admin", count, "--seed", "7", "--no-color", "--phases", phases),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()[-6000:]
