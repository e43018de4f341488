"""Errors as answers: the status of the one tree of errors, OpenAI's body, never a traceback."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from moee_index.errors import MoeeIndexError
from moee_index.serve.errors import BusyError
from moee_index.text import cut, one_line

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large_error",
    415: "invalid_request_error",
    421: "invalid_request_error",
    431: "request_too_large_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "overloaded_error",
}
STATUSES = tuple(_TYPES)
_MOST = 1000


def error_body(status: int, message: str, param: str | None = None, code: str | None = None) -> Any:
    """OpenAI's body of an error. code: what programs may look at."""
    return {
        "error": {
            "message": cut(one_line(message[: 4 * _MOST]), _MOST),
            "type": _TYPES.get(status, "server_error"),
            "param": param,
            "code": code or _TYPES.get(status, "server_error").removesuffix("_error"),
        }
    }


def answer(error: MoeeIndexError, message: str | None = None) -> JSONResponse:
    """The answer to a request that failed so. message: in place of the error's own."""
    headers = {}
    if isinstance(error, BusyError):
        headers["retry-after"] = str(error.retry_after)
    if error.http_status == 401:
        headers["www-authenticate"] = "Bearer"
    name = type(error).__name__.removesuffix("Error")
    code = "".join(f"_{sign.lower()}" if sign.isupper() else sign for sign in name).strip("_")
    body = error_body(error.http_status, message or str(error), code=code)
    return JSONResponse(body, error.http_status, headers)


def of_tree(request: Request, error: Exception) -> JSONResponse:
    """What this program raises on purpose."""
    assert isinstance(error, MoeeIndexError)
    return answer(error, request.app.state.server.indexes.without_paths(str(error)))


def of_validation(_: Request, error: Exception) -> JSONResponse:
    """A body, an address or a query string that is not as declared: its first fault."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    path = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
    where = ".".join(path)
    message = f"{where}: {first['msg']}" if where else str(first["msg"])
    return JSONResponse(error_body(400, message, where or None), 400)


def of_http(request: Request, error: Exception) -> JSONResponse:
    """A path that is not served, a method that it does not take, a body that is no JSON."""
    assert isinstance(error, HTTPException)
    message = str(error.detail)
    if error.status_code == 404 and request.app.state.server.settings.segments is not None:
        message = (
            "this server holds some segments of an index for a head, and answers that alone: ask "
            "the head (moee-index serve --shards)"
        )
    body = error_body(error.status_code, message)
    return JSONResponse(body, error.status_code, error.headers)


def unexpected(_: Request, __: Exception) -> JSONResponse:
    """An error that nobody thought of; what it was stands in the log alone."""
    message = "an unexpected error; the server's log has it under the X-Request-ID of this answer"
    return JSONResponse(error_body(500, message), 500)
