// SPDX-License-Identifier: Apache-2.0
#include "cloister/boot/acpi_reader.h"

#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "cloister/base/bytes.h"
#include "cloister/base/status_macros.h"

namespace cloister::boot {
namespace {

using ::cloister::base::LoadLe;
using Bytes = absl::Span<const uint8_t>;
using Tables = std::map<std::string, std::vector<uint8_t>>;

constexpr size_t kHeaderSize = 36;

absl::Status Bad(absl::string_view text) {
  return absl::FailedPreconditionError(text);
}

bool SumsToZero(Bytes bytes) {
  uint8_t sum = 0;
  for (uint8_t byte : bytes) sum = static_cast<uint8_t>(sum + byte);
  return sum == 0;
}

class Reader {
 public:
  Reader(Bytes memory, uint64_t base) : memory_(memory), base_(base) {}

  absl::StatusOr<Bytes> Read(uint64_t address, uint64_t size) const {
    if (address < base_ || address - base_ > memory_.size() ||
        size > memory_.size() - (address - base_)) {
      return Bad(absl::StrCat("0x", absl::Hex(address), " is outside"));
    }
    return memory_.subspan(address - base_, size);
  }

  absl::StatusOr<Bytes> ReadRsdp(uint64_t address) const {
    ASSIGN_OR_RETURN(Bytes rsdp, Read(address, kHeaderSize));
    if (std::memcmp(rsdp.data(), "RSD PTR ", 8) != 0 || rsdp[15] < 2 ||
        LoadLe<uint32_t>(&rsdp[20]) != kHeaderSize) {
      return Bad("RSDP: signature, revision or length");
    }
    if (!SumsToZero(rsdp.subspan(0, 20)) || !SumsToZero(rsdp)) {
      return Bad("RSDP: checksum");
    }
    return rsdp;
  }

  // A table with the standard header.
  absl::StatusOr<Bytes> ReadTable(uint64_t address) const {
    ASSIGN_OR_RETURN(Bytes header, Read(address, kHeaderSize));
    ASSIGN_OR_RETURN(Bytes table, Read(address, LoadLe<uint32_t>(&header[4])));
    if (table.size() < kHeaderSize || !SumsToZero(table)) {
      return Bad(absl::StrCat("table at 0x", absl::Hex(address),
                              ": length or checksum"));
    }
    return table;
  }

 private:
  Bytes memory_;
  uint64_t base_;
};

std::string Signature(Bytes table) {
  return {table.begin(), table.begin() + 4};
}

absl::Status Keep(Bytes table, Tables* tables) {
  bool inserted =
      tables
          ->emplace(Signature(table),
                    std::vector<uint8_t>(table.begin(), table.end()))
          .second;
  return inserted ? absl::OkStatus() : Bad("a table appears twice");
}

// FACS and DSDT hang off the FADT.
absl::Status ReadFadtsTables(const Reader& reader, Tables* tables) {
  auto fadt = tables->find("FACP");
  if (fadt == tables->end()) return Bad("no FADT");
  if (fadt->second.size() != 276) return Bad("FADT: length");
  const uint8_t* at = fadt->second.data();
  uint64_t dsdt_address = LoadLe<uint64_t>(at + 140);
  if (dsdt_address != LoadLe<uint32_t>(at + 40)) return Bad("FADT: X_DSDT");
  ASSIGN_OR_RETURN(Bytes facs, reader.Read(LoadLe<uint32_t>(at + 36), 64));
  if (Signature(facs) != "FACS" || LoadLe<uint32_t>(&facs[4]) != 64 ||
      LoadLe<uint32_t>(at + 36) % 64 != 0) {
    return Bad("FACS");
  }
  ASSIGN_OR_RETURN(Bytes dsdt, reader.ReadTable(dsdt_address));
  if (Signature(dsdt) != "DSDT") return Bad("DSDT: signature");
  RETURN_IF_ERROR(Keep(facs, tables));
  return Keep(dsdt, tables);
}

}  // namespace

absl::StatusOr<Tables> ReadAcpiTables(Bytes memory, memory::GuestAddress base,
                                      memory::GuestAddress rsdp) {
  Reader reader(memory, base.value());
  Tables tables;
  ASSIGN_OR_RETURN(Bytes root, reader.ReadRsdp(rsdp.value()));
  RETURN_IF_ERROR(Keep(root, &tables));
  ASSIGN_OR_RETURN(Bytes xsdt, reader.ReadTable(LoadLe<uint64_t>(&root[24])));
  if (Signature(xsdt) != "XSDT") return Bad("XSDT: signature");
  RETURN_IF_ERROR(Keep(xsdt, &tables));
  for (size_t at = kHeaderSize; at + 8 <= xsdt.size(); at += 8) {
    ASSIGN_OR_RETURN(Bytes table,
                     reader.ReadTable(LoadLe<uint64_t>(&xsdt[at])));
    RETURN_IF_ERROR(Keep(table, &tables));
  }
  RETURN_IF_ERROR(ReadFadtsTables(reader, &tables));
  return tables;
}

}  // namespace cloister::boot
