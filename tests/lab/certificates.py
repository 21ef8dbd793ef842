"""A certificate authority, by openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path


class Authority:
    """A CA and what it signs, by openssl."""

    def __init__(self, folder: Path, name: str = "ca", key_usage: bool = True) -> None:
        self.folder, self.name = folder, name
        usage = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"] if key_usage else []
        self._openssl("req", "-x509", *self._new(name), *usage, "-out", f"{name}.crt", "-days", "2")

    def certificate(self, name: str, extension: str, days: int = 2) -> tuple[str, str]:
        """(certificate, key)"""
        self._openssl("req", *self._new(name), "-out", f"{name}.csr")
        (self.folder / "extension").write_text(f"{extension}\nauthorityKeyIdentifier=keyid\n")
        self._openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", f"{self.name}.crt", "-CAkey", f"{self.name}.key"),
            *("-CAcreateserial", "-days", str(days), "-extfile", "extension", "-out", f"{name}.crt"),
        )
        return str(self.folder / f"{name}.crt"), str(self.folder / f"{name}.key")

    @property
    def ca(self) -> str:
        return str(self.folder / f"{self.name}.crt")

    def _new(self, name: str) -> list[str]:
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        return [*curve, "-keyout", f"{name}.key", "-subj", f"/CN={name}"]

    def _openssl(self, *words: str) -> None:
        done = subprocess.run(["openssl", *words], cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
