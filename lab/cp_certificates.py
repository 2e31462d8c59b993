"""A certificate authority of our own, for a control plane that lives a few minutes or days.

What for: TLS and client certificates as a real cluster has them, without openssl at hand and without a file that is
ever checked in.

Theory: one self-signed CA; server and client certificates from it; all keys are P-256, made in under a millisecond.
The user of a client certificate is its CN, the groups are its O fields, as Kubernetes reads them.

Invariants: private keys are written with mode 0600 before a byte is in them; existing files are kept, so a restarted
control plane still trusts the clients of before.

Called by: controlplane.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID_DAYS = 3650
"""Longer than any lab is left running; the CA never leaves the machine."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The files of a certificate and its key, both PEM."""

    certificate: Path
    key: Path

    @property
    def exists(self) -> bool:
        """Whether both files are there."""
        return self.certificate.exists() and self.key.exists()


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA in a directory: `ca.crt`, `ca.key`, and NAME.crt, NAME.key of what it issued."""

    directory: Path

    @property
    def pair(self) -> Pair:
        """The CA's own files."""
        return Pair(self.directory / "ca.crt", self.directory / "ca.key")

    def create(self) -> None:
        """Make the CA unless it exists."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if self.pair.exists:
            return
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tortie-lab")])
        builder = _builder(name, name, key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        _write(self.pair, builder.sign(key, hashes.SHA256()), key)

    def server(self, name: str, *, names: tuple[str, ...]) -> Pair:
        """A serving certificate for DNS names and IP addresses."""
        alternatives = x509.SubjectAlternativeName([_general_name(text) for text in names])
        return self._issue(name, _subject(name, ()), ExtendedKeyUsageOID.SERVER_AUTH, alternatives)

    def client(self, name: str, *, user: str, groups: tuple[str, ...] = ()) -> Pair:
        """A client certificate that makes its bearer `user` in `groups`."""
        return self._issue(name, _subject(user, groups), ExtendedKeyUsageOID.CLIENT_AUTH, None)

    def signing_key(self, name: str) -> Pair:
        """A bare key pair, for ServiceAccount tokens: `certificate` is the public key."""
        pair = Pair(self.directory / f"{name}.pub", self.directory / f"{name}.key")
        if not pair.exists:
            key = ec.generate_private_key(ec.SECP256R1())
            _write_private(pair.key, key)
            pair.certificate.write_bytes(
                key.public_key().public_bytes(
                    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
                )
            )
        return pair

    def _issue(
        self,
        name: str,
        subject: x509.Name,
        usage: x509.ObjectIdentifier,
        alternatives: x509.SubjectAlternativeName | None,
    ) -> Pair:
        pair = Pair(self.directory / f"{name}.crt", self.directory / f"{name}.key")
        if pair.exists:
            return pair
        authority = x509.load_pem_x509_certificate(self.pair.certificate.read_bytes())
        authority_key = serialization.load_pem_private_key(self.pair.key.read_bytes(), password=None)
        if not isinstance(authority_key, ec.EllipticCurvePrivateKey):
            raise TypeError(f"{self.pair.key} holds no elliptic-curve key")
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(subject, authority.subject, key.public_key()).add_extension(
            x509.ExtendedKeyUsage([usage]), critical=False
        )
        if alternatives is not None:
            builder = builder.add_extension(alternatives, critical=False)
        _write(pair, builder.sign(authority_key, hashes.SHA256()), key)
        return pair


def _subject(user: str, groups: tuple[str, ...]) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    return x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, user)])


def _general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))  # a clock that is a little behind must not refuse it
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
    )


def _write(pair: Pair, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    _write_private(pair.key, key)
    pair.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _write_private(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(text)
