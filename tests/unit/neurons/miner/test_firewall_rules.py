"""The packet filter's rules as text: what is compiled, what is written, and what a look at them must notice."""

import re
from pathlib import Path

import pytest

from neurons.miner.firewall_rules import (
    BLOCKED,
    PRIVATE_NETWORKS_MAX,
    RuleSet,
    as_written,
    compile_ipv4,
    compile_ipv6,
    differences,
    parse_saved,
    read_nameservers,
    removal_text,
    restore_text,
)

NODE = "0123456789ab"
OTHER_NODE = "ba9876543210"
RULES = compile_ipv4(NODE, ("10.0.0.2",))
OUT, HOST, PRIVATE = (f"POLARISE-{NODE}-{name}" for name in ("OUT", "HOST", "PRI"))
OTHERS_JUMP = f"-i pl{OTHER_NODE[:9]}-+ -j POLARISE-{OTHER_NODE}-HOST"


def standing(rules: RuleSet = RULES) -> dict[str, tuple[str, ...]]:
    """Return what iptables would hold after the rules were written into an empty table."""
    builtins = {name: tuple(rule for chain, rule in rules.jumps if chain == name) for name, _ in rules.jumps}
    return {**builtins, **rules.chains}


def found_wrong(found: dict[str, tuple[str, ...]]) -> list[str]:
    return differences(RULES, RULES.chains, found)


def test_what_was_written_is_found_right() -> None:
    assert found_wrong(standing()) == []


@pytest.mark.parametrize("chain", RULES.chains)
def test_each_single_rule_is_missed(chain: str) -> None:
    rules = RULES.chains[chain]
    for index, gone in enumerate(rules):
        (sentence,) = found_wrong({**standing(), chain: rules[:index] + rules[index + 1 :]})
        assert sentence == f"{chain} lost 1 of {len(rules)} rules, the first: {gone}"


@pytest.mark.parametrize("chain", RULES.chains)
def test_two_rules_in_another_order_are_noticed(chain: str) -> None:
    """ESTABLISHED behind the drops is what silences ssh from a LAN."""
    first, second, *rest = RULES.chains[chain]
    assert found_wrong({**standing(), chain: (second, first, *rest)}) == [
        f"the rules of {chain} stand in another order"
    ]


@pytest.mark.parametrize("chain", RULES.chains)
def test_a_chain_that_was_flushed_or_removed_is_noticed(chain: str) -> None:
    (flushed,) = found_wrong({**standing(), chain: ()})
    assert f"lost {len(RULES.chains[chain])} of" in flushed
    removed = standing()
    del removed[chain]
    assert found_wrong(removed) == [f"the chain {chain} is gone"]


def test_a_rule_that_lets_everything_through_is_noticed() -> None:
    (sentence,) = found_wrong({**standing(), OUT: ("-j ACCEPT", *RULES.chains[OUT])})
    assert sentence == f"{OUT} has a rule that is not ours: -j ACCEPT"


def test_each_jump_is_missed_and_must_stand_before_what_is_not_a_nodes() -> None:
    for builtin, jump in RULES.jumps:
        found = standing()
        found[builtin] = tuple(rule for rule in found[builtin] if rule != jump)
        assert found_wrong(found) == [f"{builtin} has no `{jump}`"]
    found = {**standing(), "INPUT": ("-s 10.201.0.0/16 -j ACCEPT", *standing()["INPUT"])}
    assert found_wrong(found) == ["in INPUT a rule stands before ours: -s 10.201.0.0/16 -j ACCEPT"]
    assert found_wrong({**standing(), "INPUT": (OTHERS_JUMP, *standing()["INPUT"])}) == []
    # The look of another node's jump is not enough: it must end in a chain of that node.
    fake = OTHERS_JUMP.replace(f"POLARISE-{OTHER_NODE}-HOST", "ACCEPT")
    assert found_wrong({**standing(), "INPUT": (fake, *standing()["INPUT"])}) != []


