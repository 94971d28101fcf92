"""Every router of the service, in one flat list. Paths are written out in full in each domain's endpoints."""

from fastapi import APIRouter

ROUTERS: tuple[APIRouter, ...] = ()
