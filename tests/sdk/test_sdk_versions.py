"""The unmodified ``openai`` package, in the last 1.x, the last 2.x and the installed 3.x, sync and async."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.core.settings import Settings
from app.db.models import FineTuningJob
from app.db.session import SessionFactory
from app.main import create_app
from tests.fixtures.api import Tenant
from tests.sdk.live_service import Door, publishing_worker, serve

HERE = Path(__file__).parent
INSTALLED = version("openai")
OLD_VERSIONS = (HERE / "versions.txt").read_text().split()
JOBS_OF_A_RUN = 3 + 3  # the main one and two retried ones; three queued ones of the other project
QUEUE_OF_A_PROJECT = 3


def import_path(sdk: str) -> str:
    """Return the folder to import this version from; empty for the installed one."""
    if sdk == INSTALLED:
        return ""
    folder = Path(sys.prefix) / f"openai-{sdk}"
    assert folder.is_dir(), f"{folder} is missing: run `make install`"
    return str(folder)


@pytest.mark.parametrize("flavour", ["sync", "async"])
@pytest.mark.parametrize("sdk", [*OLD_VERSIONS, INSTALLED])
def test_stock_client_does_everything(
    settings: Settings,
    session_factory: SessionFactory,
    tenant: Tenant,
    other_tenant: Tenant,
    base_model: str,
    *,
    session: Session,
    sdk: str,
    flavour: str,
) -> None:
    app = create_app(settings.model_copy(update={"max_queued_jobs": QUEUE_OF_A_PROJECT}))
    door = Door(app)
    with (
        serve(door) as base_url,
        publishing_worker(session_factory, app.state.resources.store, tenant.project_id),
    ):
        run = subprocess.run(
            [sys.executable, HERE / "scenario.py", flavour],
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": import_path(sdk),
                "SCENARIO_BASE_URL": base_url,
                "SCENARIO_MODEL": base_model,
                "SCENARIO_KEY": tenant.key,
                "SCENARIO_OTHER_KEY": other_tenant.key,
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == {"openai": sdk, "flavour": flavour}
    assert door.retried_paths == {"/v1/fine_tuning/jobs"}, "nothing but the held creates is ever retried"
    assert session.scalar(select(func.count()).select_from(FineTuningJob)) == JOBS_OF_A_RUN


def test_three_major_versions_are_covered() -> None:
    assert [text.split(".")[0] for text in (*OLD_VERSIONS, INSTALLED)] == ["1", "2", "3"]
