"""Route of saliency previews."""

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from starlette.responses import Response

from app.dependencies import JobsWriter, Queue, RequestSettings, Sessions
from app.saliency import service
from app.saliency.schemas import PreviewCreate, PreviewRead

router = APIRouter(tags=["fine-tuning"])


@router.post("/v1/fine_tuning/saliency", response_model=PreviewRead)
async def preview_saliency(
    body: PreviewCreate,
    request: Request,
    key: JobsWriter,
    *,
    sessions: Sessions,
    queue: Queue,
    settings: RequestSettings,
) -> Response:
    """Show what a method makes of every token of some rows, without training. Leaving ends the work."""
    preview_id = await run_in_threadpool(service.create_preview, sessions, key.project_id, body, settings)
    waiting = service.Waiting(sessions, queue, settings, request.is_disconnected)
    # The worker wrote the body as it is sent: records of thousands of tokens need not be read once more.
    return Response(await service.await_answer(waiting, preview_id), media_type="application/json")
