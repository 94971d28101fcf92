"""Every router of the service, in one flat list. Paths are written out in full in each domain's endpoints."""

from app import health
from app.adapters import endpoints as adapters
from app.api_keys import endpoints as api_keys
from app.files import endpoints as files
from app.graders import endpoints as graders
from app.jobs import endpoints as jobs
from app.methods import endpoints as methods
from app.models import endpoints as models
from app.saliency import endpoints as saliency

ROUTERS = (
    health.router,
    files.router,
    jobs.router,
    saliency.router,
    methods.router,
    graders.router,
    adapters.router,
    models.router,
    api_keys.router,
)