def test_established_is_first_everywhere_and_everything_private_is_dropped() -> None:
    for name, chain in RULES.chains.items():
        if name == PRIVATE:
            continue
        answers = "" if name.endswith("-IN") else " --ctdir REPLY"
        assert chain[0] == f"-m conntrack --ctstate RELATED,ESTABLISHED{answers} -j RETURN"
    for network in BLOCKED:
        assert f"-d {network} -j DROP" in RULES.chains[OUT]
    assert RULES.chains[HOST][-1] == "-j DROP"
    assert compile_ipv6(NODE).chains == {f"POLARISE-{NODE}-SIX": ("-j DROP",)}


def test_private_network_passes_within_its_own_bridge_and_range_and_every_packet_is_judged_once() -> None:
    *rules, last = RULES.chains[PRIVATE]
    assert rules[:2] == ["! -s 10.202.0.0/16 -j DROP", "! -d 10.202.0.0/16 -j DROP"]
    passes = [rule for rule in rules if rule.endswith("-j RETURN")]
    bridges = [f"pv012345678-{number:03d}" for number in range(PRIVATE_NETWORKS_MAX)]
    assert (passes, last) == ([f"-i {name} -o {name} -j RETURN" for name in bridges], "-j DROP")
    among, others = "pv012345678-+", f"pv{OTHER_NODE[:9]}-+"
    assert [jump for jump in RULES.jumps if jump[1].endswith(PRIVATE)] == [
        ("INPUT", f"-i {among} -j {PRIVATE}"),
        ("FORWARD", f"-i {among} -j {PRIVATE}"),
        ("FORWARD", f"! -i {among} -o {among} -j {PRIVATE}"),
    ]
    other_nodes = f"! -i {others} -o {others} -j POLARISE-{OTHER_NODE}-PRI"
    assert found_wrong({**standing(), "FORWARD": (other_nodes, *standing()["FORWARD"])}) == []
    assert {("FORWARD", f"-i {among} -j POLARISE-{NODE}-SIX")} <= set(compile_ipv6(NODE).jumps)


def test_no_address_but_a_leases_own_goes_out() -> None:
    """With a second interface a program may take that one's address for packets that leave through the first."""
    for chain in (OUT, HOST):
        assert RULES.chains[chain][1] == "! -s 10.201.0.0/16 -j DROP"


def test_without_limits_nothing_but_the_limits_is_missing() -> None:
    bare = compile_ipv4(NODE, ("10.0.0.2",), has_limits=False)
    assert bare.jumps == RULES.jumps
    for name, rules in RULES.chains.items():
        assert bare.chains[name] == tuple(rule for rule in rules if "hashlimit" not in rule and "connlimit" not in rule)
        assert bare.chains[name] != rules


def test_names_can_be_asked_for_at_the_hosts_nameservers_and_nothing_else_of_them() -> None:
    for chain in (OUT, HOST):
        about = [rule for rule in RULES.chains[chain] if "10.0.0.2/32" in rule]
        assert about == [f"-d 10.0.0.2/32 -p {kind} -m {kind} --dport 53 -j RETURN" for kind in ("udp", "tcp")]
    assert RULES.chains[OUT].index(about[0]) < RULES.chains[OUT].index("-d 10.0.0.0/8 -j DROP")
    assert not any("--dport 53" in rule for chain in compile_ipv4(NODE, ()).chains.values() for rule in chain)


def test_writing_takes_out_every_jump_of_this_node_first_and_no_other() -> None:
    jump = RULES.jumps[0][1]
    found = {"INPUT": ("-p icmp -j ACCEPT", jump, OTHERS_JUMP, jump), "FORWARD": ()}
    lines = restore_text(RULES, found).splitlines()
    assert lines.count(f"-D INPUT {jump}") == 2
    wanted = [rule for name, rule in RULES.jumps if name == "INPUT"]
    assert [line for line in lines if line.startswith("-I INPUT")] == [f"-I INPUT 1 {rule}" for rule in wanted[::-1]]
    assert not any(OTHER_NODE in line for line in lines)
    assert (lines[0], lines[-1]) == ("*mangle", "COMMIT")


