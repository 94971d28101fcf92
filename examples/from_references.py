"""From questions and reference answers alone to a tuned model: the service samples, grades, judges and trains.

    python -m examples.from_references QUESTIONS.jsonl [--rows 50]

``QUESTIONS.jsonl`` has a question and an answer a line, either as GSM8K does (``question``, ``answer``; https://
github.com/openai/grade-school-math) or as rows of this service (``messages``, ``reference``). A service of its own is
started, and everything goes through its API.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from openai import HttpxBinaryResponseContent, OpenAI
from openai.types.fine_tuning import FineTuningJob

from examples.demo import MODEL, SEED, cancel, console, follow, service, upload_once

BUILDING: dict[str, Any] = {"rollout": {"n": 2, "max_new_tokens": 200}, "judge": {"type": "template"}}


def main() -> int:
    """Run one job and download what it leaves; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", type=Path, help="a question and its answer a line, JSON")
    parser.add_argument("--rows", type=int, default=50, help="lines to use, from the top (default 50)")
    parser.add_argument("--settings", type=json.loads, default=BUILDING, help="rollout, grader, judge, mixture as JSON")
    parser.add_argument("--state-dir", type=Path, default=Path(".state/from-references"))
    arguments = parser.parse_args()
    arguments.state_dir.mkdir(parents=True, exist_ok=True)
    rows = arguments.state_dir / "rows.jsonl"
    lines = arguments.questions.read_text(encoding="utf-8").splitlines()[: arguments.rows]
    rows.write_text("".join(json.dumps(as_row(json.loads(line))) + "\n" for line in lines), encoding="utf-8")
    with service(arguments.state_dir) as client:
        job = run(client, rows, arguments.settings)
        if job.status != "succeeded":
            console.print(f"[red]{job.status}: {job.error.message if job.error else ''}[/]")
            return 1
        for path in download(client, job.id, arguments.state_dir / job.id):
            console.print(f"{path} ({path.stat().st_size:,} bytes)", soft_wrap=True)
    return 0


def as_row(record: dict[str, Any]) -> dict[str, Any]:
    """Return a line of either format as a row of this service."""
    if "messages" in record:
        return record
    return {"messages": [{"role": "user", "content": record["question"]}], "reference": record["answer"]}


def run(client: OpenAI, rows: Path, settings: dict[str, Any]) -> FineTuningJob:
    """Upload ``rows``, train on them with NLFT and return the job when it has ended."""
    job = client.fine_tuning.jobs.create(
        model=MODEL,
        training_file=upload_once(client, rows),
        seed=SEED,
        suffix="from-references",
        extra_body={"method": {"type": "nlft", "nlft": settings}},
    )
    console.print(f"Created job [bold]{job.id}[/]")
    try:
        follow(client, job.id)
    except BaseException:
        cancel(client, job.id)
        raise
    return client.fine_tuning.jobs.retrieve(job.id)


def download(client: OpenAI, job_id: str, folder: Path) -> list[Path]:
    """Write the job's artifacts into ``folder`` and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    listed: Any = client.get(f"/fine_tuning/jobs/{job_id}/artifacts", cast_to=object)
    paths = []
    for artifact in listed["data"]:
        path = folder / Path(artifact["name"]).name
        address = str(client.base_url.join(artifact["url"]))
        path.write_bytes(client.get(address, cast_to=HttpxBinaryResponseContent).content)
        paths.append(path)
    return paths


if __name__ == "__main__":
    sys.exit(main())
