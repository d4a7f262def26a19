// SPDX-License-Identifier: Apache-2.0
#include "cloister/boot/acpi.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "cloister/base/bytes.h"
#include "cloister/base/status_macros.h"
#include "cloister/boot/acpi_dsdt.h"
#include "cloister/boot/aml.h"

namespace cloister::boot {
namespace {

using ::cloister::base::StoreLe;
using ::cloister::memory::GuestAddress;
using Table = std::vector<uint8_t>;

constexpr size_t kHeaderSize = 36;
constexpr size_t kRsdpSize = 36;
constexpr size_t kFacsSize = 64;
constexpr size_t kFadtSize = 276;
constexpr char kOemId[] = "CLOIST";
constexpr char kOemTableId[] = "CLOISTER";
constexpr char kCreator[] = "CLST";

// FADT flags (ACPI 6.5, table 5.10).
constexpr uint32_t kWbinvd = 1 << 0;
constexpr uint32_t kProcC1 = 1 << 2;
constexpr uint32_t kNoFixedPowerButton = 1 << 4;
constexpr uint32_t kNoFixedSleepButton = 1 << 5;
constexpr uint32_t kNoFixedRtc = 1 << 6;
constexpr uint32_t kTimerIs32Bit = 1 << 8;
constexpr uint32_t kResetRegister = 1 << 10;
constexpr uint32_t kHeadless = 1 << 12;
// IA-PC boot architecture flags (table 5.11).
constexpr uint16_t kLegacyDevices = 1 << 0;
constexpr uint16_t k8042 = 1 << 1;
constexpr uint16_t kNoVga = 1 << 2;
constexpr uint16_t kNoCmosRtc = 1 << 5;
// MADT: the machine has an 8259 as well. Entry flags.
constexpr uint32_t kPcAtCompatible = 1 << 0;
constexpr uint32_t kEnabled = 1 << 0;
constexpr uint16_t kLevelActiveHigh = 0xd;
constexpr uint32_t kLocalApicAddress = 0xfee00000;
// Processor UID and APIC id 255 mean "all" in 8-bit entries.
constexpr uint32_t kFirstX2ApicId = 255;
constexpr size_t kMaximumCpus = 1 << 16;
constexpr uint8_t kCenturyRegister = 0x32;

uint8_t Checksum(const uint8_t* bytes, size_t size) {
  uint8_t sum = 0;
  for (size_t i = 0; i < size; ++i) sum = static_cast<uint8_t>(sum + bytes[i]);
  return static_cast<uint8_t>(-sum);
}

void Append(Table* table, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) {
    table->push_back(static_cast<uint8_t>(value >> (8 * i)));
  }
}

// A table header with everything but length and checksum.
Table NewTable(absl::string_view signature, uint8_t revision) {
  Table table(kHeaderSize);
  std::memcpy(&table[0], signature.data(), 4);
  table[8] = revision;
  std::memcpy(&table[10], kOemId, 6);
  std::memcpy(&table[16], kOemTableId, 8);
  StoreLe<uint32_t>(&table[24], 1);
  std::memcpy(&table[28], kCreator, 4);
  StoreLe<uint32_t>(&table[32], 1);
  return table;
}

void Finish(Table* table) {
  StoreLe<uint32_t>(&(*table)[4], static_cast<uint32_t>(table->size()));
  (*table)[9] = 0;
  (*table)[9] = Checksum(table->data(), table->size());
}

// A Generic Address Structure for an I/O port (section 5.2.3.2).
void StoreGas(uint8_t* to, uint16_t port, uint8_t bytes, uint8_t access) {
  if (port == 0) return;
  to[0] = 1;  // System I/O.
  to[1] = static_cast<uint8_t>(bytes * 8);
  to[2] = 0;
  to[3] = access;  // 1: byte, 2: word, 3: dword.
  StoreLe<uint64_t>(to + 4, port);
}

absl::Status Invalid(absl::string_view problem) {
  return absl::InvalidArgumentError(absl::StrCat("ACPI: ", problem));
}

bool PortsFit(uint16_t port, uint32_t length) {
  return uint32_t{port} + length <= uint32_t{1} << 16;
}

absl::Status CheckPmPorts(const AcpiPmPorts& pm) {
  if (pm.pm1_event == 0 || pm.pm1_control == 0) {
    return Invalid("the PM1 event and control ports are required");
  }
  if (!PortsFit(pm.pm1_event, 4) || !PortsFit(pm.pm1_control, 2) ||
      !PortsFit(pm.pm_timer, 4) || !PortsFit(pm.gpe0, pm.gpe0_length)) {
    return Invalid("power management ports wrap");
  }
  if (pm.gpe0_length % 2 != 0 || pm.gpe0_length > 30 ||
      (pm.gpe0 != 0) != (pm.gpe0_length != 0)) {
    return Invalid(absl::StrCat("GPE block of ", pm.gpe0_length,
                                " bytes at port ", pm.gpe0));
  }
  return absl::OkStatus();
}

absl::Status Check(const AcpiOptions& options) {
  RETURN_IF_ERROR(CheckPmPorts(options.pm));
  if (options.sci_irq == 0 || options.sci_irq > 15) {
    return Invalid(absl::StrCat("SCI on interrupt ", options.sci_irq));
  }
  if (options.s5_sleep_type > 7) {
    return Invalid(absl::StrCat("sleep type ", options.s5_sleep_type,
                                " does not fit 3 bits"));
  }
  if (options.apic_ids.empty() || options.apic_ids.size() > kMaximumCpus) {
    return Invalid(absl::StrCat(options.apic_ids.size(), " processors"));
  }
  std::set<uint32_t> ids;
  for (uint32_t id : options.apic_ids) {
    if (id == UINT32_MAX || !ids.insert(id).second) {
      return Invalid(absl::StrCat("APIC id ", id,
                                  " is reserved or given to two processors"));
    }
  }
  return CheckDsdtOptions(options);
}

uint32_t FadtFlags(const AcpiOptions& options) {
  uint32_t flags =
      kWbinvd | kProcC1 | kNoFixedSleepButton | kNoFixedRtc | kHeadless;
  if (!options.power_button) flags |= kNoFixedPowerButton;
  if (options.pm.pm_timer != 0) flags |= kTimerIs32Bit;
  if (options.reset) flags |= kResetRegister;
  return flags;
}

uint16_t BootFlags(const AcpiOptions& options) {
  uint16_t flags = kNoVga;
  if (!options.serial_ports.empty()) flags |= kLegacyDevices;
  if (options.i8042) flags |= k8042;
  if (!options.rtc) flags |= kNoCmosRtc;
  return flags;
}

Table BuildFadt(const AcpiOptions& options, uint64_t facs, uint64_t dsdt) {
  Table table = NewTable("FACP", 6);
  table.resize(kFadtSize);
  uint8_t* at = table.data();
  const AcpiPmPorts& pm = options.pm;
  StoreLe<uint32_t>(at + 36, static_cast<uint32_t>(facs));
  StoreLe<uint32_t>(at + 40, static_cast<uint32_t>(dsdt));
  StoreLe<uint16_t>(at + 46, options.sci_irq);
  // SMI_CMD stays 0: the machine is always in ACPI mode.
  StoreLe<uint32_t>(at + 56, pm.pm1_event);
  StoreLe<uint32_t>(at + 64, pm.pm1_control);
  StoreLe<uint32_t>(at + 76, pm.pm_timer);
  StoreLe<uint32_t>(at + 80, pm.gpe0);
  at[88] = 4;
  at[89] = 2;
  at[91] = pm.pm_timer != 0 ? 4 : 0;
  at[92] = pm.gpe0_length;
  StoreLe<uint16_t>(at + 96, 0xfff);  // No C2
  StoreLe<uint16_t>(at + 98, 0xfff);  // and no C3.
  at[108] = options.rtc ? kCenturyRegister : 0;
  StoreLe<uint16_t>(at + 109, BootFlags(options));
  StoreLe<uint32_t>(at + 112, FadtFlags(options));
  if (options.reset) {
    StoreGas(at + 116, options.reset->port, 1, 1);
    at[128] = options.reset->value;
  }
  at[131] = 5;  // Minor version.
  StoreLe<uint64_t>(at + 140, dsdt);
  StoreGas(at + 148, pm.pm1_event, 4, 2);
  StoreGas(at + 172, pm.pm1_control, 2, 2);
  StoreGas(at + 208, pm.pm_timer, 4, 3);
  StoreGas(at + 220, pm.gpe0, pm.gpe0_length, 1);
  Finish(&table);
  return table;
}

// No signature checksum and no OEM fields (section 5.2.10).
Table BuildFacs() {
  Table table(kFacsSize);
  std::memcpy(&table[0], "FACS", 4);
  StoreLe<uint32_t>(&table[4], kFacsSize);
  table[32] = 2;
  return table;
}

void AppendIoApic(const AcpiOptions& options, Table* table) {
  Append(table, 1, 1);  // I/O APIC.
  Append(table, 12, 1);
  Append(table, options.io_apic->id, 1);
  Append(table, 0, 1);
  Append(table, options.io_apic->address, 4);
  Append(table, options.io_apic->gsi_base, 4);
  auto override_source = [&](uint8_t source, uint32_t gsi, uint16_t flags) {
    Append(table, 2, 1);  // Interrupt source override, ISA.
    Append(table, 10, 1);
    Append(table, 0, 1);
    Append(table, source, 1);
    Append(table, gsi, 4);
    Append(table, flags, 2);
  };
  override_source(0, 2, 0);
  override_source(options.sci_irq, options.sci_irq, kLevelActiveHigh);
}

Table BuildMadt(const AcpiOptions& options) {
  Table table = NewTable("APIC", 5);
  Append(&table, kLocalApicAddress, 4);
  Append(&table, kPcAtCompatible, 4);
  bool x2apic = false;
  for (size_t uid = 0; uid < options.apic_ids.size(); ++uid) {
    uint32_t id = options.apic_ids[uid];
    if (id < kFirstX2ApicId && uid < kFirstX2ApicId) {
      Append(&table, 0, 1);  // Processor local APIC.
      Append(&table, 8, 1);
      Append(&table, uid, 1);
      Append(&table, id, 1);
      Append(&table, kEnabled, 4);
    } else {
      x2apic = true;
      Append(&table, 9, 1);  // Processor local x2APIC.
      Append(&table, 16, 1);
      Append(&table, 0, 2);
      Append(&table, id, 4);
      Append(&table, kEnabled, 4);
      Append(&table, uid, 4);
    }
  }
  if (options.io_apic) AppendIoApic(options, &table);
  Append(&table, 4, 1);  // Local APIC NMI: LINT1 of every processor.
  Append(&table, 6, 1);
  Append(&table, 0xff, 1);
  Append(&table, 0, 2);
  Append(&table, 1, 1);
  if (x2apic) {
    Append(&table, 10, 1);  // Local x2APIC NMI.
    Append(&table, 12, 1);
    Append(&table, 0, 2);
    Append(&table, UINT32_MAX, 4);
    Append(&table, 1, 1);
    Append(&table, 0, 3);
  }
  Finish(&table);
  return table;
}

Table BuildRsdp(uint64_t xsdt) {
  Table table(kRsdpSize);
  std::memcpy(&table[0], "RSD PTR ", 8);
  std::memcpy(&table[9], kOemId, 6);
  table[15] = 2;
  StoreLe<uint32_t>(&table[20], kRsdpSize);
  StoreLe<uint64_t>(&table[24], xsdt);
  table[8] = Checksum(table.data(), 20);
  table[32] = Checksum(table.data(), kRsdpSize);
  return table;
}

// Where `size` bytes go at the end of `block`, 64-byte aligned as the FACS must
// be.
size_t Reserve(Table* block, size_t size) {
  size_t offset = base::AlignUp(block->size(), 64);
  block->resize(offset + size);
  return offset;
}

void Put(Table* block, size_t offset, const Table& table) {
  std::copy(table.begin(), table.end(), block->begin() + offset);
}

}  // namespace

