"""The section `server.tls` of testbed.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import model_validator

from provision.spec_types import HostName, Port, Section, refuse_duplicates

HTTPS_PORT = 443


class ServiceNames(Section):
    """A host name for each of the server's three services."""

    api: HostName
    """The API server's."""
    web: HostName
    """The web app's."""
    files: HostName
    """The file server's."""

    @model_validator(mode="after")
    def _are_distinct(self) -> Self:
        refuse_duplicates("name", [self.api, self.web, self.files])
        return self


class UpstreamPorts(Section):
    """TCP ports on the server's loopback, behind the TLS proxy."""

    api: Port = 18008
    """The API server."""
    web: Port = 18080
    """The web app."""
    files: Port = 18081
    """The file server."""


class Tls(Section):
    """TLS in front of the server: nginx takes the server's ports, and the server itself listens on loopback only."""

    certificate_file: Path | None = None
    """A PEM file here with the server's certificate and the chain up to its CA. Default: a certificate from a CA of the
    testbed's own, which its hosts are made to trust, and which `up` renews."""
    key_file: Path | None = None
    """The private key of `certificate_file`, in PEM form without a passphrase."""
    ca_file: Path | None = None
    """For a certificate from no public CA: a PEM file here with its CA's certificate, which hosts then trust."""
    names: ServiceNames | None = None
    """Three names, all on port 443. Default: one name, `server.host`, and the three ports of `server.ports`."""
    redirect_from: Port | None = None
    """A port, such as 80, on which plain HTTP is led to HTTPS. Plain HTTP to the ports themselves always is."""
    upstream_ports: UpstreamPorts = UpstreamPorts()
    """Where the server itself listens, on loopback."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("`certificate_file` and `key_file` go together")
        if self.ca_file is not None and self.certificate_file is None:
            raise ValueError("`ca_file` is for a certificate of your own: give `certificate_file` and `key_file`, too")
        return self

    @property
    def own_authority(self) -> bool:
        """Whether the certificate comes from the testbed's own CA."""
        return self.certificate_file is None
