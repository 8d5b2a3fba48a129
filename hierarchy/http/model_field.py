"""The one field of a request's body that routing needs."""

from __future__ import annotations

import msgspec

from hierarchy.errors import BadRequest
from hierarchy.http.multipart import model_in


class _Peek(msgspec.Struct):
    """The only field that routing needs; the rest is skipped, but must be JSON."""

    model: str


_peek = msgspec.json.Decoder(_Peek).decode


def model_of(body: bytes, boundary: bytes = b"") -> str:
    """The `model` of a request body. boundary: of a multipart form; b"" for JSON.

    Raises:
        BadRequest: it is not JSON, or not that form, or has no `model`, or one that is not a string.
    """
    if boundary:
        return model_in(body, boundary)
    try:
        return _peek(body).model
    except msgspec.ValidationError as error:
        if "$.model" in str(error):
            raise BadRequest("'model' must be a string", param="model") from None
        if "missing required field" in str(error):
            raise BadRequest("the body has no 'model'; name one of GET /v1/models", param="model") from None
        raise BadRequest("the body must be a JSON object with a 'model'", param="model") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    except RecursionError:
        raise BadRequest("the body is not JSON that can be read: it is nested too deeply") from None
