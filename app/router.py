"""Every router of the service, in one flat list. Paths are written out in full in each domain's endpoints."""

from fastapi import APIRouter

from app.adapters.endpoints import router as adapters
from app.jobs.endpoints import router as jobs
from app.methods.endpoints import router as methods

ROUTERS: tuple[APIRouter, ...] = (adapters, jobs, methods)
