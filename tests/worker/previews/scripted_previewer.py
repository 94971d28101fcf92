"""A preview process that computes nothing: a real process that speaks the real protocol and does what it is told.

The script is JSON in the first message of the first example. Keys: seconds (computing, in which a cancel is heard
unless deaf), die (exit without an answer), refuse (code), garbage (lines that are no replies).
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from worker.training.errors import TrainingCancelled
from worker.training.previews.link import PreviewLink
from worker.training.previews.protocol import (
    ANSWERS_DIR,
    CANCELLED,
    REQUESTS_DIR,
    Answered,
    PreviewRequest,
    Refused,
)

FOLDER = Path(sys.argv[1])


def script_of(request: PreviewRequest) -> dict[str, Any]:
    row = json.loads(request.rows.splitlines()[0])
    script: dict[str, Any] = json.loads(row["messages"][0]["content"])
    return script


def compute(script: dict[str, Any], link: PreviewLink, number: int) -> None:
    ends = time.monotonic() + script.get("seconds", 0)
    while time.monotonic() < ends:
        time.sleep(0.01)
        if not script.get("deaf"):
            link.check(number)


def answer(request: PreviewRequest, number: int) -> Answered:
    path = f"{ANSWERS_DIR}/{number}.json"
    (FOLDER / path).parent.mkdir(exist_ok=True)
    found = {"pid": os.getpid(), "folder": str(FOLDER), "rows": request.rows.count("\n") + 1}
    (FOLDER / path).write_text(json.dumps(found))
    return Answered(number, path)


def main() -> None:
    link = PreviewLink.from_environment(os.environ)
    while True:
        number = link.next()
        request = PreviewRequest.model_validate_json((FOLDER / REQUESTS_DIR / f"{number}.json").read_bytes())
        script = script_of(request)
        for _ in range(script.get("garbage", 0)):
            os.write(int(os.environ["NLFT_EVENTS_FD"]), b"no reply\n")
        try:
            compute(script, link, number)
        except TrainingCancelled:
            link.send(Refused(number, CANCELLED, "cancelled"))
            continue
        if "die" in script:
            sys.exit(script["die"])
        if "refuse" in script:
            link.send(Refused(number, script["refuse"], "as scripted", "examples"))
            continue
        link.send(answer(request, number))


if __name__ == "__main__":
    main()
