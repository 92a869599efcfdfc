# ruff: noqa: F821  (Snakemake puts the name `snakemake` in front of a script)
"""Puts the staged files of a scan in their places, each by a rename, and deletes obsolete ones."""

from pathlib import Path

from ferminet_core.storage import files

for name, target in zip(snakemake.params.names, snakemake.output, strict=True):
    with files.atomic_file(Path(target)) as file:
        file.write((Path(snakemake.input[0]) / name).read_bytes())
for path in snakemake.params.obsolete:
    Path(path).unlink(missing_ok=True)
