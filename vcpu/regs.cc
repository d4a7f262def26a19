// SPDX-License-Identifier: Apache-2.0
#include "cloister/vcpu/regs.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "cloister/vcpu/boot_tables.h"

namespace cloister::vcpu {
namespace {

// SDM vol. 3A 2.5.
constexpr uint64_t kCr0Pe = 1 << 0;
constexpr uint64_t kCr0Mp = 1 << 1;
constexpr uint64_t kCr0Et = 1 << 4;
constexpr uint64_t kCr0Ne = 1 << 5;
constexpr uint64_t kCr0Wp = 1 << 16;
constexpr uint64_t kCr0Pg = uint64_t{1} << 31;
constexpr uint64_t kCr4Pae = 1 << 5;
constexpr uint64_t kCr4Osfxsr = 1 << 9;
constexpr uint64_t kCr4Osxmmexcpt = 1 << 10;
constexpr uint64_t kEferLme = 1 << 8;
constexpr uint64_t kEferLma = 1 << 10;
constexpr uint64_t kEferNxe = 1 << 11;
constexpr uint64_t kRflagsReserved = 1 << 1;

constexpr uint64_t kApicBaseX2Apic = 1 << 10;
constexpr uint64_t kApicBaseEnable = 1 << 11;

constexpr uint32_t kMsrMiscEnable = 0x1a0;
constexpr uint32_t kMsrPat = 0x277;
constexpr uint32_t kMsrMtrrDefType = 0x2ff;

constexpr uint32_t kLvtLint0 = 0x350;
constexpr uint32_t kLvtLint1 = 0x360;
constexpr uint32_t kLvtNmi = 4 << 8;
constexpr uint32_t kLvtExtInt = 7 << 8;
constexpr uint32_t kLvtMasked = 1 << 16;

kvm::Segment CodeSegment() {
  kvm::Segment segment;
  segment.limit = 0xffffffff;
  segment.selector = kBootCodeSelector;
  segment.type = 0xb;  // Execute, read, accessed.
  segment.present = 1;
  segment.non_system = 1;
  segment.long_mode = 1;
  segment.granularity = 1;
  return segment;
}

kvm::Segment DataSegment() {
  kvm::Segment segment;
  segment.limit = 0xffffffff;
  segment.selector = kBootDataSelector;
  segment.type = 0x3;  // Read, write, accessed.
  segment.present = 1;
  segment.default_size = 1;
  segment.non_system = 1;
  segment.granularity = 1;
  return segment;
}

// Long mode needs a task register with a busy TSS, or VMX refuses to enter.
kvm::Segment TaskSegment() {
  kvm::Segment segment;
  segment.limit = 0x67;
  segment.selector = kBootTaskSelector;
  segment.type = 0xb;
  segment.present = 1;
  return segment;
}

kvm::Segment NoSegment() {
  kvm::Segment segment;
  segment.type = 0x2;
  segment.unusable = 1;
  return segment;
}

std::string Hex16(uint64_t value) {
  return absl::StrCat(absl::Hex(value, absl::kZeroPad16));
}

void AppendLine(
    std::string& out,
    std::initializer_list<std::pair<absl::string_view, uint64_t>> registers) {
  absl::string_view separator = "";
  for (const auto& [name, value] : registers) {
    absl::StrAppend(&out, separator, name, "=", Hex16(value));
    separator = " ";
  }
  out.push_back('\n');
}

void AppendSegment(std::string& out, absl::string_view name,
                   const kvm::Segment& segment) {
  absl::StrAppend(
      &out, name, "=", absl::Hex(segment.selector, absl::kZeroPad4),
      " base=", Hex16(segment.base),
      " limit=", absl::Hex(segment.limit, absl::kZeroPad8),
      " type=", absl::Hex(segment.type), " dpl=", segment.dpl,
      segment.long_mode != 0 ? " 64-bit" : "",
      segment.unusable != 0 || segment.present == 0 ? " unusable" : "", "\n");
}

void AppendTable(std::string& out, absl::string_view name,
                 const kvm::DescriptorTable& table) {
  absl::StrAppend(&out, name, " base=", Hex16(table.base),
                  " limit=", absl::Hex(table.limit, absl::kZeroPad4), "\n");
}

}  // namespace

kvm::Registers LongModeRegisters(const LongModeEntry& entry) {
  kvm::Registers registers;
  registers.rip = entry.rip;
  registers.rsi = entry.rsi;
  registers.rdi = entry.rdi;
  registers.rsp = entry.rsp;
  registers.rflags = kRflagsReserved;
  return registers;
}

kvm::SpecialRegisters LongModeSpecialRegisters(
    const LongModeEntry& entry, const kvm::SpecialRegisters& reset,
    bool x2apic) {
  kvm::SpecialRegisters special = reset;
  special.cs = CodeSegment();
  special.ds = special.es = special.fs = special.gs = special.ss =
      DataSegment();
  special.tr = TaskSegment();
  special.ldt = NoSegment();
  special.gdt = kvm::DescriptorTable();
  special.gdt.base = entry.gdt;
  special.gdt.limit =
      entry.gdt_size == 0 ? 0 : static_cast<uint16_t>(entry.gdt_size - 1);
  special.idt = kvm::DescriptorTable();
  special.cr0 = kCr0Pg | kCr0Wp | kCr0Ne | kCr0Et | kCr0Mp | kCr0Pe;
  special.cr2 = 0;
  special.cr3 = entry.cr3;
  special.cr4 = kCr4Pae | kCr4Osfxsr | kCr4Osxmmexcpt;
  special.efer = kEferLme | kEferLma | kEferNxe;
  special.apic_base = ApicBase(reset.apic_base, x2apic);
  return special;
}

kvm::SpecialRegisters ApplicationProcessorRegisters(
    const kvm::SpecialRegisters& reset, bool x2apic) {
  kvm::SpecialRegisters special = reset;
  special.apic_base = ApicBase(reset.apic_base, x2apic);
  return special;
}

uint64_t ApicBase(uint64_t apic_base, bool x2apic) {
  apic_base |= kApicBaseEnable;
  return x2apic ? apic_base | kApicBaseX2Apic : apic_base & ~kApicBaseX2Apic;
}

std::vector<kvm::MsrEntry> BootMsrs() {
  // SDM vol. 3A 11.11.2.1: MTRRs enabled, fixed ranges off, write-back.
  constexpr uint64_t kWriteBackByDefault = 0x806;
  // SDM vol. 3A table 11-12.
  constexpr uint64_t kPatAtReset = 0x0007040600070406;
  // Fast strings; no branch trace store, no precise event sampling.
  constexpr uint64_t kMiscEnable = 1 << 0 | 1 << 11 | 1 << 12;
  std::vector<kvm::MsrEntry> msrs(3);
  msrs[0].index = kMsrMtrrDefType;
  msrs[0].value = kWriteBackByDefault;
  msrs[1].index = kMsrPat;
  msrs[1].value = kPatAtReset;
  msrs[2].index = kMsrMiscEnable;
  msrs[2].value = kMiscEnable;
  return msrs;
}

void SetLocalInterrupts(bool is_boot_processor, kvm::LapicState& lapic) {
  lapic.Write(kLvtLint0,
              is_boot_processor ? kLvtExtInt : kLvtExtInt | kLvtMasked);
  lapic.Write(kLvtLint1, kLvtNmi);
}

std::string DescribeRegisters(const kvm::Registers& r,
                              const kvm::SpecialRegisters& s) {
  std::string out;
  AppendLine(out, {{"rip", r.rip}, {"rflags", r.rflags}, {"rsp", r.rsp}});
  AppendLine(out, {{"rax", r.rax}, {"rbx", r.rbx}, {"rcx", r.rcx}});
  AppendLine(out, {{"rdx", r.rdx}, {"rsi", r.rsi}, {"rdi", r.rdi}});
  AppendLine(out, {{"rbp", r.rbp}, {"r8", r.r8}, {"r9", r.r9}});
  AppendLine(out, {{"r10", r.r10}, {"r11", r.r11}, {"r12", r.r12}});
  AppendLine(out, {{"r13", r.r13}, {"r14", r.r14}, {"r15", r.r15}});
  AppendLine(out, {{"cr0", s.cr0}, {"cr2", s.cr2}, {"cr3", s.cr3}});
  AppendLine(out, {{"cr4", s.cr4}, {"cr8", s.cr8}, {"efer", s.efer}});
  AppendLine(out, {{"apic_base", s.apic_base}});
  AppendSegment(out, "cs", s.cs);
  AppendSegment(out, "ss", s.ss);
  AppendSegment(out, "ds", s.ds);
  AppendSegment(out, "es", s.es);
  AppendSegment(out, "fs", s.fs);
  AppendSegment(out, "gs", s.gs);
  AppendSegment(out, "tr", s.tr);
  AppendSegment(out, "ldt", s.ldt);
  AppendTable(out, "gdt", s.gdt);
  AppendTable(out, "idt", s.idt);
  return out;
}

}  // namespace cloister::vcpu
