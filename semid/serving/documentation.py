"""The API's description, with examples made of the items that are served, so that each works as it stands where the run can do it.

GET /openapi.json is for programs. GET /docs is one page without scripts, with a command to paste for every route.
"""

from __future__ import annotations

import html
import json
import shlex
from itertools import count
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
from fastapi.openapi.utils import get_openapi

if TYPE_CHECKING:
    from fastapi import FastAPI

    from semid.serving.service import Service

USER = "new-visitor"


def openapi(app: FastAPI, service: Service) -> dict[str, Any]:
    """Return the OpenAPI document with an example for every body and parameter."""
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    bodies, values = examples(service)
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if body := bodies.get((method, path)):
                operation["requestBody"]["content"]["application/json"]["example"] = body
            for parameter in operation.get("parameters", []):
                if parameter["name"] in values:
                    parameter["example"] = values[parameter["name"]]
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{}, {"key": []}]
    return document


def examples(service: Service) -> tuple[dict[tuple[str, str], Any], dict[str, Any]]:
    """Return {(method, path): body} and {parameter: value} of items that are in the catalogue now."""
    snapshot = service.engine.snapshot
    catalog = snapshot.catalog
    ids = [str(id_) for id_ in catalog.items.ids[np.argsort(~snapshot.alive, kind="stable")[:2]]]  # removed ones where no other is left
    item = ids[0]
    own = service.engine.item(item)["attributes"]
    text = next((name for name in ("title", *catalog.text) if isinstance(own.get(name), str)), None)
    new = next(name for n in count(1) if (name := f"my-new-item-{n}") not in catalog.items)
    bodies = {
        ("post", "/recommend"): {"history": ids, "k": 5},
        ("post", "/events"): {"events": [{"key": f"order-line-of-{item}", "user": USER, "item_id": item, "action": "buy"}]},
        ("post", "/items"): {"items": [{"item_id": new, **({text: "A new item"} if text else {})}]},
        ("patch", "/items"): {"items": [{"item_id": item, **({text: own[text]} if text else {})}]},
        ("post", "/items/remove"): {"item_ids": [new if snapshot.takes_items else item]},
        ("post", "/items/restore"): {"item_ids": [item]},
    }
    return bodies, {"item_id": item, "item": ids[-1], "history": ids[:1], "k": 5,
                    "by": "together" if snapshot.content is None else "content"}


def command(method: str, path: str, operation: dict[str, Any], address: str) -> str:
    """Return one operation's example as a curl command to the server at `address`."""
    query = []
    for parameter in operation.get("parameters", []):
        if "example" not in parameter:
            continue
        value = parameter["example"]
        if parameter["in"] == "path":
            path = path.replace("{" + parameter["name"] + "}", quote(str(value), safe=""))
        else:
            query += [f"{parameter['name']}={quote(str(each), safe='')}" for each in (value if isinstance(value, list) else [value])]
    parts = ["curl", "-s", *(["-X", method.upper()] if method not in ("get", "post") else [])]
    if "requestBody" in operation:
        body = json.dumps(operation["requestBody"]["content"]["application/json"]["example"], ensure_ascii=False)
        parts += ["-H", "Content-Type: application/json", "-d", body]
    elif method == "post":
        parts += ["-X", "POST"]
    return shlex.join([*parts, f"{address}{path}{'?' + '&'.join(query) if query else ''}"])


PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>
:root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }} body {{ max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
pre {{ overflow-x: auto; padding: .7rem; border: 1px solid #8886; border-radius: .4rem }} h2 {{ margin: 2rem 0 .3rem; font-size: 1.05rem }}
td, th {{ text-align: left; vertical-align: top; padding: .15rem .8rem .15rem 0 }} code {{ font-size: .92em }}
</style><h1>{title} {version}</h1><p>{description} The commands below work as they stand (to add items: where
the run can take new ones); where the server was started with a key, add
<code>-H "Authorization: Bearer KEY"</code>, and behind a proxy take its address. For programs:
<a href="openapi.json">openapi.json</a>.</p>{operations}</html>"""


def page(document: dict[str, Any], address: str) -> str:
    """Return the API's description as a page. address: where the reader reached the server, such as http://127.0.0.1:8000."""
    return PAGE.format(title=document["info"]["title"], version=document["info"]["version"], description=document["info"]["description"],
                       operations="".join(_operation(method, path, operation, document, address)
                                          for path, methods in document["paths"].items() for method, operation in methods.items()))


def _operation(method: str, path: str, operation: dict[str, Any], document: dict[str, Any], address: str) -> str:
    fields = []
    if "requestBody" in operation:
        name = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        fields = [(field, schema) for field, schema in document["components"]["schemas"][name]["properties"].items()]
    fields += [(parameter["name"], parameter["schema"] | {"description": parameter.get("description", "")})
               for parameter in operation.get("parameters", [])]
    rows = "".join(f"<tr><th><code>{html.escape(field)}</code></th><td>{html.escape(schema.get('description', ''))}</td></tr>"
                   for field, schema in fields)
    return (f"<section><h2><code>{method.upper()} {html.escape(path)}</code></h2><p>{html.escape(operation['summary'])}</p>"
            f"<pre><code>{html.escape(command(method, path, operation, address))}</code></pre>"
            f"{f'<table>{rows}</table>' if rows else ''}</section>")
