"""Probes and metrics: answered by the event loop alone, whatever the model thread is at."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from moee_index.serve.health import status
from moee_index.serve.http.routes.common import ERRORS, ServerOf
from moee_index.serve.http.schemas import ReadyAnswer
from moee_index.serve.metrics import CONTENT_TYPE

router = APIRouter(responses=ERRORS)


@router.get("/livez")
async def livez() -> dict[str, Any]:
    """Whether the process answers at all."""
    return {"status": "alive"}


@router.get("/readyz", response_model=ReadyAnswer, responses={503: {"model": ReadyAnswer}})
@router.get("/health", response_model=ReadyAnswer, responses={503: {"model": ReadyAnswer}})
async def readyz(server: ServerOf) -> JSONResponse:
    """Whether requests can be answered; 503 where they cannot, and why."""
    found = status(server)
    return JSONResponse(found, 200 if found["reason"] is None else 503)


@router.get("/metrics", response_class=Response)
async def metrics(server: ServerOf) -> Response:
    """Counters for Prometheus."""
    return Response(server.metrics.text(), media_type=CONTENT_TYPE)
