// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CONFIDENTIAL_SAMPLE_LAUNCH_H_
#define CLOISTER_CONFIDENTIAL_SAMPLE_LAUNCH_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "cloister/boot/launch_image.h"
#include "cloister/boot/shared_bytes.h"
#include "cloister/boot/shim/launch.h"
#include "cloister/memory/guest_address.h"

namespace cloister::confidential {

inline constexpr uint64_t kMiB = 1 << 20;

inline boot::Piece MakePiece(boot::PieceType type, uint64_t gpa,
                             std::vector<uint8_t> bytes, uint64_t memory) {
  return {type, memory::GuestAddress(gpa), boot::SharedBytes(std::move(bytes)),
          memory};
}

// A launch that tests can measure: one piece of most types, and 32 MiB of RAM.
inline shim::LaunchOptions SampleLaunch() {
  using boot::PieceType;
  using memory::GuestAddress;
  shim::LaunchOptions options;
  options.c_bit = 39;
  options.ram = {*memory::GuestRange::Create(GuestAddress(0), 32 * kMiB)};
  options.shim = GuestAddress(16 * kMiB);
  options.pieces = {
      MakePiece(PieceType::kKernelSegment, 2 * kMiB, {1, 2, 3, 4, 5}, 0x9000),
      MakePiece(PieceType::kInitrd, 4 * kMiB, {6, 7, 8}, 0x1000),
      MakePiece(PieceType::kCommandLine, kMiB + 0x1000, {'a', 0}, 0x800),
      MakePiece(PieceType::kBootParams, kMiB, {9, 10, 11, 12}, 0x1000),
      MakePiece(PieceType::kAcpi, kMiB + 0x3000, {13}, 0x1000)};
  options.entry = {GuestAddress(2 * kMiB), GuestAddress(kMiB)};
  options.platform = "cpuid=1\n";
  return options;
}

}  // namespace cloister::confidential

#endif  // CLOISTER_CONFIDENTIAL_SAMPLE_LAUNCH_H_