def test_the_first_jump_of_a_chain_is_inserted_last() -> None:
    inserted = [line.removeprefix("-I FORWARD 1 ") for line in restore_text(RULES, {}).splitlines() if "-I FOR" in line]
    assert inserted[::-1] == [rule for name, rule in RULES.jumps if name == "FORWARD"]


def test_removal_names_only_what_stands() -> None:
    assert removal_text(RULES, {"INPUT": (OTHERS_JUMP,)}) is None
    text = removal_text(RULES, {"INPUT": (OTHERS_JUMP, RULES.jumps[0][1]), HOST: ()})
    assert text is not None
    assert text.splitlines() == [
        "*mangle",
        f"-D INPUT {RULES.jumps[0][1]}",
        f"-F {HOST}",
        f"-X {HOST}",
        "COMMIT",
    ]


def test_another_spelling_is_kept_as_iptables_prints_it_and_a_missing_rule_is_not() -> None:
    """`--syn` is written and comes back as `--tcp-flags`; what counts is that each rule is there with its verdict."""
    spelled = {
        name: tuple(rule.replace("--syn", "-m tcp --tcp-flags FIN,SYN,RST,ACK SYN") for rule in rules)
        for name, rules in RULES.chains.items()
    }
    assert as_written(RULES, {**standing(), **spelled}) == spelled
    with pytest.raises(ValueError, match=rf"{OUT} has \d+ rules after \d+ were written"):
        as_written(RULES, {**standing(), OUT: RULES.chains[OUT][:-1]})
    with pytest.raises(ValueError, match="INPUT has no"):
        as_written(RULES, {**standing(), "INPUT": ()})


def test_saved_rules_are_read_without_counters_and_comments() -> None:
    text = "# Generated\n*mangle\n:INPUT ACCEPT [1:2]\n:MINE - [0:0]\n-A INPUT -i x -j MINE\n-A MINE -j DROP\nCOMMIT\n"
    assert parse_saved(text) == {"INPUT": ("-i x -j MINE",), "MINE": ("-j DROP",)}


def test_names_of_chains_and_counters_fit() -> None:
    """Chains have 28 characters at most, tables of `hashlimit` 15."""
    assert all(len(name) <= 28 for name in (*RULES.chains, *compile_ipv6(NODE).chains))
    names = {
        name for rules in RULES.chains.values() for rule in rules for name in re.findall(r"limit-name (\S+)", rule)
    }
    assert {len(name) for name in names} == {15}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("nameserver 10.0.0.2\nnameserver 8.8.8.8\nnameserver 10.0.0.2\n", ("10.0.0.2", "8.8.8.8")),
        ("# nameserver 10.0.0.3\nsearch lan\n  nameserver\t10.0.0.4 \n", ("10.0.0.4",)),
        ("nameserver 127.0.0.1\nnameserver fe80::1%eth0\nnameserver 10.0.0.5;rm\n", ()),
        ("nameserver 127.0.0.53\n", ("192.168.1.1",)),
        ("nameserver 127.0.0.53\nnameserver 10.0.0.2\n", ("10.0.0.2",)),
        ("", ()),
    ],
)
def test_nameservers_are_those_that_docker_hands_on(tmp_path: Path, text: str, found: tuple[str, ...]) -> None:
    (tmp_path / "resolv.conf").write_text(text)
    (tmp_path / "systemd.conf").write_text("nameserver 192.168.1.1\n")
    assert read_nameservers(tmp_path / "resolv.conf", tmp_path / "systemd.conf") == found


def test_a_host_without_nameservers_opens_nothing(tmp_path: Path) -> None:
    assert read_nameservers(tmp_path / "none", tmp_path / "none") == ()
