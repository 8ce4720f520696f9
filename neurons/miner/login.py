"""The ssh side of one lease: its folder on the host, mounted read-only into the container as /etc/polarise.

Rules:
- The host key is made here, per lease; no image carries one.
- Files change by rename, so that sshd reads the old one or the new one; a new key file holds at the next login.
- Only the re-serialised key is written; what else the renter sent never reaches a file.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from polarise.errors import Unavailable
from polarise.ssh_keys import generate_key_pair

MOUNT = "/etc/polarise"
LOG = "/var/log/container.log"
USER = "root"

_SSHD_CONFIG = """\
Port 22
HostKey {mount}/host_key
AuthorizedKeysFile {mount}/authorized_keys
PermitRootLogin {root_login}
PasswordAuthentication {password}
KbdInteractiveAuthentication no
UsePAM no
# The key file is mounted read-only and belongs to the host's root or to the miner's user; nobody inside can write it.
StrictModes no
MaxAuthTries 3
MaxStartups 4:50:10
LoginGraceTime 15
UseDNS no
X11Forwarding no
AllowAgentForwarding no
PermitTunnel no
PrintMotd no
KexAlgorithms sntrup761x25519-sha512@openssh.com,curve25519-sha256,curve25519-sha256@libssh.org
Ciphers chacha20-poly1305@openssh.com,aes256-gcm@openssh.com,aes128-gcm@openssh.com
MACs hmac-sha2-256-etm@openssh.com,hmac-sha2-512-etm@openssh.com
HostKeyAlgorithms ssh-ed25519
Subsystem sftp internal-sftp
"""

# PID 1 gives up Docker's log pipe: a tenant could flood it and burn the host's CPU outside its own limit.
START_COMMAND = [
    "sh",
    "-c",
    f"mkdir -p /run/sshd && touch {LOG} && exec /usr/sbin/sshd -D -f {MOUNT}/sshd_config -E {LOG} "
    "</dev/null >/dev/null 2>&1",
]


@dataclass(frozen=True, slots=True)
class LoginFiles:
    """The folder of one lease on the host."""

    folder: Path

    @property
    def mounted(self) -> Path:
        """The part of the folder that the container sees."""
        return self.folder / "ssh"

    def create(self, public_key: str | None, *, with_password: bool) -> str:
        """Write everything sshd needs and return the host's public key line."""
        self.mounted.mkdir(parents=True)
        # Said outright, because a daemon's umask leaves others nothing, and sshd reads these as the user who logs in.
        self.mounted.chmod(0o755)
        private, public = generate_key_pair()
        _write(self.mounted / "host_key", private, 0o600)
        self.set_public_key(public_key)
        self.set_password_login(is_on=with_password)
        return public

    def set_public_key(self, public_key: str | None) -> None:
        """Let exactly this key log in; None lets no key."""
        _write(self.mounted / "authorized_keys", f"{public_key}\n" if public_key else "", 0o644)

    def set_password_login(self, *, is_on: bool) -> None:
        """Write the server's configuration; a running sshd reads it again on SIGHUP."""
        text = _SSHD_CONFIG.format(
            mount=MOUNT, root_login="yes" if is_on else "prohibit-password", password="yes" if is_on else "no"
        )
        _write(self.mounted / "sshd_config", text, 0o644)

    def remove(self) -> None:
        """Remove the folder; one that is gone already is fine."""
        shutil.rmtree(self.folder, ignore_errors=True)


def password_entry(password: str) -> bytes:
    """Return the line that ``chpasswd -e`` reads: the user and the SHA-512 crypt hash, never the password.

    Raises:
        Unavailable: The ``openssl`` program is missing or fails.
    """
    try:
        done = subprocess.run(
            ["openssl", "passwd", "-6", "-stdin"],
            input=password.encode(),
            capture_output=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError) as err:
        raise Unavailable("cannot hash a password; is the package openssl installed?", retry_after_seconds=60) from err
    return f"{USER}:{done.stdout.decode().strip()}\n".encode()


def _write(path: Path, text: str, mode: int) -> None:
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    os.fchmod(descriptor, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
        handle.write(text)
    temporary.replace(path)
