"""Certificates for a server on localhost: good ones, and such as no client may accept."""

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

FAULTS = ("expired", "other_host", "stranger")


@dataclass(frozen=True, slots=True)
class Tls:
    """Both sides of a connection."""

    server: ssl.SSLContext
    client: ssl.SSLContext


def self_signed(folder: Path, *, fault: str | None = None) -> Tls:
    """Make a certificate with a fault; the client trusts it unless it is a stranger's."""
    key = ec.generate_private_key(ec.SECP256R1())
    host = "elsewhere.test" if fault == "other_host" else "localhost"
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    age = timedelta(days=400) if fault == "expired" else timedelta(days=1)
    begin = datetime.now(UTC) - age
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=365))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = folder / "server.pem"
    path.write_bytes(secret + pem)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    client = ssl.create_default_context()
    if fault != "stranger":
        client.load_verify_locations(cadata=pem.decode())
    return Tls(server=server, client=client)
