/* The scan of the proof of work for a CPU: SHA-256 of 44 bytes and an 8-byte nonce, one nonce per lane of a vector.

   Compiled by the node that uses it (neurons/miner/pow_library.py), where the owner asks for it and a compiler is there.
   Needs no header and no library. The rules are those of sha256_lanes.py: the words of the prefix and the nonce's upper
   half are the same in all lanes, so that rounds 0-11 are done once; only the last word of the digest is made, which is e
   after round 60, and what rounds 57-60 would do for a is dropped by the compiler. What is found here are candidates, each
   of which is hashed again by hashlib before anybody is told of it. */

typedef __UINT32_TYPE__ word;
typedef __UINT64_TYPE__ half;

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif

typedef word lanes __attribute__((vector_size(4 * LANES)));
typedef half halves __attribute__((vector_size(4 * LANES)));

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

/* What all lanes share: words 0-11 of the message, and a to h after round 11. */
struct shared {
  word words[12];
  word state[8];
};

static void share(struct shared *shared, const unsigned char *prefix, word high) {
  word *state = shared->state;
  for (int i = 0; i < 8; i++) state[i] = INITIAL[i];
  for (int i = 0; i < 12; i++) {
    const unsigned char *bytes = prefix + 4 * i;
    shared->words[i] =
        i == 11 ? high : (word)bytes[0] << 24 | (word)bytes[1] << 16 | (word)bytes[2] << 8 | (word)bytes[3];
    word total = state[7] + BIG_E(state[4]) + CHOOSE(state[4], state[5], state[6]) + CONSTANTS[i] + shared->words[i];
    word next_a = total + BIG_A(state[0]) + MAJORITY(state[0], state[1], state[2]);
    word next_e = state[3] + total;
    for (int k = 7; k > 0; k--) state[k] = state[k - 1];
    state[0] = next_a, state[4] = next_e;
  }
}

static inline __attribute__((always_inline)) lanes last_words(const struct shared *shared, lanes nonces) {
  const lanes zero = {0};
  lanes w[64], state[8];
  for (int i = 0; i < 12; i++) w[i] = zero + shared->words[i];
  w[12] = nonces, w[13] = zero + 0x80000000u, w[14] = zero, w[15] = zero + 416;
  for (int i = 0; i < 8; i++) state[i] = zero + shared->state[i];
  lanes a = state[0], b = state[1], c = state[2], d = state[3], e = state[4], f = state[5], g = state[6], h = state[7];
#pragma GCC unroll 64
  for (int i = 12; i <= 60; i++) {
    if (i >= 16) w[i] = w[i - 16] + SMALL_0(w[i - 15]) + w[i - 7] + SMALL_1(w[i - 2]);
    lanes total = h + BIG_E(e) + CHOOSE(e, f, g) + CONSTANTS[i] + w[i];
    lanes next_a = total + BIG_A(a) + MAJORITY(a, b, c);
    h = g, g = f, f = e, e = d + total;
    d = c, c = b, b = a, a = next_a;
  }
  return e + INITIAL[7];
}

/* Write the lower halves of the nonces first .. first + count - 1 whose last word is at most `most` to `found`, rising,
   until fewer than a vector of the `room` words is free. `count` is a multiple of 16, and first + count at most 2**32.
   Returns how many were found; `done` says how many nonces were looked at. */
word polarise_pow_scan(
    const unsigned char *prefix, word high, word first, word count, word most, word *found, word room, word *done) {
  struct shared shared;
  lanes index;
  word at = 0, written = 0;
  share(&shared, prefix, high);
  for (word i = 0; i < LANES; i++) index[i] = i;
  for (; at < count && written + LANES <= room; at += LANES) {
    lanes hits = (lanes)(last_words(&shared, index + (first + at)) <= most);
    half any = 0;
    for (int i = 0; i < LANES / 2; i++) any |= ((halves)hits)[i];
    if (__builtin_expect(any != 0, 0))
      for (word i = 0; i < LANES; i++)
        if (hits[i]) found[written++] = first + at + i;
  }
  *done = at;
  return written;
}
