"""What a miner's operator can do about each reason; one sentence per reason, none may be missing (a test looks).

It crosses machines: the validator shows it, and a miner prints it beside the verdict it was sent.
"""

from __future__ import annotations

from polarise.errors import RejectReason

FIXES: dict[RejectReason, str] = {
    RejectReason.MALFORMED: "Run an unmodified, current miner: its answer was not in the form the proof has.",
    RejectReason.BAD_SIGNATURE: "Let the node that is registered sign: same key file as at `join`, no proxy that edits.",
    RejectReason.SEED_MISMATCH: "Run a current miner, and `join` again: it worked for another challenge than it was sent.",
    RejectReason.WRONG_COUNT: "Run an unmodified, current miner: it must commit to every round, find every share and open every tile drawn.",
    RejectReason.BAD_MERKLE_PATH: "Run an unmodified, current miner: what it opened is not what it had committed to.",
    RejectReason.TILE_MISMATCH: "Compute every tile; if nothing was changed, test memory and GPU for errors (ECC, overclock).",
    RejectReason.SHARE_INVALID: "Search for every share; if nothing was changed, test the machine for errors (memory, overclock).",
    RejectReason.BLOCK_MISMATCH: "Fill and read all of the memory; if nothing was changed, test it for errors (ECC, overclock).",
    RejectReason.TOO_FAST: "Name the card that is really there in the registry entry (`join` again), and relay to no other.",
    RejectReason.OPENING_LATE: "Keep the solver's process alive until it has opened, and bring the round trip below 2 s.",
    RejectReason.MISSING: "See that the endpoint answers and the solver runs: the miner's log and `miner status` say more.",
    RejectReason.CLAIM_NOT_MET: "Run `join` again on an idle machine to claim what it can hold, or free the device for proofs.",
    RejectReason.ALLOCATE_FAILED: "See that `renter allocate` works from another machine; `miner drain --off` ends a drain, `python main.py doctor` says what else.",
    RejectReason.HOST_KEY_MISMATCH: "Let nothing else listen on the lease's ssh port: the receipt's host key must be the container's.",
    RejectReason.SSH_FAILED: "Log in yourself with `renter ssh`, open the ssh ports, and use an image with python3.",
    RejectReason.LIMIT_NOT_HELD: "Run an unmodified miner; `python main.py doctor` checks the control groups that hold limits.",
    RejectReason.TERMINATE_FAILED: "See that DELETE /terminate works (`renter release`) and that the Docker engine answers.",
    RejectReason.NOT_MEASURED: "Nothing is wrong; leave some capacity free and answer proofs, so that it can be measured.",
    RejectReason.LOG_FORK: "Never edit or restore the agent's log; after a restore from backup register the node anew.",
    RejectReason.LOG_MISMATCH: "Let nothing between miner and validator rewrite answers; run miner and agent unmodified.",
    RejectReason.RENTED: "Nothing is wrong for twelve rounds; then show the device between two leases, so that it can be measured.",
    RejectReason.DECLINED: "Keep the device free for proofs, or claim it no longer: whoever is asked in a round and says 'not now' counts as away.",
    RejectReason.OCCUPIED: "Nothing is wrong for twelve rounds: the device proved for another validator, whose order shows it.",
    RejectReason.CAPACITY_NOT_SHOWN: "Run `join` again with nothing else on the card: its memory is read far slower than cards of its name read theirs.",
    RejectReason.LOG_GAP: "Let nothing between miner and validator cut answers; run miner and agent unmodified.",
}
