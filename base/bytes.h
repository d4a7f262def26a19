// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_BASE_BYTES_H_
#define CLOISTER_BASE_BYTES_H_

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace cloister::base {

// Little-endian loads and stores at any alignment. The host is x86-64, so the
// byte order is the machine's; the names say what the format wants.
template <typename T>
T LoadLe(const void* from) {
  static_assert(std::is_integral_v<T>);
  T value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}
template <typename T>
void StoreLe(void* to, T value) {
  static_assert(std::is_integral_v<T>);
  std::memcpy(to, &value, sizeof(value));
}

// True iff `value` is a multiple of `alignment`, a power of two.
constexpr bool IsAligned(uint64_t value, uint64_t alignment) {
  return (value & (alignment - 1)) == 0;
}

constexpr uint64_t AlignDown(uint64_t value, uint64_t alignment) {
  return value & ~(alignment - 1);
}

// Rounds up; wraps to 0 when the result does not fit, so check first when
// `value` comes from outside.
constexpr uint64_t AlignUp(uint64_t value, uint64_t alignment) {
  return AlignDown(value + (alignment - 1), alignment);
}

constexpr bool IsPowerOfTwo(uint64_t value) {
  return value != 0 && (value & (value - 1)) == 0;
}

}  // namespace cloister::base

#endif  // CLOISTER_BASE_BYTES_H_
