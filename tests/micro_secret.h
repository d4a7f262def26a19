// SPDX-License-Identifier: Apache-2.0
//
// A secret that two programs compute from the same seed, so that it need never
// be sent or printed.
#ifndef CLOISTER_TESTS_MICRO_SECRET_H_
#define CLOISTER_TESTS_MICRO_SECRET_H_

#include <array>
#include <cstdint>

namespace cloister::tests {

using Secret = std::array<uint64_t, 8>;

// Chained rounds of a 64-bit mixer: nothing of the seed shows in the result.
inline Secret SecretFromSeed(uint64_t seed) {
  Secret secret = {};
  uint64_t state = seed;
  for (int round = 0; round < 1000; ++round) {
    for (uint64_t& word : secret) {
      state += 0x9e3779b97f4a7c15;
      uint64_t z = state ^ word;
      z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
      z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
      word = z ^ (z >> 31);
    }
  }
  return secret;
}

}  // namespace cloister::tests

#endif  // CLOISTER_TESTS_MICRO_SECRET_H_
