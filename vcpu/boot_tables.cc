// SPDX-License-Identifier: Apache-2.0
#include "cloister/vcpu/boot_tables.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "cloister/base/bytes.h"
#include "cloister/base/status_macros.h"

namespace cloister::vcpu {
namespace {

using ::cloister::memory::kPageSize;

constexpr uint64_t kLargePage = uint64_t{2} << 20;
constexpr uint64_t kEntries = 512;
// APM vol. 2 5.4.1.
constexpr uint64_t kPresent = 1 << 0;
constexpr uint64_t kWritable = 1 << 1;
constexpr uint64_t kAccessed = 1 << 5;
constexpr uint64_t kDirty = 1 << 6;
constexpr uint64_t kLarge = 1 << 7;
constexpr uint64_t kAddressMask = 0x000ffffffffff000;

// Segment descriptors (APM vol. 2 4.8): present, accessed, 4 KiB granularity.
constexpr uint64_t kCode64 = 0x00af9b000000ffff;
constexpr uint64_t kData = 0x00cf93000000ffff;
constexpr uint64_t kBusyTss = 0x00008b0000000067;

bool IsCanonical(uint64_t address) {
  uint64_t top = address >> 47;
  return top == 0 || top == (UINT64_MAX >> 47);
}

absl::Status CheckMapping(const PageMapping& mapping) {
  auto error = [&mapping](absl::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat("page mapping of 0x", absl::Hex(mapping.size),
                     " bytes at 0x", absl::Hex(mapping.virtual_address), " to ",
                     mapping.physical.ToString(), ": ", why));
  };
  if (mapping.size == 0) return error("empty");
  if (!base::IsAligned(mapping.virtual_address, kLargePage) ||
      !base::IsAligned(mapping.physical.value(), kLargePage) ||
      !base::IsAligned(mapping.size, kLargePage)) {
    return error("not aligned to 2 MiB");
  }
  if (mapping.size - 1 > UINT64_MAX - mapping.virtual_address) {
    return error("wraps");
  }
  uint64_t last = mapping.virtual_address + (mapping.size - 1);
  if (!IsCanonical(mapping.virtual_address) || !IsCanonical(last) ||
      (mapping.virtual_address >> 63) != (last >> 63)) {
    return error("not canonical");
  }
  if (mapping.physical.value() > kAddressMask ||
      mapping.size > kAddressMask + kPageSize - mapping.physical.value()) {
    return error("physical address beyond 52 bits");
  }
  return absl::OkStatus();
}

absl::Status CheckCBit(const PageTableOptions& options,
                       absl::Span<const PageMapping> mappings) {
  bool needed = options.tables_encrypted;
  for (const PageMapping& mapping : mappings) needed |= mapping.encrypted;
  if (!options.c_bit.has_value()) {
    if (!needed) return absl::OkStatus();
    return absl::InvalidArgumentError("encrypted page mapping without a C-bit");
  }
  if (*options.c_bit < 32 || *options.c_bit > 51) {
    return absl::InvalidArgumentError(
        absl::StrCat("C-bit ", *options.c_bit, " is not in 32..51"));
  }
  uint64_t c = uint64_t{1} << *options.c_bit;
  for (const PageMapping& mapping : mappings) {
    if (mapping.physical.value() >= c ||
        mapping.size > c - mapping.physical.value()) {
      return absl::InvalidArgumentError(
          absl::StrCat("page mapping to ", mapping.physical.ToString(),
                       " reaches the C-bit ", *options.c_bit));
    }
  }
  return absl::OkStatus();
}

// Tables being built: `bytes` holds whole pages, found again through their
// parent's entry.
class Builder {
 public:
  explicit Builder(const PageTableOptions& options)
      : base_(options.tables.value()),
        c_(options.c_bit.has_value() ? uint64_t{1} << *options.c_bit : 0),
        table_flags_(kPresent | kWritable | kAccessed |
                     (options.tables_encrypted ? c_ : 0)),
        bytes_(kPageSize) {}