absl::StatusOr<AcpiTables> BuildAcpiTables(const AcpiOptions& options,
                                           GuestAddress base) {
  RETURN_IF_ERROR(Check(options));
  Table dsdt = NewTable("DSDT", 2);
  aml::Code code = BuildDsdtCode(options);
  dsdt.insert(dsdt.end(), code.begin(), code.end());
  Finish(&dsdt);
  Table madt = BuildMadt(options);

  AcpiTables tables;
  Table& block = tables.bytes;
  size_t rsdp_at = Reserve(&block, kRsdpSize);
  size_t facs_at = Reserve(&block, kFacsSize);
  size_t xsdt_at = Reserve(&block, kHeaderSize + 2 * sizeof(uint64_t));
  size_t fadt_at = Reserve(&block, kFadtSize);
  size_t madt_at = Reserve(&block, madt.size());
  size_t dsdt_at = Reserve(&block, dsdt.size());
  block.resize(base::AlignUp(block.size(), memory::kPageSize));
  // The FADT has 32-bit pointers.
  if (!base.IsPageAligned() || base.value() > UINT32_MAX ||
      block.size() > UINT32_MAX - base.value()) {
    return Invalid(absl::StrCat("tables of ", block.size(), " bytes at ",
                                base.ToString(),
                                " are not page-aligned below 4 GiB"));
  }
  uint64_t start = base.value();
  Table xsdt = NewTable("XSDT", 1);
  Append(&xsdt, start + fadt_at, 8);
  Append(&xsdt, start + madt_at, 8);
  Finish(&xsdt);
  Put(&block, rsdp_at, BuildRsdp(start + xsdt_at));
  Put(&block, facs_at, BuildFacs());
  Put(&block, xsdt_at, xsdt);
  Put(&block, fadt_at, BuildFadt(options, start + facs_at, start + dsdt_at));
  Put(&block, madt_at, madt);
  Put(&block, dsdt_at, dsdt);
  tables.rsdp = GuestAddress(start + rsdp_at);
  return tables;
}

}  // namespace cloister::boot
