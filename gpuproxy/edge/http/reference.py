"""The page at /docs: the content of /openapi.json as HTML, by resource and searchable, without external resources.

Everything is in the page's HTML. Its script only searches and opens what a link names. The page's policy names the hash
of that script, so that no other script runs.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any
from urllib.parse import urlencode

from gpuproxy.edge.http.examples import whole

_STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;margin:0 auto;max-width:80rem;padding:1rem}
code,pre{font:13px/1.45 ui-monospace,monospace}
pre{overflow:auto;max-height:30rem;padding:.6rem;border:1px solid #8885;border-radius:4px}
summary{cursor:pointer;padding:.25rem 0}summary b{display:inline-block;min-width:4.5rem}
table{border-collapse:collapse;width:100%}h3{margin:.8rem 0 .2rem;font-size:1em}
th{text-align:left;font-weight:600}
th,td{border-top:1px solid #8883;padding:.25rem .8rem .25rem 0;vertical-align:top}
td:first-child,td:nth-child(2){white-space:nowrap}
details>div{padding:0 0 1rem 1rem;border-left:2px solid #8884;overflow:auto}
input{font:inherit;box-sizing:border-box;width:100%;padding:.4rem}
nav{columns:14rem}nav ul{list-style:none;margin:0 0 .8rem;padding:0;break-inside:avoid}
"""
_SCRIPT = """
"use strict";
const box = document.getElementById("search");
const none = document.getElementById("none");
const parts = Array.from(document.querySelectorAll("main details"), part => [part, part.textContent.toLowerCase()]);
const groups = Array.from(document.querySelectorAll("main section"));
function search() {
  const words = box.value.toLowerCase().split(/\\s+/).filter(Boolean);
  let found = 0;
  for (const [part, text] of parts) {
    part.hidden = !words.every(word => text.includes(word));
    found += part.hidden ? 0 : 1;
  }
  for (const group of groups) {
    group.hidden = !Array.from(group.querySelectorAll("details")).some(part => !part.hidden);
  }
  none.hidden = found > 0;
}
function show() {
  const part = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (part && part.tagName === "DETAILS") {
    if (part.hidden) {
      box.value = "";
      search();
    }
    part.open = true;
    part.scrollIntoView();
  }
}
document.getElementById("finder").hidden = false;
box.addEventListener("input", search);
addEventListener("hashchange", show);
show();
"""
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; "
    f"script-src 'sha256-{base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()}'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy of the page."""
_REF = "#/components/schemas/"
_JSON = "application/json"
_CODE = re.compile(r"`([^`]+)`")

Part = Mapping[str, Any]
"""A piece of the OpenAPI document."""


def page(document: Part) -> str:
    """The document as HTML."""
    info, schemas = document["info"], document["components"]["schemas"]
    title = f"{escape(info['title'])} {escape(info['version'])}"
    groups = _groups(document)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n'
        f"<body><h1>{title}</h1><p>{_text(info['description'])}</p>\n"
        '<p>For programs: <a href="/openapi.json">/openapi.json</a>. '
        "Other pages: <code>/healthz</code>, <code>/readyz</code>, <code>/metrics</code>.</p>\n"
        '<p id="finder" hidden><input id="search" type="search" aria-label="Search" '
        'placeholder="Search calls, fields and descriptions"></p>\n'
        f"<nav>{''.join(_contents(name, calls) for name, calls in groups.items())}</nav>\n<main>\n"
        f'<p id="none" hidden>Nothing found.</p>\n'
        f"{''.join(_section(name, calls, schemas) for name, calls in groups.items())}"
        f"<section><h2>Messages</h2>\n{''.join(_messages(schemas))}</section>\n"
        f"</main><script>{_SCRIPT}</script></body></html>\n"
    )


def _groups(document: Part) -> dict[str, list[tuple[str, str, Part]]]:
    """The calls (verb, path, operation) by the tag of each, in the order of the tags."""
    groups: dict[str, list[tuple[str, str, Part]]] = {tag["name"]: [] for tag in document["tags"]}
    for path, verbs in document["paths"].items():
        for verb, operation in verbs.items():
            groups[operation["tags"][0]].append((verb, path, operation))
    return groups


def _contents(name: str, calls: list[tuple[str, str, Part]]) -> str:
    links = "".join(
        f'<li><a href="#{each["operationId"]}">{escape(_name(each))}</a></li>'
        for _, _, each in calls
        if "_" not in each["operationId"]
    )
    return f"<ul><li><b>{escape(name)}</b></li>{links}</ul>"


def _section(name: str, calls: list[tuple[str, str, Part]], schemas: Part) -> str:
    parts = "".join(_call(verb, path, operation, schemas) for verb, path, operation in calls)
    return f"<section><h2>{escape(name)}</h2>\n{parts}</section>\n"


