// SPDX-License-Identifier: Apache-2.0
#include "cloister/boot/e820.h"

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"

namespace cloister::boot {
namespace {

using ::cloister::memory::GuestAddress;
using ::cloister::memory::GuestRange;
using ::cloister::memory::kPageSize;

constexpr uint64_t kMinimumRam = uint64_t{2} << 20;
// No x86 processor has more physical address bits than this (SDM vol.
// 3, 4.1.4).
constexpr uint64_t kAddressSpace = uint64_t{1} << 52;

GuestRange Between(uint64_t first, uint64_t end) {
  return *GuestRange::Create(GuestAddress(first), end - first);
}

// The address after `range`, which lies in the address space checked above.
uint64_t End(const GuestRange& range) { return range.last().value() + 1; }

bool StartsLower(const GuestRange& a, const GuestRange& b) {
  return a.start() < b.start();
}

// `ranges` without `hole`.
std::vector<GuestRange> Without(const std::vector<GuestRange>& ranges,
                                const GuestRange& hole) {
  std::vector<GuestRange> out;
  for (const GuestRange& range : ranges) {
    if (!range.Overlaps(hole)) {
      out.push_back(range);
      continue;
    }
    if (range.start() < hole.start()) {
      out.push_back(Between(range.start().value(), hole.start().value()));
    }
    if (hole.last() < range.last()) {
      out.push_back(Between(End(hole), End(range)));
    }
  }
  return out;
}

// Puts `entry` over `table`.
void Overlay(const E820Entry& entry, std::vector<E820Entry>* table) {
  std::vector<E820Entry> next;
  for (const E820Entry& old : *table) {
    for (const GuestRange& rest : Without({old.range}, entry.range)) {
      next.push_back({rest, old.type});
    }
  }
  next.push_back(entry);
  *table = std::move(next);
}

absl::Status CheckDisjoint(std::vector<GuestRange> ranges,
                           absl::string_view what) {
  std::sort(ranges.begin(), ranges.end(), StartsLower);
  for (size_t i = 0; i < ranges.size(); ++i) {
    if (ranges[i].last().value() >= kAddressSpace) {
      return absl::InvalidArgumentError(
          absl::StrCat(what, " ", ranges[i].ToString(),
                       " lies above the 52-bit physical address space"));
    }
    if (i > 0 && ranges[i - 1].Overlaps(ranges[i])) {
      return absl::InvalidArgumentError(
          absl::StrCat(what, "s ", ranges[i - 1].ToString(), " and ",
                       ranges[i].ToString(), " overlap"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<GuestRange>> SplitRam(uint64_t bytes,
                                                 const GuestRange& hole) {
  if (hole.start().value() < kHighMemoryStart ||
      hole.last().value() != kFourGiB - 1 || !hole.IsPageAligned()) {
    return absl::InvalidArgumentError(
        absl::StrCat("32-bit device hole ", hole.ToString(),
                     " does not span whole pages from 1 MiB or above up to "
                     "4 GiB"));
  }
  if (bytes % kPageSize != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("memory size of ", bytes,
                     " bytes is not a multiple of the page size, ", kPageSize));
  }
  if (bytes < kMinimumRam) {
    return absl::InvalidArgumentError(
        absl::StrCat("memory size of ", bytes, " bytes is less than ",
                     kMinimumRam, ", the least a guest can have"));
  }
  uint64_t below = std::min(bytes, hole.start().value());
  uint64_t above = bytes - below;
  if (above > kAddressSpace - kFourGiB) {
    return absl::InvalidArgumentError(
        absl::StrCat("memory size of ", bytes,
                     " bytes exceeds the 52-bit physical address space"));
  }
  std::vector<GuestRange> ram = {Between(0, below)};
  if (above > 0) ram.push_back(Between(kFourGiB, kFourGiB + above));
  return ram;
}

absl::Status ValidateLayout(const MemoryLayout& layout) {
  std::vector<GuestRange> ram = layout.ram;
  RETURN_IF_ERROR(CheckDisjoint(ram, "RAM range"));
  std::sort(ram.begin(), ram.end(), StartsLower);
  if (ram.empty() || ram.front().start() != GuestAddress(0) ||
      ram.front().size() < kMinimumRam) {
    return absl::InvalidArgumentError(
        absl::StrCat("the guest has no RAM range of at least ", kMinimumRam,
                     " bytes at address 0"));
  }
  for (const GuestRange& range : ram) {
    if (!range.IsPageAligned()) {
      return absl::InvalidArgumentError(
          absl::StrCat("RAM range ", range.ToString(), " is not page-aligned"));
    }
  }
  std::vector<GuestRange> reserved;
  for (const E820Entry& entry : layout.reserved) {
    reserved.push_back(entry.range);
    bool in_ram = std::any_of(
        ram.begin(), ram.end(),
        [&](const GuestRange& range) { return range.Contains(entry.range); });
    if (entry.type == E820Type::kRam && !in_ram) {
      return absl::InvalidArgumentError(
          absl::StrCat("reservation ", entry.range.ToString(),
                       " is to become RAM but lies outside of RAM"));
    }
  }
  return CheckDisjoint(std::move(reserved), "reservation");
}

absl::StatusOr<std::vector<GuestRange>> UsableRanges(
    const MemoryLayout& layout) {
  RETURN_IF_ERROR(ValidateLayout(layout));
  std::vector<GuestRange> usable =
      Without(layout.ram, Between(0, kHighMemoryStart));
  for (const E820Entry& entry : layout.reserved) {
    usable = Without(usable, entry.range);
  }
  std::sort(usable.begin(), usable.end(), StartsLower);
  return usable;
}

absl::StatusOr<std::vector<E820Entry>> BuildE820(
    const MemoryLayout& layout, const std::vector<E820Entry>& extra) {
  RETURN_IF_ERROR(ValidateLayout(layout));
  std::vector<E820Entry> table;
  for (const GuestRange& range : layout.ram) {
    table.push_back({range, E820Type::kRam});
  }
  Overlay({Between(kLowMemoryEnd, kHighMemoryStart), E820Type::kReserved},
          &table);
  // A kRam reservation below 1 MiB must not uncover the hole there.
  for (const E820Entry& entry : layout.reserved) {
    if (entry.type != E820Type::kRam) Overlay(entry, &table);
  }
  for (const E820Entry& entry : extra) Overlay(entry, &table);
  std::sort(table.begin(), table.end(),
            [](const E820Entry& a, const E820Entry& b) {
              return StartsLower(a.range, b.range);
            });
  std::vector<E820Entry> joined;
  for (const E820Entry& entry : table) {
    if (!joined.empty() && joined.back().type == entry.type &&
        End(joined.back().range) == entry.range.start().value()) {
      joined.back().range =
          Between(joined.back().range.start().value(), End(entry.range));
    } else {
      joined.push_back(entry);
    }
  }
  return joined;
}

}  // namespace cloister::boot
