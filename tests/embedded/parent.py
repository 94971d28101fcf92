"""A program for the tests: starts embedded servers, says so, and lives until it is killed."""

import json
import sys
import time
from pathlib import Path

from app.embedded.postgres import EmbeddedPostgres
from app.embedded.valkey import EmbeddedValkey

if __name__ == "__main__":
    directory, templates = Path(sys.argv[1]), Path(sys.argv[2])
    postgres = EmbeddedPostgres(directory / "postgres", template_cache=templates)
    valkey = EmbeddedValkey(directory / "valkey")
    postgres.start()
    valkey.start()
    sys.stdout.write(json.dumps({"postgres": postgres.pid, "valkey": valkey.pid}) + "\n")
    sys.stdout.flush()
    time.sleep(600)
