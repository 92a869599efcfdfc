"""Puts the staged files of a scan in their places, each by a rename, and deletes obsolete ones.

python workflow/scripts/write_specs.py STAGED SCAN
"""

import sys
from pathlib import Path

from ferminet_core.storage import files

staged, scan = map(Path, sys.argv[1:])
for path in sorted((staged / "new").rglob("*")):
    if path.is_file():
        target = scan / path.relative_to(staged / "new")
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic_file(target) as file:
            file.write(path.read_bytes())
for name in (staged / "obsolete.txt").read_text(encoding="utf-8").splitlines():
    (scan / name).unlink(missing_ok=True)
