"""The allocation tests of the seed document: valid allocation, invalid memory, ssh access.

Runs as a script, by ``python -m unittest`` and by pytest; what needs a Docker engine is skipped, with the reason, where
there is none.
"""

import base64
import contextlib
import json
import tempfile
import unittest
from pathlib import Path

import paramiko
import pytest

from neurons.miner.node import MinerNode
from polarise.errors import ErrorCode, RequestRejected
from polarise.messages import AllocateAnswer, AllocateRequest
from polarise.receipt import Receipt
from polarise.ssh_keys import generate_key_pair
from tests.support.engine import containers_of, engine, remove_everything_of, why_no_engine
from tests.support.http import signed
from tests.support.identities import People, fresh_node_identity
from tests.support.miners import RunningMiner, engineless, miner_config, running
from tests.support.ssh import Login

NO_ENGINE = why_no_engine()


class MinerCase(unittest.TestCase):
    """A running miner, and a renter in front of it."""

    has_engine = False
    people: People
    miner: RunningMiner
    folder: Path

    @classmethod
    def setUpClass(cls) -> None:
        stack = contextlib.ExitStack()
        cls.addClassCleanup(stack.close)
        cls.people = People()
        cls.folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        identity = fresh_node_identity(cls.people.owner)
        config = miner_config(cls.people) if cls.has_engine else engineless(cls.people)
        if cls.has_engine:
            stack.callback(remove_everything_of, identity.public_key[:12])
        cls.miner = stack.enter_context(running(MinerNode(config, cls.folder / "node", identity)))

    def allocate(self, **wanted: object) -> AllocateAnswer:
        client = self.miner.client(self.people.renter)
        answer = client.allocate(AllocateRequest.model_validate(wanted))
        self.addCleanup(self.release, answer.container_id)
        return answer

    def release(self, container_id: str) -> None:
        with contextlib.suppress(RequestRejected):
            self.miner.client(self.people.renter).terminate(container_id)


class TestInvalidAllocation(MinerCase):
    """What is refused needs no engine."""

    def test_invalid_memory_allocation(self) -> None:
        for memory in ("2x", "-1g", "", "0", "1e9", "1m", "900000g"):
            with self.subTest(memory=memory):
                body = json.dumps({"memory": memory, "cpu_count": 2}).encode()
                answer = signed(self.miner.url, self.miner.key, self.people.renter, "POST", "/allocate", body=body)
                self.assertIn(answer.status, (400, 422))
                self.assertEqual(answer.json["status"], "failure")
                self.assertEqual(answer.json["field"], "memory")
                self.assertTrue(answer.json["hint"])
        self.assertEqual(self.miner.allocator.journal.all(), [])

    def test_invalid_cpu_count_allocation(self) -> None:
        for cpu_count in (-1, 0, 5000, "2"):
            with self.subTest(cpu_count=cpu_count):
                body = json.dumps({"memory": "1g", "cpu_count": cpu_count}).encode()
                answer = signed(self.miner.url, self.miner.key, self.people.renter, "POST", "/allocate", body=body)
                self.assertIn(answer.status, (400, 422))
                self.assertEqual(answer.json["field"], "cpu_count")
        self.assertEqual(self.miner.allocator.journal.all(), [])


@pytest.mark.docker
@unittest.skipIf(NO_ENGINE is not None, str(NO_ENGINE))
class TestAllocation(MinerCase):
    """What is granted is a real container."""

    has_engine = True

    def test_valid_resource_allocation(self) -> None:
        """The seed's own request body, with the answer's words."""
        body = b'{"memory": "2g", "cpu_count": 2, "devices": []}'
        answer = signed(self.miner.url, self.miner.key, self.people.renter, "POST", "/allocate", body=body)
        self.assertEqual((answer.status, answer.json["status"]), (200, "success"))
        container_id = str(answer.json["container_id"])
        self.addCleanup(self.release, container_id)
        self.assertRegex(container_id, "^[0-9a-f]{64}$")
        self.assertIsInstance(answer.json["ssh_port"], int)
        granted = AllocateAnswer.model_validate_json(answer.body)
        self.assertEqual(granted.limits.memory_bytes, 2 << 30)
        self.assertEqual(granted.limits.cpu_milli, 2000)
        receipt = granted.receipt.open("receipt", Receipt, signer=self.miner.key)
        self.assertEqual(receipt.container_id, container_id)
        with engine() as client:
            self.assertEqual(containers_of(client, self.miner.node_id), [container_id])

    def test_ssh_access_verification(self) -> None:
        """OpenSSH and paramiko both log in with the host key of the receipt pinned, by key and by password."""
        private, public = generate_key_pair()
        by_key = Login.to(self.allocate(ssh_public_key=public), self.folder, private_key=private)
        self.assertEqual(by_key.output("id -un"), "root")
        granted = self.allocate()
        by_password = Login.to(granted, self.folder, password=granted.ssh_password)
        self.assertEqual(by_password.output("id -un"), "root")
        with paramiko.SSHClient() as client:
            client.set_missing_host_key_policy(paramiko.RejectPolicy())
            name = f"[127.0.0.1]:{granted.ssh_port}"
            client.get_host_keys().add(
                name, "ssh-ed25519", paramiko.PKey.from_type_string("ssh-ed25519", _blob(granted.host_key))
            )
            client.connect(
                "127.0.0.1",
                port=granted.ssh_port,
                username=granted.ssh_user,
                password=granted.ssh_password,
                look_for_keys=False,
                allow_agent=False,
            )
            _, output, _ = client.exec_command("id -un")
            self.assertEqual(output.read().decode().strip(), "root")

    def test_terminated_container_is_gone(self) -> None:
        granted = self.allocate()
        self.miner.client(self.people.renter).terminate(granted.container_id)
        with self.assertRaises(RequestRejected) as caught:
            self.miner.client(self.people.renter).container(granted.container_id)
        self.assertIs(caught.exception.code, ErrorCode.NOT_FOUND)


def _blob(line: str) -> bytes:
    return base64.b64decode(line.split()[1])


if __name__ == "__main__":
    unittest.main()
