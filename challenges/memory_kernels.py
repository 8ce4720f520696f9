"""The memory proof's arithmetic as Triton kernels: units from their numbers, a block's digest, and the tree over digests.

Rules:
- Bit for bit what `memory`, `memory_digest` and `polarise.merkle` compute; words are unsigned and wrap around.
- `fill_units` makes a unit's whole chain in registers and writes it once. It is bound by the integer lanes, so that its
  scattered stores cost nothing.
- `digest_blocks` reads each word once, 128 bits at a time, and is to be bound by memory.
- `hash_leaves` and `hash_nodes` exist because the host would take 11 ms for the 17 MB of digests of an H200's pass of 32 ms,
  while the key of the next pass waits. A leaf is one lane, so that they all wait for 65 blocks of SHA-256 one after another:
  by counted instructions under 0.2 ms.

Sketch for an H200, by `python benchmarks/kernels.py`: 1,223 operations a hash on 132 x 64 integer lanes fill 138 GB with k = 9
in 3 s. A word of a pass takes 7.2 such operations where memory delivers one for every 15.5.

This module imports Triton, so that only `cuda_memory`, tests and benchmarks import it. On a machine without a GPU
TRITON_INTERPRET=1, set before the import, runs the kernels on the CPU.
"""

from __future__ import annotations

import triton
import triton.language as tl

from challenges import memory_digest
from challenges.memory_digest import BLOCK_WORDS, COLUMNS, LANES, ROWS
from challenges.memory_messages import LEAF_BLOCKS
from challenges.sha256_chains import HASH_WORDS
from challenges.sha256_kernel import as_word, rotations, shifts
from challenges.sha256_lanes import INITIAL_STATE, ROUND_CONSTANTS

UNITS_PER_PROGRAM = 256
LEAVES_PER_PROGRAM = 32
FILL_WARPS = 4
DIGEST_WARPS = 8
TREE_WARPS = 1
LEAF_WORDS = LEAF_BLOCKS * LANES

_INITIAL = tl.constexpr(INITIAL_STATE)
_ROUND_CONSTANTS = tl.constexpr(ROUND_CONSTANTS)
_ROUNDS = tl.constexpr(len(ROUND_CONSTANTS))
_END_BIT = tl.constexpr(1 << 31)
_UNIT_BITS = tl.constexpr(32 * HASH_WORDS)
_HASH_WORDS = tl.constexpr(HASH_WORDS)
_LEAF_WORDS = tl.constexpr(LEAF_WORDS)
_BLOCK_WORDS = tl.constexpr(BLOCK_WORDS)
_ROWS = tl.constexpr(ROWS)
_COLUMNS = tl.constexpr(COLUMNS)
_LANES = tl.constexpr(LANES)
_FIRST = tl.constexpr(memory_digest.MULTIPLIER_FIRST)
_SECOND = tl.constexpr(memory_digest.MULTIPLIER_SECOND)
_LANE = tl.constexpr(memory_digest.MULTIPLIER_LANE)
_SHIFT_FIRST = tl.constexpr(memory_digest.XORSHIFT_FIRST)
_SHIFT_SECOND = tl.constexpr(memory_digest.XORSHIFT_SECOND)
_SHIFT_LANE = tl.constexpr(memory_digest.XORSHIFT_LANE)


