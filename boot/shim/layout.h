// SPDX-License-Identifier: Apache-2.0
//
// Where the parts of the shim lie, relative to its load address, and what it
// says on its status port. Shared by the shim and the host; freestanding.
#ifndef CLOISTER_BOOT_SHIM_LAYOUT_H_
#define CLOISTER_BOOT_SHIM_LAYOUT_H_

#include <cstdint>

namespace cloister::shim {

// The image: code and constants, a whole number of 8-byte words. Nothing in it
// is written while the shim runs. It begins with two jumps and the slot for
// the launch digest, which counts as zero when the image is hashed.
inline constexpr uint64_t kSharedEntry = 0x00;   // Start in view A.
inline constexpr uint64_t kPrivateEntry = 0x10;  // Start already private.
inline constexpr uint64_t kDigestSlot = 0x20;
inline constexpr uint64_t kImageMax = 0x4000;

// Page tables (see page_tables.h), the stack, the hand-over device tree.
inline constexpr uint64_t kTablesOffset = kImageMax;
inline constexpr uint64_t kTablesSize = 0xb000;
inline constexpr uint64_t kStackOffset = kTablesOffset + kTablesSize;
inline constexpr uint64_t kStackSize = 0x4000;
inline constexpr uint64_t kHandoverOffset = kStackOffset + kStackSize;
inline constexpr uint64_t kHandoverMax = 0x4000;

// Memory that the shim occupies in each view, from a page-aligned address.
inline constexpr uint64_t kShimSize = kHandoverOffset + kHandoverMax;

// The shim and everything it places lie in [kLowest, kHighest). Below is the
// memory that both views share (application processors start there); above
// there are no page tables.
inline constexpr uint64_t kLowest = 1 << 20;
inline constexpr uint64_t kHighest = uint64_t{4} << 30;

// The other view of guest-physical x is at virtual kWindow + x.
inline constexpr uint64_t kWindow = uint64_t{1} << 39;

// Selectors of the flat descriptors that Linux wants at its 64-bit entry
// (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol").
inline constexpr uint16_t kCodeSelector = 0x10;
inline constexpr uint16_t kDataSelector = 0x18;

// One byte written to this I/O port tells the monitor how the launch goes.
// Before kVerified nothing of the guest's own has run. The monitor stops
// listening at kVerified or the first refusal, and gives every refusal an exit
// code of its own.
inline constexpr uint16_t kStatusPort = 0x3f1;
// A refusal is also told in words on the first serial port.
inline constexpr uint16_t kSerialPort = 0x3f8;

enum class Status : uint8_t {
  // Everything verified; the next instruction outside the shim is the kernel's.
  // Three bits or more from every other value: no single fault says it.
  kVerified = 0x5a,
  // Refusals: the shim halts and nothing has started.
  kNoEncryption = 0x01,  // CPUID 0x8000001F does not offer memory encryption.
  kCBitMismatch = 0x02,  // The hand-over names another C-bit than CPUID.
  kNotPrivate = 0x03,    // CR3 does not point at the private page tables.
  kBadHandover = 0x04,   // The device tree is not a well-formed hand-over.
  kBadPlacement = 0x05,  // An overlap, or a target outside RAM.
  kLaunchDigest = 0x06,  // Shim and hand-over do not hash to the digest slot.
  kPieceDigest = 0x07,   // What was copied does not hash to its digest.
  kHypercall = 0x08,     // The report of private memory was turned down.
  // Progress: the shim runs from private memory from here on.
  kPrivate = 0x80,
};

// The words for a refusal; nullptr for other values.
constexpr const char* RefusalText(Status status) {
  switch (status) {
    case Status::kNoEncryption:
      return "CPUID offers no memory encryption";
    case Status::kCBitMismatch:
      return "C-bit differs from CPUID";
    case Status::kNotPrivate:
      return "not running from private memory";
    case Status::kBadHandover:
      return "malformed hand-over";
    case Status::kBadPlacement:
      return "hand-over places something where it must not";
    case Status::kLaunchDigest:
      return "launch digest mismatch";
    case Status::kPieceDigest:
      return "piece digest mismatch";
    case Status::kHypercall:
      return "private memory report refused";
    case Status::kVerified:
    case Status::kPrivate:
      break;
  }
  return nullptr;
}

}  // namespace cloister::shim

#endif  // CLOISTER_BOOT_SHIM_LAYOUT_H_