  absl::Status Map(const PageMapping& mapping) {
    for (uint64_t offset = 0; offset < mapping.size; offset += kLargePage) {
      uint64_t address = mapping.virtual_address + offset;
      ASSIGN_OR_RETURN(uint64_t pdpt, Descend(0, address >> 39));
      ASSIGN_OR_RETURN(uint64_t pd, Descend(pdpt, address >> 30));
      uint8_t* entry = Entry(pd, address >> 21);
      if (base::LoadLe<uint64_t>(entry) != 0) {
        return absl::InvalidArgumentError(
            absl::StrCat("page mappings overlap at 0x", absl::Hex(address)));
      }
      base::StoreLe(entry, (mapping.physical.value() + offset) | kPresent |
                               kWritable | kAccessed | kDirty | kLarge |
                               (mapping.encrypted ? c_ : 0));
    }
    return absl::OkStatus();
  }

  std::vector<uint8_t> Take() && { return std::move(bytes_); }

 private:
  uint8_t* Entry(uint64_t table, uint64_t index) {
    return bytes_.data() + table + index % kEntries * sizeof(uint64_t);
  }

  // The offset of the table that entry `index` of the table at offset `table`
  // points to, added if there was none.
  absl::StatusOr<uint64_t> Descend(uint64_t table, uint64_t index) {
    uint64_t entry = base::LoadLe<uint64_t>(Entry(table, index));
    if (entry != 0) return (entry & kAddressMask & ~c_) - base_;
    uint64_t next = bytes_.size();
    if (next >= kMaxPageTableBytes) {
      return absl::ResourceExhaustedError(
          absl::StrCat("page tables need more than ", kMaxPageTableBytes,
                       " bytes: map less"));
    }
    bytes_.resize(next + kPageSize);
    base::StoreLe(Entry(table, index), (base_ + next) | table_flags_);
    return next;
  }

  const uint64_t base_;
  const uint64_t c_;
  const uint64_t table_flags_;
  std::vector<uint8_t> bytes_;
};

}  // namespace

std::vector<uint8_t> BuildBootGdt() {
  const uint64_t entries[] = {0, 0, kCode64, kData, kBusyTss, 0};
  std::vector<uint8_t> bytes(sizeof(entries));
  for (size_t i = 0; i < std::size(entries); ++i) {
    base::StoreLe(bytes.data() + i * sizeof(uint64_t), entries[i]);
  }
  return bytes;
}

absl::StatusOr<std::vector<uint8_t>> BuildPageTables(
    const PageTableOptions& options, absl::Span<const PageMapping> mappings) {
  uint64_t limit =
      options.c_bit.has_value() && *options.c_bit >= 32 && *options.c_bit <= 51
          ? uint64_t{1} << *options.c_bit
          : kAddressMask;
  if (!options.tables.IsPageAligned() ||
      options.tables.value() > limit - kMaxPageTableBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("page tables at ", options.tables.ToString(),
                     ": not page-aligned, or too high"));
  }
  for (const PageMapping& mapping : mappings) {
    RETURN_IF_ERROR(CheckMapping(mapping));
  }
  RETURN_IF_ERROR(CheckCBit(options, mappings));
  Builder builder(options);
  for (const PageMapping& mapping : mappings) {
    RETURN_IF_ERROR(builder.Map(mapping));
  }
  return std::move(builder).Take();
}

std::vector<PageMapping> IdentityMappings(uint64_t size, uint64_t plain_size) {
  plain_size = std::min(plain_size, size);
  std::vector<PageMapping> mappings;
  if (plain_size > 0) mappings.push_back({.size = plain_size});
  if (plain_size < size) {
    mappings.push_back({.virtual_address = plain_size,
                        .physical = memory::GuestAddress(plain_size),
                        .size = size - plain_size,
                        .encrypted = true});
  }
  return mappings;
}

absl::StatusOr<uint64_t> PageTableBytes(
    absl::Span<const PageMapping> mappings) {
  std::vector<PageMapping> plain(mappings.begin(), mappings.end());
  for (PageMapping& mapping : plain) mapping.encrypted = false;
  ASSIGN_OR_RETURN(std::vector<uint8_t> bytes, BuildPageTables({}, plain));
  return bytes.size();
}

}  // namespace cloister::vcpu