@triton.jit(do_not_specialize=["p0", "p1", "p2", "p3", "p4", "p5", "high", "low", "count", "hashes"])
def fill_units(out, p0, p1, p2, p3, p4, p5, high, low, count, hashes, units_each: tl.constexpr):
    """Write consecutive units whose numbers share their upper 32 bits.

    Args:
        out: Pointer to [count, 8] int32, at most 2**28 units, so that an index is below 2**31.
        p0: With p1 to p5 the words of the prefix, as int32.
        high: Upper 32 bits of the units' numbers, as int32.
        low: Lower 32 bits of the first unit's number, as int32; no unit's may pass 2**32.
        count: How many units.
        hashes: k, at least 1; an argument, so that one compilation serves every card.
        units_each: Units of one program.
    """
    units = tl.program_id(0) * units_each + tl.arange(0, units_each)
    same = tl.zeros([units_each], tl.uint32)
    w0, w1, w2, w3 = same + as_word(p0), same + as_word(p1), same + as_word(p2), same + as_word(p3)
    w4, w5, w6 = same + as_word(p4), same + as_word(p5), same + as_word(high)
    w7 = units.to(tl.uint32) + as_word(low)
    for _ in range(hashes):
        w0, w1, w2, w3, w4, w5, w6, w7 = _compress(
            _h(0), _h(1), _h(2), _h(3), _h(4), _h(5), _h(6), _h(7), w0, w1, w2, w3, w4, w5, w6, w7,
            as_word(0) + _END_BIT, as_word(0), as_word(0), as_word(0), as_word(0), as_word(0), as_word(0), as_word(0) + _UNIT_BITS,
        )  # fmt: skip
    _store_hash(out + units * _HASH_WORDS, units < count, w0, w1, w2, w3, w4, w5, w6, w7)


@triton.jit
def digest_blocks(words, row_keys, column_keys, lanes):
    """Write the two lanes of one block; a program per block.

    Args:
        words: Pointer to [blocks, 16384] int32.
        row_keys: Pointer to 128 int32, the row keys of the pass.
        column_keys: Pointer to 128 int32, its column keys.
        lanes: Pointer to [blocks, 2] int32.
    """
    block = tl.program_id(0).to(tl.int64)
    rows, columns = tl.arange(0, _ROWS), tl.arange(0, _COLUMNS)
    row_words = tl.load(row_keys + rows).to(tl.uint32, bitcast=True)
    column_words = tl.load(column_keys + columns).to(tl.uint32, bitcast=True)
    values = tl.load(words + block * _BLOCK_WORDS + rows[:, None] * _COLUMNS + columns[None, :])
    x = values.to(tl.uint32, bitcast=True) * _FIRST + row_words[:, None]
    x = (x ^ (x >> _SHIFT_FIRST) ^ column_words[None, :]) * _SECOND
    x = x ^ (x >> _SHIFT_SECOND)
    place = lanes + block * _LANES + tl.zeros([1], tl.int32)
    tl.store(place, _sum(x))
    x = x * _LANE
    tl.store(place + 1, _sum(x ^ (x >> _SHIFT_LANE)))


