"""Certificates for tests, made by openssl: an authority, a server for localhost, and a device."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.link_mosquitto import program


def make_certificates(directory: Path, authority: str = "ca", names: tuple[str, ...] = ("server", "dev-one")) -> None:
    """Write ``<authority>.crt`` and, signed by it, ``<name>.crt`` and ``<name>.key`` for each name."""
    _openssl(directory, f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN={authority} "
             f"-addext keyUsage=critical,keyCertSign,cRLSign -keyout {authority}.key -out {authority}.crt")  # fmt: skip
    for name in names:
        extensions = "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"  # Python 3.13 insists on them
        extensions += "subjectAltName=DNS:localhost\n" if name == "server" else ""
        (directory / "extensions").write_text(extensions)
        _openssl(directory, f"req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name} "
                 f"-keyout {name}.key -out {name}.csr")  # fmt: skip
        _openssl(directory, f"x509 -req -days 2 -in {name}.csr -CA {authority}.crt -CAkey {authority}.key "
                 f"-CAcreateserial -extfile extensions -out {name}.crt")  # fmt: skip


def _openssl(directory: Path, arguments: str) -> None:
    subprocess.run([program("openssl"), *arguments.split()], cwd=directory, check=True, capture_output=True)
