// SPDX-License-Identifier: Apache-2.0
#include "cloister/boot/launch_image.h"

#include <algorithm>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "cloister/base/bytes.h"
#include "cloister/base/status_macros.h"

namespace cloister::boot {
namespace {

using ::cloister::memory::GuestAddress;
using ::cloister::memory::GuestRange;

std::string Describe(const Piece& piece) {
  return absl::StrCat(PieceTypeName(piece.type), " of ", piece.memory_size,
                      " bytes at ", piece.gpa.ToString());
}

// Appends what of `range` remains when `hole` is cut out of it.
void Subtract(const GuestRange& range, const GuestRange& hole,
              std::vector<GuestRange>* out) {
  if (!range.Overlaps(hole)) {
    out->push_back(range);
    return;
  }
  if (hole.start() > range.start()) {
    out->push_back(*GuestRange::Create(
        range.start(), hole.start().value() - range.start().value()));
  }
  if (hole.last() < range.last()) {
    out->push_back(
        *GuestRange::Create(GuestAddress(hole.last().value() + 1),
                            range.last().value() - hole.last().value()));
  }
}

}  // namespace

absl::string_view PieceTypeName(PieceType type) {
  switch (type) {
    case PieceType::kKernelSegment:
      return "kernel segment";
    case PieceType::kInitrd:
      return "initrd";
    case PieceType::kCommandLine:
      return "command line";
    case PieceType::kBootParams:
      return "boot_params";
    case PieceType::kE820:
      return "e820 table";
    case PieceType::kAcpi:
      return "ACPI tables";
    case PieceType::kStartState:
      return "start state";
    case PieceType::kDeviceTree:
      return "device tree";
  }
  return "unknown piece";
}

GuestRange Piece::range() const {
  return *GuestRange::Create(gpa, memory_size);
}

absl::StatusOr<LaunchImage> LaunchImage::Create(
    std::vector<GuestRange> usable) {
  std::sort(usable.begin(), usable.end(),
            [](const GuestRange& a, const GuestRange& b) {
              return a.start() < b.start();
            });
  std::vector<GuestRange> joined;
  for (const GuestRange& range : usable) {
    if (joined.empty() || range.start() > joined.back().last()) {
      bool adjacent = !joined.empty() &&
                      range.start().value() - joined.back().last().value() == 1;
      if (!adjacent) {
        joined.push_back(range);
        continue;
      }
      ASSIGN_OR_RETURN(joined.back(),
                       GuestRange::Create(joined.back().start(),
                                          joined.back().size() + range.size()));
      continue;
    }
    return absl::InvalidArgumentError(
        absl::StrCat("usable memory ranges ", joined.back().ToString(), " and ",
                     range.ToString(), " overlap"));
  }
  return LaunchImage(std::move(joined));
}

absl::Status LaunchImage::CheckPlacement(const Piece& piece) const {
  if (piece.data.size() > piece.memory_size) {
    return absl::InvalidArgumentError(
        absl::StrCat(Describe(piece), " has ", piece.data.size(),
                     " bytes of data, more than its memory"));
  }
  auto range = GuestRange::Create(piece.gpa, piece.memory_size);
  if (!range.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(Describe(piece), ": ", range.status().message()));
  }
  bool inside =
      std::any_of(usable_.begin(), usable_.end(),
                  [&](const GuestRange& u) { return u.Contains(*range); });
  if (!inside) {
    return absl::InvalidArgumentError(absl::StrCat(
        Describe(piece), " does not lie inside the guest's usable memory"));
  }
  for (const Piece& other : pieces_) {
    if (other.range().Overlaps(*range)) {
      return absl::InvalidArgumentError(
          absl::StrCat(Describe(piece), " overlaps the ", Describe(other)));
    }
  }
  return absl::OkStatus();
}

absl::Status LaunchImage::Add(Piece piece) {
  RETURN_IF_ERROR(CheckPlacement(piece));
  auto key = [](const Piece& p) { return std::make_tuple(p.type, p.gpa); };
  auto where = std::upper_bound(
      pieces_.begin(), pieces_.end(), piece,
      [&](const Piece& a, const Piece& b) { return key(a) < key(b); });
  pieces_.insert(where, std::move(piece));
  return absl::OkStatus();
}

absl::Status LaunchImage::SetEntry(const EntryState& entry) {
  bool in_kernel = false;
  bool rsi_known = false;
  for (const Piece& piece : pieces_) {
    std::optional<uint64_t> offset = entry.rip.OffsetFrom(piece.gpa);
    in_kernel = in_kernel || (piece.type == PieceType::kKernelSegment &&
                              offset && *offset < piece.data.size());
    rsi_known = rsi_known || piece.gpa == entry.rsi;
  }
  if (!in_kernel) {
    return absl::InvalidArgumentError(
        absl::StrCat("entry point ", entry.rip.ToString(),
                     " lies in no loaded kernel segment"));
  }
  if (!rsi_known) {
    return absl::InvalidArgumentError(absl::StrCat(
        "no piece of the launch image starts at ", entry.rsi.ToString(),
        ", the address given to the kernel"));
  }
  entry_ = entry;
  return absl::OkStatus();
}

std::vector<GuestRange> LaunchImage::FreeRanges(
    const GuestRange& within) const {
  std::vector<GuestRange> free;
  for (const GuestRange& range : usable_) {
    if (auto part = range.Intersect(within)) free.push_back(*part);
  }
  for (const Piece& piece : pieces_) {
    std::vector<GuestRange> next;
    for (const GuestRange& range : free) Subtract(range, piece.range(), &next);
    free = std::move(next);
  }
  return free;
}

std::optional<GuestAddress> LaunchImage::FindLowest(
    uint64_t size, uint64_t alignment, const GuestRange& within) const {
  if (size == 0) return std::nullopt;
  for (const GuestRange& range : FreeRanges(within)) {
    uint64_t start = base::AlignUp(range.start().value(), alignment);
    if (start < range.start().value()) continue;  // Wrapped.
    uint64_t skipped = start - range.start().value();
    if (skipped >= range.size() || size > range.size() - skipped) continue;
    return GuestAddress(start);
  }
  return std::nullopt;
}

std::optional<GuestAddress> LaunchImage::FindHighest(
    uint64_t size, uint64_t alignment, const GuestRange& within) const {
  if (size == 0) return std::nullopt;
  std::vector<GuestRange> free = FreeRanges(within);
  for (auto range = free.rbegin(); range != free.rend(); ++range) {
    if (size > range->size()) continue;
    uint64_t start = base::AlignDown(
        range->start().value() + (range->size() - size), alignment);
    if (start >= range->start().value()) return GuestAddress(start);
  }
  return std::nullopt;
}

uint64_t LaunchImage::LargestFree(const GuestRange& within) const {
  uint64_t largest = 0;
  for (const GuestRange& range : FreeRanges(within)) {
    largest = std::max(largest, range.size());
  }
  return largest;
}

}  // namespace cloister::boot
