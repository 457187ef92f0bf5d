"""Errors as the API answers them: problem details (RFC 9457) with the field that is wrong and how to mend it."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import orjson
from pydantic import ValidationError
from starlette.responses import Response

from linguarec.errors import (
    DataFormatError,
    LinguarecError,
    SettingsError,
    UnknownItemError,
    quoted,
)
from linguarec.serving.state_errors import KeyReusedError, StateBrokenError, StateUnavailableError

MEDIA_TYPE = "application/problem+json"
_SHOWN = 10  # of the problems of one request, so many are listed

# What pydantic calls an error -> how to mend it.
_MENDS = {
    "missing": "Add the field.",
    "extra_forbidden": "Leave it out, or correct its name; /openapi.json lists the fields of every call.",
    "string_type": "Write it as text, in quotes; ids are text, also those that are numbers.",
    "string_too_short": "Give at least one character.",
    "string_too_long": "Shorten it.",
    "string_pattern_mismatch": "Leave out the character with code 0.",
    "list_type": "Write it as a list, in square brackets.",
    "dict_type": "Write it as an object, in braces.",
    "model_type": "Write it as an object, in braces.",
    "model_attributes_type": "Write it as an object, in braces.",
    "int_type": "Write it as a whole number, without quotes.",
    "int_from_float": "Write it as a whole number.",
    "bool_type": "Write true or false, without quotes.",
    "literal_error": "Take one of the values that are named.",
    "finite_number": "Give a finite number; NaN and infinities are none.",
    "float_type": "Write it as a number, without quotes.",
    "too_short": "Give at least one.",
    "greater_than_equal": "Make it larger.",
    "less_than_equal": "Make it smaller.",
    "value_error": "See the detail.",
}


class Problem(Exception):
    """An error as the API answers it.

    Args:
        status: the HTTP status.
        kind: short name of the error, the end of its `type`.
        detail: what was found, and what was expected.
        field: the field of the body, such as `histories[0][3]`, the parameter or the header.
        mend: how to mend it.
        headers: further headers of the answer.
        more: further members of the answer.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        field: str | None = None,
        mend: str | None = None,
        headers: dict[str, str] | None = None,
        more: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.kind, self.headers = status, kind, headers
        self.content: dict[str, Any] = {
            "type": f"urn:linguarec:{kind}",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": detail,
        }
        if field is not None:
            self.content["field"] = field
        if mend is not None:
            self.content["mend"] = mend
        self.content |= more or {}

    def response(self) -> Response:
        """The answer."""
        return Response(orjson.dumps(self.content), self.status, self.headers, MEDIA_TYPE)


def unknown_item(raw_id: str, field: str = "raw_id") -> Problem:
    """The problem of an id that is not in the catalogue."""
    return Problem(
        404,
        "unknown-item",
        f"{quoted(raw_id)} is not in the catalogue.",
        field,
        "Correct the id, or add the item: PUT /v1/items.",
    )


def of_error(error: LinguarecError, field: str | None = None) -> Problem:
    """The problem that stands for an error of the library.

    404 for an unknown item, 409 for a reused key, 503 while the state cannot be used, else 422. A damaged state does not mend
    itself, so that answer does not ask to try again.
    """
    if isinstance(error, StateBrokenError):
        return Problem(503, "broken-state", str(error), mend="The operator of the service has to mend its state.")
    if isinstance(error, StateUnavailableError):
        return Problem(503, "no-state", str(error), mend="Try again later.", headers={"Retry-After": "2"})
    if isinstance(error, KeyReusedError):
        return Problem(409, "key-reused", str(error), "Idempotency-Key", "Use a new key for each call.")
    if isinstance(error, UnknownItemError):
        return Problem(404, "unknown-item", str(error), field)
    if isinstance(error, SettingsError):
        return Problem(422, "bad-setting", "; ".join(error.problems), field)
    if isinstance(error, DataFormatError):
        return Problem(422, "bad-item", str(error), field)
    return Problem(422, "bad-request", str(error), field)


def of_validation(error: ValidationError, within: Sequence[str | int] = ()) -> Problem:
    """The problem that stands for a body that does not fit its schema: 400 if it is no JSON, else 422.

    Args:
        error: what pydantic found.
        within: where the body that was validated stands in the request.
    """
    found = error.errors(include_url=False)
    first = found[0]
    if first["type"] == "json_invalid":
        return Problem(
            400, "bad-json", f"The body is not JSON: {first['ctx']['error']}.", mend="Send one JSON object in UTF-8."
        )
    problems: dict[str, dict[str, str]] = {}
    for one in found:
        described = _described((*within, *one["loc"]), one)
        if (before := problems.get(described["field"])) is None:
            problems[described["field"]] = described
        elif one["type"] != "missing":  # another kind of value that would do
            before["detail"] = f"{before['detail'][:-1]}, or {described['expected']}."
    for field in list(problems):  # of a union, the branch that fits best is the one that was looked into
        if any(other.startswith((f"{field}.", f"{field}[")) for other in problems):
            del problems[field]
    shown = [{name: text for name, text in each.items() if name != "expected"} for each in problems.values()][:_SHOWN]
    more: dict[str, Any] = {"errors": shown} if len(shown) > 1 else {}
    return Problem(422, "bad-field", shown[0]["detail"], shown[0]["field"], shown[0]["mend"], more=more)


def path_of(location: Sequence[str | int]) -> str:
    """The place of a value as it is written.

    >>> path_of(("histories", 0, 3))
    'histories[0][3]'
    """
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in location]
    return "".join(parts).removeprefix(".")


def _described(location: Sequence[str | int], one: Any) -> dict[str, str]:
    field = path_of([part for part in location if not _is_branch(part)])
    message = str(one["msg"]).removeprefix("Value error, ")
    expected = message[:1].lower() + message[1:]
    found = "" if one["type"] in ("missing", "value_error") else f"found {quoted(one['input'])}: "
    return {
        "field": field,
        "detail": f"{field or 'The body'}: {found}{expected}.",
        "mend": _MENDS.get(one["type"], "Correct the value; /openapi.json describes every field."),
        "expected": expected.removeprefix("input should be "),
    }


def _is_branch(part: str | int) -> bool:
    """Whether a part of a location names a branch of a union, not a field."""
    return isinstance(part, str) and ("[" in part or part.startswith("constrained-") or part in ("bool", "float"))
