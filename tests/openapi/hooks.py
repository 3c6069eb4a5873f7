"""What schemathesis is told of the API that JSON Schema can't say."""

import schemathesis


@schemathesis.hook
def map_body(context, body):
    """Integers are written without a fraction: to JSON Schema, 5.0 is one too."""
    if isinstance(body, dict):
        return {field: map_body(context, value) for field, value in body.items()}
    if isinstance(body, list):
        return [map_body(context, value) for value in body]
    if isinstance(body, float) and body.is_integer():
        return int(body)
    return body
