/* A cheat of the memory proof in compiled code: it reads what it holds and makes the rest anew in each pass.

   Built and called by benchmarks/_compiled_cheat.py, and by nothing else. The definitions are those of challenges/memory.py
   and memory_digest.py; its answers are compared with theirs before anything is measured. Needs no header and no library.
   One unit per lane of a vector, so that a call makes 16, 8 or 4 units at once. */

typedef __UINT32_TYPE__ word;
typedef __UINT64_TYPE__ wide;

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif

#define UNITS 2048
#define SIDE 128

typedef word lanes __attribute__((vector_size(4 * LANES)));

static const word INITIAL[8] = {
    0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19,
};
static const word CONSTANTS[64] = {
    0x428A2F98, 0x71374491, 0xB5C0FBCF, 0xE9B5DBA5, 0x3956C25B, 0x59F111F1, 0x923F82A4, 0xAB1C5ED5,
    0xD807AA98, 0x12835B01, 0x243185BE, 0x550C7DC3, 0x72BE5D74, 0x80DEB1FE, 0x9BDC06A7, 0xC19BF174,
    0xE49B69C1, 0xEFBE4786, 0x0FC19DC6, 0x240CA1CC, 0x2DE92C6F, 0x4A7484AA, 0x5CB0A9DC, 0x76F988DA,
    0x983E5152, 0xA831C66D, 0xB00327C8, 0xBF597FC7, 0xC6E00BF3, 0xD5A79147, 0x06CA6351, 0x14292967,
    0x27B70A85, 0x2E1B2138, 0x4D2C6DFC, 0x53380D13, 0x650A7354, 0x766A0ABB, 0x81C2C92E, 0x92722C85,
    0xA2BFE8A1, 0xA81A664B, 0xC24B8B70, 0xC76C51A3, 0xD192E819, 0xD6990624, 0xF40E3585, 0x106AA070,
    0x19A4C116, 0x1E376C08, 0x2748774C, 0x34B0BCB5, 0x391C0CB3, 0x4ED8AA4A, 0x5B9CCA4F, 0x682E6FF3,
    0x748F82EE, 0x78A5636F, 0x84C87814, 0x8CC70208, 0x90BEFFFA, 0xA4506CEB, 0xBEF9A3F7, 0xC67178F2,
};

#define ROTATE(x, bits) ((x) >> (bits) | (x) << (32 - (bits)))
#define BIG_E(x) (ROTATE(x, 6) ^ ROTATE(x, 11) ^ ROTATE(x, 25))
#define BIG_A(x) (ROTATE(x, 2) ^ ROTATE(x, 13) ^ ROTATE(x, 22))
#define SMALL_0(x) (ROTATE(x, 7) ^ ROTATE(x, 18) ^ (x) >> 3)
#define SMALL_1(x) (ROTATE(x, 17) ^ ROTATE(x, 19) ^ (x) >> 10)
#define CHOOSE(x, y, z) (((x) & (y)) ^ (~(x) & (z)))
#define MAJORITY(x, y, z) (((x) & (y)) ^ ((x) & (z)) ^ ((y) & (z)))

/* Hash eight words in each lane into eight. */
static inline __attribute__((always_inline)) void hash(lanes *message) {
  const lanes zero = {0};
  lanes w[64];
  for (int i = 0; i < 8; i++) w[i] = message[i];
  w[8] = zero + 0x80000000u;
  for (int i = 9; i < 15; i++) w[i] = zero;
  w[15] = zero + 256;
  lanes a = zero + INITIAL[0], b = zero + INITIAL[1], c = zero + INITIAL[2], d = zero + INITIAL[3];
  lanes e = zero + INITIAL[4], f = zero + INITIAL[5], g = zero + INITIAL[6], h = zero + INITIAL[7];
#pragma GCC unroll 64
  for (int i = 0; i < 64; i++) {
    if (i >= 16) w[i] = w[i - 16] + SMALL_0(w[i - 15]) + w[i - 7] + SMALL_1(w[i - 2]);
    lanes total = h + BIG_E(e) + CHOOSE(e, f, g) + CONSTANTS[i] + w[i];
    lanes next_a = total + BIG_A(a) + MAJORITY(a, b, c);
    h = g, g = f, f = e, e = d + total;
    d = c, c = b, b = a, a = next_a;
  }
  message[0] = a + INITIAL[0], message[1] = b + INITIAL[1], message[2] = c + INITIAL[2], message[3] = d + INITIAL[3];
  message[4] = e + INITIAL[4], message[5] = f + INITIAL[5], message[6] = g + INITIAL[6], message[7] = h + INITIAL[7];
}

/* Make `count` blocks from block `first` on, of units hashed k times; `prefix` is six words. */
void cheat_make(const word *prefix, wide first, word count, word k, word *blocks) {
  const lanes zero = {0};
  for (wide unit = first * UNITS; unit < (first + count) * UNITS; unit += LANES) {
    lanes message[8];
    for (int i = 0; i < 6; i++) message[i] = zero + prefix[i];
    message[6] = zero + (word)(unit >> 32);
    for (word i = 0; i < LANES; i++) message[7][i] = (word)unit + i;
    for (word i = 0; i < k; i++) hash(message);
    for (word i = 0; i < LANES; i++)
      for (int j = 0; j < 8; j++) *blocks++ = message[j][i];
  }
}

static void digest(const word *block, const word *rows, const word *columns, word *out) {
  word first = 0, second = 0;
  for (int i = 0; i < SIDE; i++) {
    const word row = rows[i];
    for (int j = 0; j < SIDE; j++) {
      word x = block[i * SIDE + j] * 0x846CA68Bu + row;
      x ^= x >> 15;
      x ^= columns[j];
      x *= 0x7FEB352Du;
      x ^= x >> 13;
      first += x;
      x *= 0x9E3779B1u;
      second += x ^ x >> 16;
    }
  }
  out[0] = first, out[1] = second;
}

/* One pass over `total` blocks, of which the first `held` are in memory; the others are made in a block of scratch space. */
void cheat_pass(
    const word *prefix, const word *blocks, word held, word total, word k, const word *rows, const word *columns, word *out) {
  static word scratch[SIDE * SIDE] __attribute__((aligned(64)));
  for (word block = 0; block < total; block++) {
    const word *words = blocks + (wide)block * SIDE * SIDE;
    if (block >= held) {
      cheat_make(prefix, block, 1, k, scratch);
      words = scratch;
    }
    digest(words, rows, columns, out + 2 * block);
  }
}
