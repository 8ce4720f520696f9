"""The ssh side of one lease: its folder on the host, mounted read-only into the container as /etc/polarise.

Rules:
- The host key is made here, per lease; no image carries one.
- Root logs in, and has few capabilities. In a strict lease nobody is root: sshd itself is the tenant's user, and logs in no other.
- Files change by rename, so that sshd reads the old one or the new one; a new key file holds at the next login.
- Only the re-serialised key is written; what else the renter sent never reaches a file.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from neurons.miner.lease import Lease
from neurons.miner.profile import user_id_of
from polarise.errors import Unavailable
from polarise.receipt import Isolation
from polarise.ssh_keys import generate_key_pair

MOUNT = "/etc/polarise"
LOG = "/var/log/container.log"
USER = "root"
# Who logs in to a strict lease, and what its sshd reads the host key from: the mounted one is not its own.
STRICT_USER = "renter"
STRICT_HOST_KEY = "/run/sshd/host_key"

_SSHD_CONFIG = """\
Port 22
PidFile none
HostKey {host_key}
AuthorizedKeysFile {mount}/authorized_keys
AllowUsers {users}
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
DebianBanner no
KexAlgorithms sntrup761x25519-sha512@openssh.com,curve25519-sha256,curve25519-sha256@libssh.org
Ciphers chacha20-poly1305@openssh.com,aes256-gcm@openssh.com,aes128-gcm@openssh.com
MACs hmac-sha2-256-etm@openssh.com,hmac-sha2-512-etm@openssh.com
HostKeyAlgorithms ssh-ed25519
Subsystem sftp internal-sftp
"""

# PID 1 gives up Docker's log pipe: a tenant could flood it and burn the host's CPU outside its own limit.
_SSHD = f"/usr/sbin/sshd -D -f {MOUNT}/sshd_config -E {LOG} </dev/null >/dev/null 2>&1"
_START = f"mkdir -p /run/sshd && touch {LOG} && exec {_SSHD}"
# Runs again where a container is started again, over what is there then; of all of it only the home is the tenant's.
_START_STRICT = f"""\
set -e
shell=/bin/sh; [ -x /bin/bash ] && shell=/bin/bash
grep -q '^{STRICT_USER}:' /etc/passwd || echo "{STRICT_USER}:x:$1:$1::/home/{STRICT_USER}:$shell" >>/etc/passwd
grep -q '^{STRICT_USER}:' /etc/group || echo "{STRICT_USER}:x:$1:" >>/etc/group
umask 022
mkdir -p /run/sshd
[ -d /home/{STRICT_USER} ] || {{ mkdir -p /home; mkdir -m 700 /home/{STRICT_USER}; }}
(umask 077; cat {MOUNT}/host_key >{STRICT_HOST_KEY})
touch {LOG}
chown "$1:$1" /home/{STRICT_USER} {STRICT_HOST_KEY} {LOG}
cd /
exec setpriv --reuid "$1" --regid "$1" --clear-groups --inh-caps -all --ambient-caps -all --bounding-set -all {_SSHD}
"""


def login_user(isolation: Isolation) -> str:
    """Return who logs in to a lease of this isolation."""
    return STRICT_USER if isolation == "strict" else USER


def start_command(lease: Lease) -> list[str]:
    """Return what PID 1 of a lease's container is; in the end it is sshd."""
    if lease.isolation == "strict":
        return ["sh", "-c", _START_STRICT, "sh", str(user_id_of(lease))]
    return ["sh", "-c", _START]


@dataclass(frozen=True, slots=True)
class LoginFiles:
    """The folder of one lease on the host."""

    folder: Path

    @property
    def mounted(self) -> Path:
        """The part of the folder that the container sees."""
        return self.folder / "ssh"

    def create(self, public_key: str | None, *, with_password: bool, isolation: Isolation = "standard") -> str:
        """Write everything sshd needs and return the host's public key line."""
        self.mounted.mkdir(parents=True)
        # Said outright, because a daemon's umask leaves others nothing, and sshd reads these as the user who logs in.
        self.mounted.chmod(0o755)
        private, public = generate_key_pair()
        _write(self.mounted / "host_key", private, 0o600)
        self.set_public_key(public_key)
        self._write_config(isolation, is_password_on=with_password)
        return public

    def set_public_key(self, public_key: str | None) -> None:
        """Let exactly this key log in; None lets no key."""
        _write(self.mounted / "authorized_keys", f"{public_key}\n" if public_key else "", 0o644)

    def set_password_login(self, *, is_on: bool) -> None:
        """Let root log in by password too, or not any more; a running sshd reads it on SIGHUP. Not for strict leases."""
        self._write_config("standard", is_password_on=is_on)

    def remove(self) -> None:
        """Remove the folder; one that is gone already is fine."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write_config(self, isolation: Isolation, *, is_password_on: bool) -> None:
        is_strict = isolation == "strict"
        text = _SSHD_CONFIG.format(
            mount=MOUNT,
            host_key=STRICT_HOST_KEY if is_strict else f"{MOUNT}/host_key",
            # Whoever the tenant makes may log in too; sshd that is no root could only end in the middle of it.
            users=STRICT_USER if is_strict else "*",
            root_login="no" if is_strict else "yes" if is_password_on else "prohibit-password",
            password="yes" if is_password_on else "no",
        )
        _write(self.mounted / "sshd_config", text, 0o644)


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