@triton.jit(do_not_specialize=["count", "words"])
def hash_leaves(digests, out, count, words, leaves_each: tl.constexpr):
    """Hash leaves as `merkle.leaf_hash` does: SHA-256 of a byte 0 and the leaf, whose words are little-endian.

    The byte in front moves the stream by one byte, so that a word of the message has its first byte from one word of the
    leaf and the others from the next.

    Args:
        digests: Pointer to [count, 1024] int32, the digests' lanes; of the only row of a short leaf, `words`.
        out: Pointer to [count, 8] int32, the words of the hashes.
        count: How many leaves.
        words: Words of each leaf, 2 to 1024.
        leaves_each: Leaves of one program.
    """
    leaves = tl.program_id(0) * leaves_each + tl.arange(0, leaves_each)
    is_leaf = leaves < count
    place = digests + leaves * _LEAF_WORDS
    none = tl.zeros([leaves_each], tl.uint32)
    h0, h1, h2, h3 = none + _h(0), none + _h(1), none + _h(2), none + _h(3)
    h4, h5, h6, h7 = none + _h(4), none + _h(5), none + _h(6), none + _h(7)
    before = none
    # The message is one byte longer than the words; behind it stand one byte of padding and eight of its length.
    blocks = (4 * words + 1 + 1 + 8 + 63) // 64
    for block in range(blocks):
        first = block * 16
        w0, before = _leaf_word(place, first, before, words, is_leaf)
        w1, before = _leaf_word(place, first + 1, before, words, is_leaf)
        w2, before = _leaf_word(place, first + 2, before, words, is_leaf)
        w3, before = _leaf_word(place, first + 3, before, words, is_leaf)
        w4, before = _leaf_word(place, first + 4, before, words, is_leaf)
        w5, before = _leaf_word(place, first + 5, before, words, is_leaf)
        w6, before = _leaf_word(place, first + 6, before, words, is_leaf)
        w7, before = _leaf_word(place, first + 7, before, words, is_leaf)
        w8, before = _leaf_word(place, first + 8, before, words, is_leaf)
        w9, before = _leaf_word(place, first + 9, before, words, is_leaf)
        w10, before = _leaf_word(place, first + 10, before, words, is_leaf)
        w11, before = _leaf_word(place, first + 11, before, words, is_leaf)
        w12, before = _leaf_word(place, first + 12, before, words, is_leaf)
        w13, before = _leaf_word(place, first + 13, before, words, is_leaf)
        w14, before = _leaf_word(place, first + 14, before, words, is_leaf)
        w15, before = _leaf_word(place, first + 15, before, words, is_leaf)
        w15 = tl.where(block == blocks - 1, none + as_word(32 * words + 8), w15)
        h0, h1, h2, h3, h4, h5, h6, h7 = _compress(
            h0, h1, h2, h3, h4, h5, h6, h7, w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11, w12, w13, w14, w15
        )
    _store_hash(out + leaves * _HASH_WORDS, is_leaf, h0, h1, h2, h3, h4, h5, h6, h7)


@triton.jit(do_not_specialize=["count"])
def hash_nodes(hashes, out, count, nodes_each: tl.constexpr):
    """Make the next level of a tree as `merkle.root_of_hashes` does: pairs become nodes, a last one without a pair moves up.

    Args:
        hashes: Pointer to [count, 8] int32.
        out: Pointer to [(count + 1) / 2, 8] int32, other memory than `hashes`.
        count: How many hashes there are.
        nodes_each: Nodes of one program.
    """
    nodes = tl.program_id(0) * nodes_each + tl.arange(0, nodes_each)
    is_node, is_pair = nodes * 2 < count, nodes * 2 + 1 < count
    left, right = hashes + nodes * (2 * _HASH_WORDS), hashes + nodes * (2 * _HASH_WORDS) + _HASH_WORDS
    l0, l1, l2, l3 = _at(left, 0, is_node), _at(left, 1, is_node), _at(left, 2, is_node), _at(left, 3, is_node)
    l4, l5, l6, l7 = _at(left, 4, is_node), _at(left, 5, is_node), _at(left, 6, is_node), _at(left, 7, is_node)
    r0, r1, r2, r3 = _at(right, 0, is_pair), _at(right, 1, is_pair), _at(right, 2, is_pair), _at(right, 3, is_pair)
    r4, r5, r6, r7 = _at(right, 4, is_pair), _at(right, 5, is_pair), _at(right, 6, is_pair), _at(right, 7, is_pair)
    h0, h1, h2, h3, h4, h5, h6, h7 = _compress(
        _h(0), _h(1), _h(2), _h(3), _h(4), _h(5), _h(6), _h(7),
        (l0 >> 8) | (1 << 24), _join(l0, l1), _join(l1, l2), _join(l2, l3),
        _join(l3, l4), _join(l4, l5), _join(l5, l6), _join(l6, l7),
        _join(l7, r0), _join(r0, r1), _join(r1, r2), _join(r2, r3),
        _join(r3, r4), _join(r4, r5), _join(r5, r6), _join(r6, r7),
    )  # fmt: skip
    # The last byte, the end of the message, zeros, and its length of 65 bytes.
    h0, h1, h2, h3, h4, h5, h6, h7 = _compress(
        h0, h1, h2, h3, h4, h5, h6, h7, (r7 << 24) | (1 << 23),
        as_word(0), as_word(0), as_word(0), as_word(0), as_word(0), as_word(0), as_word(0), as_word(0), as_word(0),
        as_word(0), as_word(0), as_word(0), as_word(0), as_word(0), as_word(65 * 8),
    )  # fmt: skip
    _store_hash(
        out + nodes * _HASH_WORDS, is_node,
        tl.where(is_pair, h0, l0), tl.where(is_pair, h1, l1), tl.where(is_pair, h2, l2), tl.where(is_pair, h3, l3),
        tl.where(is_pair, h4, l4), tl.where(is_pair, h5, l5), tl.where(is_pair, h6, l6), tl.where(is_pair, h7, l7),
    )  # fmt: skip


