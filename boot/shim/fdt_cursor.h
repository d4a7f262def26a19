// SPDX-License-Identifier: Apache-2.0
//
// Walks a flattened device tree (Devicetree Specification 0.4, chapter 5) of
// the one form that libfdt's sequential writer gives. Freestanding.
#ifndef CLOISTER_BOOT_SHIM_FDT_CURSOR_H_
#define CLOISTER_BOOT_SHIM_FDT_CURSOR_H_

#include <cstddef>
#include <cstdint>

#include "cloister/boot/shim/sha256.h"

namespace cloister::shim {

// Cursor over a flattened device tree in memory that nobody else writes. Every
// access is checked against the block it belongs to; after the first error
// ok() is false and every further read yields nothing.
class FdtCursor {
 public:
  // `size` bounds the tree; the tree's own totalsize may be smaller.
  constexpr FdtCursor(const uint8_t* data, size_t size) : data_(data) {
    constexpr uint32_t kMagic = 0xd00dfeed;
    if (size < kHeader || Load(0) != kMagic) return;
    uint32_t total = Load(4);
    uint32_t structure = Load(8);
    uint32_t strings = Load(12);
    uint32_t reservations = Load(16);
    uint32_t strings_size = Load(32);
    uint32_t structure_size = Load(36);
    if (total > size) return;
    // Version 17, readable as 16, boot CPU 0.
    if (Load(20) != 17 || Load(24) != 16 || Load(28) != 0) return;
    // The blocks in the order in which libfdt writes them, without gaps.
    if (total < kBlocks || reservations != kReservations ||
        structure != kBlocks) {
      return;
    }
    if (structure_size % 4 != 0 || structure_size > total - structure) return;
    if (strings != structure + structure_size) return;
    if (strings_size != total - strings) return;
    // No memory reservations: just the terminator.
    for (uint32_t at = kHeader; at < kBlocks; at += 4) {
      if (Load(at) != 0) return;
    }
    position_ = structure;
    end_ = structure + structure_size;
    strings_ = strings;
    strings_size_ = strings_size;
    ok_ = true;
  }

  constexpr bool ok() const { return ok_; }

  // The start of a node whose name is `prefix` and, if `address` is not null, a
  // unit address of at most 16 lower-case digits without leading zeroes.
  [[gnu::noinline]] constexpr bool BeginNode(const char* prefix,
                                             uint64_t* address = nullptr) {
    if (!Token(kBeginNode)) return false;
    for (; *prefix != 0; ++prefix) {
      if (NextByte() != static_cast<uint8_t>(*prefix)) return Fail();
    }
    if (address == nullptr) {
      if (NextByte() != 0) return Fail();
    } else if (!UnitAddress(address)) {
      return Fail();
    }
    while (ok_ && position_ % 4 != 0) {
      if (NextByte() != 0) return Fail();
    }
    return ok_;
  }
  constexpr bool EndNode() { return Token(kEndNode); }
  // The end of the tree, which is also the end of its block.
  constexpr bool End() { return Token(kEnd) && (position_ == end_ || Fail()); }

  // True if the next token starts a node; does not move.
  constexpr bool AtNode() const {
    return ok_ && end_ - position_ >= 4 && Load(position_) == kBeginNode;
  }

  // The value of the property `name` of `minimum` to `maximum` bytes, which
  // must come next; nullptr if it does not.
  [[gnu::noinline]] constexpr const uint8_t* Property(const char* name,
                                                      uint32_t minimum,
                                                      uint32_t maximum,
                                                      uint32_t* length) {
    if (!Token(kProperty)) return nullptr;
    if (end_ - position_ < 8) return FailNull();
    uint32_t size = Load(position_);
    uint32_t name_at = Load(position_ + 4);
    position_ += 8;
    if (size < minimum || size > maximum || size > end_ - position_) {
      return FailNull();
    }
    if (!NameIs(name_at, name)) return FailNull();
    const uint8_t* value = data_ + position_;
    position_ += size;
    while (position_ % 4 != 0) {
      if (NextByte() != 0) return FailNull();
    }
    *length = size;
    return value;
  }

  constexpr bool Property32(const char* name, uint32_t* out) {
    uint32_t length = 0;
    const uint8_t* value = Property(name, 4, 4, &length);
    if (value == nullptr) return false;
    *out = Word(value);
    return true;
  }
  constexpr bool Property64(const char* name, uint64_t* out) {
    uint32_t length = 0;
    const uint8_t* value = Property(name, 8, 8, &length);
    if (value == nullptr) return false;
    *out = Double(value);
    return true;
  }
  constexpr bool PropertyDigest(const char* name, Digest* out) {
    uint32_t length = 0;
    const uint8_t* value = Property(name, kDigestSize, kDigestSize, &length);
    if (value == nullptr) return false;
    for (size_t i = 0; i < kDigestSize; ++i) out->bytes[i] = value[i];
    return true;
  }

  // Big-endian.
  static constexpr uint32_t Word(const uint8_t* at) {
    return static_cast<uint32_t>(at[0]) << 24 |
           static_cast<uint32_t>(at[1]) << 16 |
           static_cast<uint32_t>(at[2]) << 8 | at[3];
  }
  static constexpr uint64_t Double(const uint8_t* at) {
    return static_cast<uint64_t>(Word(at)) << 32 | Word(at + 4);
  }

 private:
  static constexpr uint32_t kHeader = 40;
  // The header is padded to whole reservation entries, of which there is one.
  static constexpr uint32_t kReservations = 48;
  static constexpr uint32_t kBlocks = kReservations + 16;
  static constexpr uint32_t kBeginNode = 1;
  static constexpr uint32_t kEndNode = 2;
  static constexpr uint32_t kProperty = 3;
  static constexpr uint32_t kEnd = 9;

  constexpr uint32_t Load(uint32_t at) const { return Word(data_ + at); }
  constexpr bool Fail() {
    ok_ = false;
    return false;
  }
  constexpr const uint8_t* FailNull() {
    ok_ = false;
    return nullptr;
  }

  constexpr bool Token(uint32_t token) {
    if (!ok_ || end_ - position_ < 4 || Load(position_) != token) return Fail();
    position_ += 4;
    return true;
  }

  // Of the structure block; fails and yields 0xff at its end.
  constexpr uint8_t NextByte() {
    if (!ok_ || position_ == end_) {
      ok_ = false;
      return 0xff;
    }
    return data_[position_++];
  }

  constexpr bool UnitAddress(uint64_t* address) {
    uint64_t value = 0;
    for (int digits = 0; digits <= 16; ++digits) {
      uint8_t c = NextByte();
      if (c == 0) {
        *address = value;
        return ok_ && digits != 0;
      }
      bool decimal = c >= '0' && c <= '9';
      if (!decimal && (c < 'a' || c > 'f')) return false;
      if (digits == 1 && value == 0) return false;
      value =
          value << 4 | static_cast<uint8_t>(decimal ? c - '0' : c - 'a' + 10);
    }
    return false;
  }

  constexpr bool NameIs(uint32_t at, const char* name) const {
    for (;; ++at, ++name) {
      if (at >= strings_size_) return false;
      if (data_[strings_ + at] != static_cast<uint8_t>(*name)) return false;
      if (*name == 0) return true;
    }
  }

  const uint8_t* data_;
  bool ok_ = false;
  uint32_t position_ = 0;
  uint32_t end_ = 0;
  uint32_t strings_ = 0;
  uint32_t strings_size_ = 0;
};

}  // namespace cloister::shim

#endif  // CLOISTER_BOOT_SHIM_FDT_CURSOR_H_
