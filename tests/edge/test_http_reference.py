"""The page at /docs: every call and field with its type and an example, by resource, and a search without a network."""

import base64
import hashlib
import json
import re
import subprocess
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.message_factory import GetMessageClass

from gpuproxy.edge.http.examples import whole
from gpuproxy.edge.http.openapi import document
from gpuproxy.edge.http.reference import POLICY, page
from gpuproxy.edge.rpc.rpcs import CONTRACT
from tests.boot.machine import needed
from tests.edge.engine import StubEngine, service_over
from tests.edge.http_face import both_faces

EVERYTHING = document(frozenset(method.name for method in CONTRACT.methods))
PAGE = page(EVERYTHING)
SCHEMAS: dict[str, Any] = EVERYTHING["components"]["schemas"]
(STYLE,) = re.findall(r"<style>(.*?)</style>", PAGE, re.DOTALL)
SCRIPT = re.findall(r"<script>(.*?)</script>", PAGE, re.DOTALL)
DOM = """
"use strict";
class Part {
  constructor(text, parts = []) { this.textContent = text; this.parts = parts; this.hidden = false; this.open = false; }
  get tagName() { return "DETAILS"; }
  querySelectorAll() { return this.parts; }
  addEventListener(name, call) { this.heard = call; }
  scrollIntoView() { this.shown = true; }
}
const calls = {list: new Part("GET ListGPUInstances min_vram"), reserve: new Part("POST ReserveGPUs min_vram count")};
const keys = {create: new Part("POST CreateAPIKey role")};
const groups = [new Part("", Object.values(calls)), new Part("", Object.values(keys))];
const ids = {search: new Part(""), none: new Part(""), finder: new Part(""), create: keys.create};
ids.finder.hidden = ids.none.hidden = true;
ids.search.value = "";
let moved;
const document = {
  getElementById: id => ids[id] || null,
  querySelectorAll: what => what === "main section" ? groups : [...Object.values(calls), ...Object.values(keys)],
};
const location = {hash: ""};
function addEventListener(name, call) { moved = call; }
function type(words) { ids.search.value = words; ids.search.heard(); return state(); }
function go(hash) { location.hash = hash; moved(); return state(); }
function state() {
  return [calls.list, calls.reserve, keys.create, ...groups, ids.none].map(part => part.hidden ? 0 : 1).join("");
}
"""
"""As much of a browser as the script uses. `state` has a 1 for each part that is shown: calls, groups, "nothing"."""


class Parts(HTMLParser):
    """The ids and links of a page, and the texts of its calls."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids += [given["id"] or ""] if "id" in given else []
        self.links += [given["href"] or ""] if "href" in given else []
        self.sources += [given["src"] or ""] if "src" in given else []
        if tag not in {"meta", "input", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def call_of(name: str) -> str:
    found = re.search(rf'<details id="{name}">.*?</details>', PAGE, re.DOTALL)
    assert found is not None, name
    return found[0]


def test_each_call_stands_in_the_group_of_its_resource() -> None:
    groups = {each["name"]: 0 for each in EVERYTHING["tags"]}
    for verbs in EVERYTHING["paths"].values():
        for operation in verbs.values():
            (tag,) = operation["tags"]
            groups[tag] += 1
    assert all(groups.values())
    assert 5 < len(groups) < 20
    section = re.search(r"<section><h2>Warm pools</h2>.*?</section>", PAGE, re.DOTALL)
    assert section is not None
    assert 'id="ProvisionWarmPool"' in section[0]
    assert 'id="ReserveGPUs"' not in section[0]


def test_every_field_of_request_and_answer_has_its_type_and_meaning() -> None:
    for verbs in EVERYTHING["paths"].values():
        for operation in verbs.values():
            shown = unescape(re.sub(r"<[^>]+>", "", call_of(operation["operationId"])))
            shown = shown.replace("`", "")
            names = [each["name"] for each in operation["parameters"]]
            for body in (operation.get("requestBody"), operation["responses"].get("200")):
                reference = (body or {"content": {"": {}}})["content"].get("application/json", {}).get("schema", {})
                fields = SCHEMAS[reference["$ref"].rpartition("/")[2]]["properties"] if reference else {}
                names += fields
                for schema in fields.values():
                    assert schema["description"].replace("`", "") in shown
            assert all(name in shown for name in names)
    assert re.search(r"<code>min_vram</code></td><td>number</td>", call_of("ListGPUInstances"))
    assert re.search(r'<code>instances</code></td><td>list of <a href="#message-GPUInstance">', PAGE)
    assert re.search(r"<code>lease_duration</code></td><td>duration or null</td>", call_of("ReserveGPUs"))
    assert re.search(r"<code>labels</code></td><td>map of string to string", PAGE)


def test_every_answer_has_an_example_that_is_such_an_answer() -> None:
    for method in CONTRACT.methods:
        json_format.ParseDict(whole(method.output_type.name, SCHEMAS), GetMessageClass(method.output_type)())
        assert set(whole(method.output_type.name, SCHEMAS)) == set(method.output_type.fields_by_name)
    shown = json.loads(unescape(call_of("GetReservation").rpartition("<pre>")[2].partition("</pre>")[0]))
    assert shown["reservation"]["instances"][0]["ssh"]["port"] == 40017


def test_the_examples_name_a_marketplace_of_the_server() -> None:
    schemas = document(frozenset({"GetReservation"}), ["my.market", "other"])["components"]["schemas"]
    (machine,) = whole("GetReservationResponse", schemas)["reservation"]["instances"]
    assert machine["provider"] == "my.market"
    assert "my.market" not in PAGE


def test_every_link_leads_somewhere_and_nothing_comes_from_elsewhere() -> None:
    parts = Parts(PAGE)
    assert parts.open == []
    assert len(set(parts.ids)) == len(parts.ids)
    assert {link for link in parts.links if link.removeprefix("#") not in parts.ids} == {"/openapi.json"}
    assert parts.sources == []
    assert not re.search(r"@import|url\(|https?:|fetch", STYLE + SCRIPT[0])


async def test_the_policy_allows_the_script_of_the_page_and_no_other() -> None:
    async with both_faces(service_over(StubEngine())) as both:
        answer = await both.send("GET", "/docs", key=None)
    (script,) = re.findall(r"<script>(.*?)</script>", answer.body.decode(), re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = answer.headers["Content-Security-Policy"]
    assert policy == POLICY
    assert re.findall(r"script-src ([^;]*)", policy) == [f"'sha256-{digest}'"]
    assert policy.startswith("default-src 'none'; ")


@pytest.mark.long
def test_the_search_shows_what_has_every_word_and_a_link_opens_its_call(tmp_path: Path) -> None:
    (script,) = SCRIPT
    story = """
console.log([ids.finder.hidden, state(), type("min_vram"), type("RESERVE count"), type("reserve role"), type(""),
  type("reserve"), go("#create"), keys.create.open, keys.create.shown, ids.search.value, go("#unknown")].join(" "));
"""
    (tmp_path / "story.js").write_text(f"{DOM}{{{script}}}{story}")
    done = subprocess.run([needed("node"), str(tmp_path / "story.js")], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    everything = "111110"
    told = ["false", everything, "110100", "010100", "000001", everything, "010100", everything, "true", "true", "",
            everything]  # fmt: skip
    assert done.stdout.strip().split(" ") == told
