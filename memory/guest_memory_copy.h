// SPDX-License-Identifier: Apache-2.0
//
// Copies between guest memory and the monitor's own (private to memory/).
//
// Others may write the guest's side at any moment: the guest itself, the kernel
// and the monitor's other threads. A plain memcpy would be a data race, and the
// compiler might read twice what it was asked to read once. Here each byte of
// the guest's side is accessed exactly once, through relaxed atomics: naturally
// aligned pieces of up to 8 bytes, as large as they can be, so that an aligned
// field of up to 8 bytes never tears.
//
// Large copies use one string instruction for all but their last few bytes, in
// volatile assembly that the compiler cannot see into: as fast as memcpy, but
// fields may tear. It moves words, not bytes, which is the same to a processor
// with fast strings and eight times as fast on an emulated one. Builds with a
// sanitizer use the atomics throughout, so that it sees the accesses.
#ifndef CLOISTER_MEMORY_GUEST_MEMORY_COPY_H_
#define CLOISTER_MEMORY_GUEST_MEMORY_COPY_H_

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace cloister::memory::guest_copy {

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
inline constexpr bool kSanitized = true;
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif
#else
inline constexpr bool kSanitized = false;
#endif

// From here on a string instruction beats a loop over words.
inline constexpr size_t kLarge = 512;

// Calls piece(offset, T{}) for pieces of type T that cover [0, size) once, each
// naturally aligned at `guest` + offset.
template <typename Piece>
void ForEachPiece(const uint8_t* guest, size_t size, Piece piece) {
  const auto address = reinterpret_cast<uintptr_t>(guest);
  size_t at = 0;
  auto align_to = [&](auto type) {
    constexpr size_t kSize = sizeof(type);
    if ((address + at) % (2 * kSize) != 0 && size - at >= kSize) {
      piece(at, type);
      at += kSize;
    }
  };
  align_to(uint8_t{});
  align_to(uint16_t{});
  align_to(uint32_t{});
  for (; size - at >= 8; at += 8) piece(at, uint64_t{});
  auto finish_with = [&](auto type) {
    if (size - at < sizeof(type)) return;
    piece(at, type);
    at += sizeof(type);
  };
  finish_with(uint32_t{});
  finish_with(uint16_t{});
  finish_with(uint8_t{});
}

inline void FromGuest(uint8_t* to, const uint8_t* guest, size_t size) {
#if defined(__x86_64__)
  if (!kSanitized && size >= kLarge) {
    size_t words = size / 8;
    size %= 8;
    asm volatile("rep movsq" : "+D"(to), "+S"(guest), "+c"(words) : : "memory");
  }
#endif
  ForEachPiece(guest, size, [&](size_t at, auto type) {
    using T = decltype(type);
    T value = __atomic_load_n(reinterpret_cast<const T*>(guest + at),
                              __ATOMIC_RELAXED);
    std::memcpy(to + at, &value, sizeof(value));
  });
}

inline void ToGuest(uint8_t* guest, const uint8_t* from, size_t size) {
#if defined(__x86_64__)
  if (!kSanitized && size >= kLarge) {
    size_t words = size / 8;
    size %= 8;
    asm volatile("rep movsq"
                 : "+D"(guest), "+S"(from), "+c"(words)
                 :
                 : "memory");
  }
#endif
  ForEachPiece(guest, size, [&](size_t at, auto type) {
    using T = decltype(type);
    T value;
    std::memcpy(&value, from + at, sizeof(value));
    __atomic_store_n(reinterpret_cast<T*>(guest + at), value, __ATOMIC_RELAXED);
  });
}

// Eight of them.
inline uint64_t Repeated(uint8_t value) {
  return value * uint64_t{0x0101010101010101};
}

inline void FillGuest(uint8_t* guest, uint8_t value, size_t size) {
#if defined(__x86_64__)
  if (!kSanitized && size >= kLarge) {
    size_t words = size / 8;
    size %= 8;
    asm volatile("rep stosq"
                 : "+D"(guest), "+c"(words)
                 : "a"(Repeated(value))
                 : "memory");
  }
#endif
  ForEachPiece(guest, size, [&](size_t at, auto type) {
    using T = decltype(type);
    __atomic_store_n(reinterpret_cast<T*>(guest + at),
                     static_cast<T>(Repeated(value)), __ATOMIC_RELAXED);
  });
}

}  // namespace cloister::memory::guest_copy

#endif  // CLOISTER_MEMORY_GUEST_MEMORY_COPY_H_