@triton.jit
def _compress(
    h0, h1, h2, h3, h4, h5, h6, h7, w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11, w12, w13, w14, w15
):  # fmt: skip
    """Return the state after one block of SHA-256; the sixteen words move down by one place per round."""
    a, b, c, d, e, f, g, h = h0, h1, h2, h3, h4, h5, h6, h7
    for index in tl.static_range(0, _ROUNDS):
        if index >= 16:
            w0 = w0 + w9 + shifts(w1, 7, 18, 3) + shifts(w14, 17, 19, 10)
        first = h + rotations(e, 6, 11, 25) + (((f ^ g) & e) ^ g) + (w0 + _ROUND_CONSTANTS[index])
        second = rotations(a, 2, 13, 22) + ((a & b) ^ (a & c) ^ (b & c))
        h, g, f, e = g, f, e, d + first
        d, c, b, a = c, b, a, first + second
        w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11, w12, w13, w14, w15 = (
            w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11, w12, w13, w14, w15, w0,
        )  # fmt: skip
    return h0 + a, h1 + b, h2 + c, h3 + d, h4 + e, h5 + f, h6 + g, h7 + h


@triton.jit
def _h(index: tl.constexpr):
    """Return a word of the initial state."""
    return as_word(0) + _INITIAL[index]


@triton.jit
def _leaf_word(place, index, before, words, is_leaf):
    """Return one word of the message, and the word of the leaf that stands there, which the next message word needs."""
    word = tl.load(place + index, mask=is_leaf & (index < words), other=0).to(tl.uint32, bitcast=True)
    swapped = ((word & 0xFF) << 24) | ((word & 0xFF00) << 8) | ((word >> 8) & 0xFF00)
    message = (before & 0xFF000000) | (swapped >> 8)
    return tl.where(index == words, message | (1 << 23), message), word


@triton.jit
def _at(place, index: tl.constexpr, mask):
    return tl.load(place + index, mask=mask, other=0).to(tl.uint32, bitcast=True)


@triton.jit
def _join(first, second):
    """Return the last byte of one word and the first three of the next."""
    return (first << 24) | (second >> 8)


@triton.jit
def _store_hash(place, mask, h0, h1, h2, h3, h4, h5, h6, h7):
    tl.store(place, h0.to(tl.int32, bitcast=True), mask=mask)
    tl.store(place + 1, h1.to(tl.int32, bitcast=True), mask=mask)
    tl.store(place + 2, h2.to(tl.int32, bitcast=True), mask=mask)
    tl.store(place + 3, h3.to(tl.int32, bitcast=True), mask=mask)
    tl.store(place + 4, h4.to(tl.int32, bitcast=True), mask=mask)
    tl.store(place + 5, h5.to(tl.int32, bitcast=True), mask=mask)
    tl.store(place + 6, h6.to(tl.int32, bitcast=True), mask=mask)
    tl.store(place + 7, h7.to(tl.int32, bitcast=True), mask=mask)


@triton.jit
def _sum(x):
    """Sum all words of a block modulo 2**32, as [1]: each thread its own first, then threads their sums.

    Where it would make a scalar, the interpreter minds the overflow.
    """
    flat = tl.reshape(x.to(tl.int32, bitcast=True), [_BLOCK_WORDS], can_reorder=True)
    return tl.sum(flat, axis=0, keep_dims=True)
