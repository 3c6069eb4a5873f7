"""Checks a document: its form against the schema of OpenAPI 3.1, and each of its examples against the schema that it is of.

Called with the document's file; prints the number of examples.
"""

import json
import sys

import jsonschema_rs
from schemathesis.specs.openapi.definitions import OPENAPI_31

with open(sys.argv[1], encoding="utf-8") as file:
    document = json.load(file)

faults = [f"the document at {list(error.instance_path)}: {error.message}"
          for error in jsonschema_rs.Draft202012Validator(OPENAPI_31).iter_errors(document)]
examples = 0


def check(place, schema, example):
    global examples
    examples += 1
    # Not all fields of a quota or of counts are shown: there are as many as there are resource types.
    whole = {**schema, "components": without_required_types(document["components"])}
    for error in jsonschema_rs.Draft202012Validator(whole, validate_formats=True).iter_errors(example):
        faults.append(f"{place}: {error.message}")


def without_required_types(components):
    schemas = dict(components["schemas"])
    for name in ("Quota", "Counts"):
        schemas[name] = {**schemas[name], "required": []}
    return {"schemas": schemas}


def contents(place, content):
    for kind, media in content.items():
        if "example" in media:
            check(f"{place} {kind}", media["schema"], media["example"])
        for name, example in media.get("examples", {}).items():
            check(f"{place} {kind} {name}", media["schema"], example["value"])


for path, operations in document["paths"].items():
    for method, operation in operations.items():
        place = f"{method} {path}"
        for parameter in operation.get("parameters", []):
            if "example" in parameter:
                check(f"{place} {parameter['name']}", parameter["schema"], parameter["example"])
        contents(place, operation.get("requestBody", {}).get("content", {}))
        for status, answer in operation["responses"].items():
            contents(f"{place} {status}", answer["content"])

print(examples)
if faults:
    sys.exit("\n".join(faults))
