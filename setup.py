"""What pyproject.toml cannot say: the bill of materials goes into the wheel, as PEP 770 has it."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel


class WithBill(bdist_wheel):  # type: ignore[misc]
    """The wheel's `.dist-info/sboms/` holds sbom.cdx.json."""

    def write_wheelfile(self, wheelfile_base: str, *arguments: str, **options: str) -> None:
        """Write `WHEEL`, and the bill beside it, before the record of all files is made."""
        super().write_wheelfile(wheelfile_base, *arguments, **options)
        folder = Path(wheelfile_base) / "sboms"
        folder.mkdir(exist_ok=True)
        shutil.copy("sbom.cdx.json", folder)


setup(cmdclass={"bdist_wheel": WithBill})
