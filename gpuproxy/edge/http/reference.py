"""The page at /docs: the content of /openapi.json as HTML, in one file without scripts or external resources."""

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

_STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
code,pre{font:13px/1.45 ui-monospace,monospace}pre{overflow:auto;padding:.6rem;border:1px solid #8885;border-radius:4px}
summary{cursor:pointer;padding:.25rem 0}summary b{display:inline-block;min-width:4.5rem}
table{border-collapse:collapse;width:100%}
td{border-top:1px solid #8883;padding:.25rem .5rem .25rem 0;vertical-align:top}
td:first-child{white-space:nowrap}section{margin-bottom:1rem}
"""
_REF = "#/components/schemas/"


def page(document: Mapping[str, Any]) -> str:
    """The document as HTML."""
    info = document["info"]
    title = f"{escape(info['title'])} {escape(info['version'])}"
    body = "\n".join(_operations(document))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n'
        f"<body><h1>{title}</h1><p>{escape(info['description'])}</p>\n"
        '<p>For programs: <a href="/openapi.json">/openapi.json</a>. '
        "Other pages: <code>/healthz</code>, <code>/readyz</code>, <code>/metrics</code>.</p>\n"
        f"{body}</body></html>\n"
    )


def _operations(document: Mapping[str, Any]) -> Iterator[str]:
    for path, verbs in document["paths"].items():
        for verb, operation in verbs.items():
            yield (
                f"<section><details><summary><b>{verb.upper()}</b> <code>{escape(path)}</code> "
                f"{escape(operation['summary'])}</summary><p>{escape(operation['description'])}</p>"
                f"<pre>{escape(_curl(verb, path, operation))}</pre>"
                f"{_fields(document, operation)}{_answers(operation)}</details></section>"
            )


def _curl(verb: str, path: str, operation: Mapping[str, Any]) -> str:
    lines = [f"curl -X {verb.upper()} http://localhost:8080{path}"]
    if operation.get("security") != []:
        lines.append('-H "X-API-Key: YOUR_API_KEY"')
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    lines += [f"-d '{json.dumps(each['value'])}'" for each in content.get("examples", {}).values()]
    return " \\\n  ".join(lines)


def _fields(document: Mapping[str, Any], operation: Mapping[str, Any]) -> str:
    rows = [(each["name"], each["in"], each["description"]) for each in operation["parameters"]]
    body = operation.get("requestBody")
    if body:
        name = body["content"]["application/json"]["schema"]["$ref"].removeprefix(_REF)
        properties = document["components"]["schemas"][name]["properties"]
        rows += [(field, "body", schema["description"]) for field, schema in properties.items()]
    cells = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{where}</td><td>{escape(text)}</td></tr>"
        for name, where, text in rows
    )
    return f"<table>{cells}</table>" if cells else ""


def _answers(operation: Mapping[str, Any]) -> str:
    codes = ", ".join(f"{code} ({escape(each['description'])})" for code, each in operation["responses"].items())
    return f"<p>Answers: {codes}</p>"
