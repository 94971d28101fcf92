import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
from app.core.memory import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

keep_freed_memory()
piece = bytearray(3_000_000)
bytes(piece)
before = faults()
for _ in range(20):
    bytes(piece)
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
def test_blocks_as_large_as_a_piece_of_an_upload_keep_their_pages() -> None:
    answer = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True)
    assert int(answer.stdout) < 100  # one such block has 733 pages
