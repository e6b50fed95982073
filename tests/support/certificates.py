"""Certificates for tests, made by the openssl command."""

import asyncio
from pathlib import Path

from brokerd.sandbox.server import Certificate


async def make_certificate(folder: Path) -> tuple[Path, Certificate]:
    """Let openssl make a CA of our own and a certificate for 127.0.0.1 that it signed."""
    ca, ca_key = folder / "ca.pem", folder / "ca.key"
    cert, key, request = folder / "cert.pem", folder / "cert.key", folder / "cert.csr"
    extensions = folder / "extensions"
    extensions.write_text("subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-days", "1")
    usage = ("-addext", "keyUsage=critical,keyCertSign")
    await openssl("req", "-x509", *curve, *usage, "-subj", "/CN=ca", "-keyout", ca_key, "-out", ca)
    await openssl("req", "-new", *curve, "-subj", "/CN=sandbox", "-keyout", key, "-out", request)
    signing = ("-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "1")
    await openssl("x509", "-req", "-in", request, *signing, "-extfile", extensions, "-out", cert)
    return ca, Certificate(cert=cert, key=key)


async def openssl(*arguments: str | Path) -> None:
    """Run the openssl command; what it says is shown when it fails."""
    process = await asyncio.create_subprocess_exec(
        "openssl",
        *map(str, arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
