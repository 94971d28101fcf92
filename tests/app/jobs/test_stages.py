"""What a project keeps of a stage is bounded: the longest unused goes first, other stages and projects are left."""

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select

from app.db.models import Blob, StagePart
from app.db.session import SessionFactory, transaction
from app.jobs import stages
from app.storage import BlobStore
from tests.worker.scripted_jobs import add_project


@pytest.fixture
def projects(session_factory: SessionFactory, tmp_path: Path) -> list[str]:
    """Two projects, each with five parts of ten bytes of two stages: part 4 was used last, part 0 long ago."""
    store = BlobStore.from_url(f"file://{tmp_path / 'blobs'}")
    found = [add_project(session_factory, store) for _ in range(2)]
    with transaction(session_factory) as session:
        blob = session.scalars(select(Blob).limit(1)).one()
        for project in found:
            for stage in ("scoring", "rollout"):
                for part in range(5):
                    used = func.now() - timedelta(hours=5 - part)
                    place = {"project_id": project, "stage": stage, "key": f"k{part % 2}", "part": part}
                    session.add(StagePart(**place, sha256=blob.sha256, bytes=10, last_used_at=used))
    return found


@pytest.mark.parametrize(("most_bytes", "left"), [(100, 5), (50, 5), (49, 4), (25, 2), (10, 1), (9, 0), (0, 0)])
def test_a_stage_is_held_to_its_bytes(
    session_factory: SessionFactory, projects: list[str], most_bytes: int, left: int
) -> None:
    with transaction(session_factory) as session:
        assert stages.bound_stage(session, projects[0], "scoring", most_bytes=most_bytes) == 5 - left
    with transaction(session_factory) as session:
        own = select(StagePart.part).where(StagePart.project_id == projects[0], StagePart.stage == "scoring")
        assert sorted(session.scalars(own)) == list(range(5 - left, 5))
        assert session.scalar(select(func.count()).select_from(StagePart)) == 15 + left
