// SPDX-License-Identifier: Apache-2.0
//
// SHA-256 (FIPS 180-4) that runs both in the shim, where there is no library
// of any kind, and on the host. There is one implementation on purpose: the
// digest that `measure` prints and the one that the guest checks must come from
// the same code. Do not add another; sha256_test.cc compares this one with the
// published NIST vectors and with libcrypto.
//
// Freestanding: nothing here may need a library, static storage that is
// written, or floating-point registers.
#ifndef CLOISTER_BOOT_SHIM_SHA256_H_
#define CLOISTER_BOOT_SHIM_SHA256_H_

#include <cstddef>
#include <cstdint>

namespace cloister::shim {

inline constexpr size_t kDigestSize = 32;

struct Digest {
  uint8_t bytes[kDigestSize] = {};
  constexpr bool operator==(const Digest&) const = default;
};

// Hashes a stream of bytes: any number of Update()s, then one Finish(), after
// which the object is spent. Not thread-safe. Hashes up to 2^61 bytes.
class Sha256 {
 public:
  [[gnu::noinline]] constexpr void Update(const uint8_t* data, size_t size) {
    total_ += size;
    if (used_ != 0) {
      while (size != 0 && used_ < kBlock) {
        buffer_[used_++] = *data++;
        --size;
      }
      if (used_ < kBlock) return;
      Compress(buffer_);
      used_ = 0;
    }
    for (; size >= kBlock; data += kBlock, size -= kBlock) Compress(data);
    for (; size != 0; --size) buffer_[used_++] = *data++;
  }

  // Integers enter little-endian.
  constexpr void UpdateU32(uint32_t value) {
    uint8_t raw[4] = {};
    for (int i = 0; i < 4; ++i) raw[i] = static_cast<uint8_t>(value >> (8 * i));
    Update(raw, sizeof(raw));
  }
  constexpr void UpdateU64(uint64_t value) {
    UpdateU32(static_cast<uint32_t>(value));
    UpdateU32(static_cast<uint32_t>(value >> 32));
  }

  constexpr Digest Finish() {
    uint64_t bits = total_ * 8;
    const uint8_t mark = 0x80;
    const uint8_t zero = 0;
    Update(&mark, 1);
    while (used_ != kBlock - 8) Update(&zero, 1);
    uint8_t length[8] = {};
    for (int i = 0; i < 8; ++i) {
      length[i] = static_cast<uint8_t>(bits >> (56 - 8 * i));
    }
    Update(length, sizeof(length));
    Digest digest;
    for (int i = 0; i < 8; ++i) {
      for (int j = 0; j < 4; ++j) {
        digest.bytes[4 * i + j] = static_cast<uint8_t>(h_[i] >> (24 - 8 * j));
      }
    }
    return digest;
  }

  static constexpr Digest Hash(const uint8_t* data, size_t size) {
    Sha256 hash;
    hash.Update(data, size);
    return hash.Finish();
  }

 private:
  static constexpr size_t kBlock = 64;
  static constexpr uint32_t kRound[64] = {
      0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1,
      0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3,
      0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786,
      0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
      0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147,
      0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13,
      0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b,
      0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
      0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a,
      0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208,
      0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

  static constexpr uint32_t Rotate(uint32_t x, int n) {
    return (x >> n) | (x << (32 - n));
  }

  [[gnu::noinline]] constexpr void Compress(const uint8_t* block) {
    uint32_t w[64] = {};
    for (int i = 0; i < 16; ++i, block += 4) {
      w[i] = static_cast<uint32_t>(block[0]) << 24 |
             static_cast<uint32_t>(block[1]) << 16 |
             static_cast<uint32_t>(block[2]) << 8 | block[3];
    }
    for (int i = 16; i < 64; ++i) {
      uint32_t s0 =
          Rotate(w[i - 15], 7) ^ Rotate(w[i - 15], 18) ^ (w[i - 15] >> 3);
      uint32_t s1 =
          Rotate(w[i - 2], 17) ^ Rotate(w[i - 2], 19) ^ (w[i - 2] >> 10);
      w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    uint32_t a = h_[0], b = h_[1], c = h_[2], d = h_[3];
    uint32_t e = h_[4], f = h_[5], g = h_[6], h = h_[7];
    for (int i = 0; i < 64; ++i) {
      uint32_t t1 = h + (Rotate(e, 6) ^ Rotate(e, 11) ^ Rotate(e, 25)) +
                    ((e & f) ^ (~e & g)) + kRound[i] + w[i];
      uint32_t t2 = (Rotate(a, 2) ^ Rotate(a, 13) ^ Rotate(a, 22)) +
                    ((a & b) ^ (a & c) ^ (b & c));
      h = g, g = f, f = e, e = d + t1;
      d = c, c = b, b = a, a = t1 + t2;
    }
    h_[0] += a, h_[1] += b, h_[2] += c, h_[3] += d;
    h_[4] += e, h_[5] += f, h_[6] += g, h_[7] += h;
  }

  uint32_t h_[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  uint8_t buffer_[kBlock] = {};
  size_t used_ = 0;
  uint64_t total_ = 0;
};

}  // namespace cloister::shim

#endif  // CLOISTER_BOOT_SHIM_SHA256_H_
