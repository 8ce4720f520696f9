"""How a renter will log in: with a key of their own, a throw-away key, or a one-time password."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from neurons.renter.files import write_private
from polarise.errors import ConfigError, RequestRejected
from polarise.ssh_keys import generate_key_pair, parse_public_key


@dataclass(frozen=True, slots=True)
class Login:
    """The choice made by the flags.

    Attributes:
        public_line: Key to send; None asks for a password.
        own_file: The renter's own key file, to log in with.
        private_pem: A throw-away private key that still has to be kept.
    """

    public_line: str | None = None
    own_file: Path | None = None
    private_pem: str | None = None

    def __repr__(self) -> str:
        return f"Login({self.public_line!r}, {self.own_file!r}, {'***' if self.private_pem else None})"

    def keep(self, path: Path) -> Path | None:
        """Write a throw-away key to ``path`` and return the file to log in with, None for a password."""
        if self.private_pem is None:
            return self.own_file
        write_private(path, self.private_pem)
        return path


def choose_login(args: argparse.Namespace) -> Login:
    """Read the flags ``--ssh-key`` and ``--password``; without either, make a throw-away key.

    Raises:
        ConfigError: The key file cannot be read or holds no usable public key.
    """
    if args.password:
        return Login()
    if args.ssh_key is None:
        pem, line = generate_key_pair()
        return Login(public_line=line, private_pem=pem)
    path = Path(args.ssh_key).expanduser().absolute()
    try:
        line = parse_public_key(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"cannot be read: {err}", origin=str(path), allowed="a public key, FILE.pub") from err
    except RequestRejected as err:
        raise ConfigError(err.message, origin=str(path), allowed=err.hint) from err
    # ssh also takes the public half, and then asks the agent for the other one.
    private = path.with_suffix("")
    return Login(public_line=line, own_file=private if path.suffix == ".pub" and private.exists() else path)
