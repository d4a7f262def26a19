// SPDX-License-Identifier: Apache-2.0
#include "cloister/boot/shim/launch.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"
#include "cloister/boot/shim/handover_writer.h"
#include "cloister/boot/shim/page_tables.h"
#include "cloister/boot/shim/shim_image.h"

namespace cloister::shim {
namespace {

using ::cloister::memory::GuestAddress;
using ::cloister::memory::GuestRange;

static_assert(kKernelSegmentType ==
              static_cast<uint32_t>(boot::PieceType::kKernelSegment));

absl::Status Invalid(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("shim launch: ", what));
}

std::string Describe(const boot::Piece& piece) {
  return absl::StrCat(boot::PieceTypeName(piece.type), " of ",
                      piece.memory_size, " bytes at ", piece.gpa.ToString());
}

absl::Status TakeRam(const LaunchOptions& options, Handover* handover) {
  if (options.ram.size() > kMaxRamRanges) {
    return Invalid(absl::StrCat(options.ram.size(), " RAM ranges, at most ",
                                kMaxRamRanges, " can be handed over"));
  }
  for (const GuestRange& range : options.ram) {
    handover->ram[handover->ram_count++] = {range.start().value(),
                                            range.size()};
  }
  if (!RamIsValid(*handover)) {
    return Invalid(absl::StrCat(
        "RAM must be page-aligned, ascending, disjoint and below bit ",
        options.c_bit, ", a C-bit between 32 and 51"));
  }
  return absl::OkStatus();
}

absl::Status TakePiece(const boot::Piece& piece, Handover* handover) {
  if (piece.data.size() > piece.memory_size ||
      !IsTarget(*handover, piece.gpa.value(), piece.memory_size)) {
    return Invalid(absl::StrCat(Describe(piece), " with ", piece.data.size(),
                                " bytes of data does not lie in RAM between ",
                                GuestAddress(kLowest).ToString(), " and ",
                                GuestAddress(kHighest).ToString()));
  }
  if (Overlap(piece.gpa.value(), piece.memory_size, handover->shim,
              kShimSize)) {
    return Invalid(absl::StrCat(Describe(piece), " overlaps the shim at ",
                                GuestAddress(handover->shim).ToString()));
  }
  for (uint32_t i = 0; i < handover->piece_count; ++i) {
    const HandoverPiece& other = handover->pieces[i];
    if (Overlap(piece.gpa.value(), piece.memory_size, other.gpa,
                other.memory_size)) {
      return Invalid(absl::StrCat(Describe(piece), " overlaps the piece at ",
                                  GuestAddress(other.gpa).ToString()));
    }
  }
  handover->pieces[handover->piece_count++] = {
      static_cast<uint32_t>(piece.type), piece.gpa.value(), piece.data.size(),
      piece.memory_size, Sha256::Hash(piece.data.data(), piece.data.size())};
  return absl::OkStatus();
}

// Tables at the shim's place for them; see BuildPageTables.
Placement PageTables(GuestAddress shim, uint64_t table_bits,
                     uint64_t identity_bits, uint64_t window_bits) {
  uint64_t at = shim.value() + kTablesOffset;
  std::vector<uint64_t> tables(kTablesSize / 8);
  BuildPageTables(tables.data(), at, table_bits, identity_bits, window_bits);
  Placement placement{GuestAddress(at), std::vector<uint8_t>(kTablesSize)};
  std::memcpy(placement.bytes.data(), tables.data(), kTablesSize);
  return placement;
}

}  // namespace

Placement PrivatePageTables(GuestAddress shim, int c_bit) {
  uint64_t bit = uint64_t{1} << c_bit;
  return PageTables(shim, bit, bit, 0);
}

absl::StatusOr<Handover> MakeHandover(const LaunchOptions& options) {
  Handover handover;
  handover.c_bit = static_cast<uint32_t>(options.c_bit);
  handover.shim = options.shim.value();
  handover.entry = options.entry.rip.value();
  handover.boot_params = options.entry.rsi.value();
  handover.vcpus = options.vcpus;
  handover.hypercalls = options.hypercalls ? 1 : 0;
  handover.platform =
      Sha256::Hash(reinterpret_cast<const uint8_t*>(options.platform.data()),
                   options.platform.size());
  RETURN_IF_ERROR(TakeRam(options, &handover));
  if (!options.shim.IsPageAligned() ||
      !IsTarget(handover, handover.shim, kShimSize)) {
    return Invalid(absl::StrCat("no room for the shim's ", kShimSize,
                                " bytes at ", options.shim.ToString()));
  }
  if (options.pieces.size() > kMaxPieces) {
    return Invalid(absl::StrCat(options.pieces.size(), " pieces, at most ",
                                kMaxPieces, " can be handed over"));
  }
  for (const boot::Piece& piece : options.pieces) {
    RETURN_IF_ERROR(TakePiece(piece, &handover));
  }
  if (!PlacementIsValid(handover)) {
    return Invalid(absl::StrCat("entry ", options.entry.rip.ToString(),
                                " must lie in a kernel segment's data, RSI ",
                                options.entry.rsi.ToString(),
                                " must start a piece, and ", options.vcpus,
                                " vCPUs must be at least one"));
  }
  return handover;
}

Digest ComputeLaunchDigest(const Handover& handover) {
  absl::Span<const uint8_t> image = ShimImage();
  return LaunchDigest(ImageDigest(image.data(), image.size()), image.size(),
                      handover);
}

std::string DigestHex(const Digest& digest) {
  return absl::BytesToHexString(absl::string_view(
      reinterpret_cast<const char*>(digest.bytes), kDigestSize));
}

absl::StatusOr<ShimLaunch> BuildShimLaunch(const LaunchOptions& options) {
  ASSIGN_OR_RETURN(Handover handover, MakeHandover(options));
  ASSIGN_OR_RETURN(std::vector<uint8_t> tree, WriteHandover(handover));
  ASSIGN_OR_RETURN(GuestRange reserved,
                   GuestRange::CreatePageAligned(options.shim, kShimSize));
  Digest digest = ComputeLaunchDigest(handover);
  absl::Span<const uint8_t> image = ShimImage();
  std::vector<uint8_t> patched(image.begin(), image.end());
  std::copy(std::begin(digest.bytes), std::end(digest.bytes),
            patched.begin() + kDigestSlot);

  Placement tables =
      PageTables(options.shim, 0, 0, uint64_t{1} << options.c_bit);
  StartRegisters start{GuestAddress(handover.shim + kSharedEntry),
                       tables.gpa.value()};
  std::vector<Placement> placements;
  placements.push_back({options.shim, std::move(patched)});
  placements.push_back(std::move(tables));
  placements.push_back(
      {GuestAddress(handover.shim + kHandoverOffset), std::move(tree)});
  return ShimLaunch{std::move(placements), start, reserved, handover, digest};
}

}  // namespace cloister::shim