def _call(verb: str, path: str, operation: Part, schemas: Part) -> str:
    return (
        f'<details id="{operation["operationId"]}"><summary><b>{verb.upper()}</b> <code>{escape(path)}</code> '
        f"{escape(_name(operation))} {_text(operation['summary'])}</summary>"
        f"<div><p>{_text(operation['description'])}</p>\n"
        f"<h3>Request</h3><pre>{escape(_curl(verb, path, operation))}</pre>{_request(operation, schemas)}\n"
        f"<h3>Response</h3>{_response(operation, schemas)}{_answers(operation)}</div></details>\n"
    )


def _curl(verb: str, path: str, operation: Part) -> str:
    query = {each["name"]: each["example"] for each in operation["parameters"] if "example" in each}
    address = f"http://localhost:8080{path}"
    lines = [f"curl -X {verb.upper()} {address}" if not query else f"curl '{address}?{urlencode(query)}'"]
    if operation.get("security") != []:
        lines.append('-H "X-API-Key: YOUR_API_KEY"')
    content = operation.get("requestBody", {}).get("content", {}).get(_JSON, {})
    lines += [f"-d '{json.dumps(each['value'])}'" for each in content.get("examples", {}).values()]
    return " \\\n  ".join(lines)


def _request(operation: Part, schemas: Part) -> str:
    rows = [
        (each["name"], each["in"] + (", required" if each.get("required") else ""), each["schema"], each["description"])
        for each in operation["parameters"]
    ]
    body = operation.get("requestBody")
    if body:
        name = body["content"][_JSON]["schema"]["$ref"].removeprefix(_REF)
        properties = schemas[name]["properties"]
        known = {each[0] for each in rows}  # a field of the path may be in the body too
        rows += [
            (field, "body", schema, schema["description"]) for field, schema in properties.items() if field not in known
        ]
    cells = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{_type(schema)}</td><td>{where}</td><td>{_text(text)}</td></tr>"
        for name, where, schema, text in rows
    )
    head = "<tr><th>field</th><th>type</th><th>in</th><th>meaning</th></tr>"
    return f"<table>{head}{cells}</table>" if cells else "<p>No fields.</p>"


def _response(operation: Part, schemas: Part) -> str:
    success = next(each for code, each in operation["responses"].items() if code.startswith("2"))
    ((kind, content),) = success["content"].items()
    name = content.get("schema", {}).get("$ref", "").removeprefix(_REF) or operation["x-event"]
    lead = "<p>Server-sent events. The <code>data</code> of each has these fields:</p>" if kind != _JSON else ""
    shown = json.dumps(whole(name, schemas), indent=2)
    return f"{lead}{_fields(schemas[name])}<pre>{escape(shown)}</pre>"


def _messages(schemas: Part) -> Iterator[str]:
    for name, schema in sorted(schemas.items()):
        if not name.endswith(("Request", "Response")):
            yield (
                f'<details id="message-{name}"><summary><b><code>{escape(name)}</code></b></summary><div>'
                f"<p>{_text(schema.get('description', ''))}</p>{_fields(schema)}</div></details>\n"
            )


def _fields(schema: Part) -> str:
    """The fields of a message as a table."""
    cells = "".join(
        f"<tr><td><code>{escape(field)}</code></td><td>{_type(each)}</td><td>{_text(each.get('description', ''))}</td>"
        "</tr>"
        for field, each in schema["properties"].items()
    )
    head = "<tr><th>field</th><th>type</th><th>meaning</th></tr>"
    return f"<table>{head}{cells}</table>" if cells else "<p>No fields.</p>"


def _type(schema: Part) -> str:
    """The type of a value in words, as HTML; messages are links."""
    if "$ref" in schema:
        return _link(schema["$ref"].removeprefix(_REF))
    if "anyOf" in schema:
        return " or ".join(_type(each) for each in schema["anyOf"])
    kind = str(schema.get("type", "object"))
    if kind == "array":
        return f"list of {_type(schema['items'])}"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"map of string to {_type(schema['additionalProperties'])}"
    if kind == "string" and "pattern" in schema:
        return "time" if schema.get("format") == "date-time" else "duration"
    return kind


def _name(operation: Part) -> str:
    """The name of the call; a call with several paths has the same for each."""
    return str(operation["operationId"]).partition("_")[0]


def _text(words: str) -> str:
    """A description as HTML."""
    return _CODE.sub(r"<code>\1</code>", escape(words))


def _link(name: str) -> str:
    return f'<a href="#message-{escape(name)}">{escape(name)}</a>'


def _answers(operation: Part) -> str:
    codes = ", ".join(f"{code} ({escape(each['description'])})" for code, each in operation["responses"].items())
    return f"<p>Statuses: {codes} Errors have the message {_link('Error')}.</p>"
