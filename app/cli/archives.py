"""Adapter archives become folders."""

import shutil
import tarfile
from pathlib import Path, PurePosixPath
from typing import IO

from app.cli.output import CommandError


def unpack(archive: IO[bytes], folder: Path) -> None:
    """Write the files of a tar ``archive`` into ``folder``, which is made.

    The archive of an adapter holds plain files side by side, and nothing else is taken from one: the standard library's
    own filter for the rest came with Python 3.11.4.

    Raises:
        CommandError: It holds something else, or is no tar archive.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(fileobj=archive) as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isreg() else None
                if content is None or member.name != PurePosixPath(member.name).name or member.name == "..":
                    raise CommandError(f"The archive holds {member.name!r}, which is no plain file beside the others.")
                with (folder / member.name).open("wb") as file:
                    shutil.copyfileobj(content, file)
    except tarfile.TarError as error:
        raise CommandError("The download is no tar archive; it may be incomplete.") from error
