// SPDX-License-Identifier: Apache-2.0
#include "cloister/vcpu/regs.h"

#include <map>

#include "cloister/vcpu/boot_tables.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::vcpu {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr LongModeEntry kEntry = {.rip = 0x1000000,
                                  .rsi = 0x7000,
                                  .rsp = 0x8000,
                                  .rdi = 0x55,
                                  .cr3 = 0x9000 | uint64_t{1} << 39,
                                  .gdt = 0x500,
                                  .gdt_size = 48};

kvm::SpecialRegisters Reset() {
  kvm::SpecialRegisters reset;
  reset.apic_base = 0xfee00900;  // Boot processor, enabled.
  reset.cr8 = 3;
  reset.cs.base = 0xffff0000;
  reset.cs.selector = 0xf000;
  return reset;
}

TEST(RegsTest, LongModeRegisters) {
  kvm::Registers registers = LongModeRegisters(kEntry);
  EXPECT_EQ(registers.rip, 0x1000000u);
  EXPECT_EQ(registers.rsi, 0x7000u);
  EXPECT_EQ(registers.rsp, 0x8000u);
  EXPECT_EQ(registers.rdi, 0x55u);
  EXPECT_EQ(registers.rax | registers.rbx | registers.rbp | registers.r15, 0u);
  EXPECT_EQ(registers.rflags, 2u) << "interrupts off";
}

TEST(RegsTest, LongModeIsOn) {
  kvm::SpecialRegisters special =
      LongModeSpecialRegisters(kEntry, Reset(), true);
  EXPECT_EQ(special.cr0, 0x80010033u);
  EXPECT_EQ(special.cr3, kEntry.cr3);
  EXPECT_NE(special.cr4 & 1 << 5, 0u) << "PAE";
  EXPECT_EQ(special.efer & 0x500, 0x500u) << "LME and LMA";
  EXPECT_EQ(special.gdt.base, 0x500u);
  EXPECT_EQ(special.gdt.limit, 47u);
  EXPECT_EQ(special.idt.limit, 0u);
  EXPECT_EQ(special.cr8, 3u) << "the rest as it was";
}

// The hidden parts must be what the GDT's bytes would load.
TEST(RegsTest, SegmentsMatchTheGdt) {
  std::vector<uint8_t> gdt = BuildBootGdt();
  kvm::SpecialRegisters special =
      LongModeSpecialRegisters(kEntry, Reset(), true);
  EXPECT_EQ(special.cs.selector, 0x10);
  EXPECT_EQ(special.ds.selector, 0x18);
  EXPECT_EQ(special.ss.selector, 0x18);
  EXPECT_EQ(special.tr.selector, 0x20);
  for (const kvm::Segment& s : {special.cs, special.ds, special.es, special.fs,
                                special.gs, special.ss, special.tr}) {
    uint64_t descriptor = 0;
    memcpy(&descriptor, &gdt[s.selector], sizeof(descriptor));
    EXPECT_EQ(s.base, 0u);
    EXPECT_EQ(s.type, descriptor >> 40 & 0xf);
    EXPECT_EQ(s.non_system, descriptor >> 44 & 1);
    EXPECT_EQ(s.dpl, descriptor >> 45 & 3);
    EXPECT_EQ(s.present, descriptor >> 47 & 1);
    EXPECT_EQ(s.long_mode, descriptor >> 53 & 1);
    EXPECT_EQ(s.default_size, descriptor >> 54 & 1);
    EXPECT_EQ(s.granularity, descriptor >> 55 & 1);
    uint32_t limit = (descriptor & 0xffff) | (descriptor >> 32 & 0xf0000);
    if (s.granularity) limit = limit << 12 | 0xfff;
    EXPECT_EQ(s.limit, limit);
    EXPECT_EQ(s.unusable, 0);
  }
  EXPECT_EQ(special.ldt.unusable, 1);
}

TEST(RegsTest, ApicModes) {
  EXPECT_EQ(LongModeSpecialRegisters(kEntry, Reset(), true).apic_base,
            0xfee00d00u);
  EXPECT_EQ(LongModeSpecialRegisters(kEntry, Reset(), false).apic_base,
            0xfee00900u);
  kvm::SpecialRegisters reset = Reset();
  reset.apic_base = 0xfee00000;
  kvm::SpecialRegisters ap = ApplicationProcessorRegisters(reset, true);
  EXPECT_EQ(ap.apic_base, 0xfee00c00u);
  ap.apic_base = reset.apic_base;
  EXPECT_EQ(ap, reset) << "nothing else changes";
  EXPECT_EQ(ApicBase(0xfee00c00, false), 0xfee00800u);
}

TEST(RegsTest, FirmwareMsrs) {
  std::map<uint32_t, uint64_t> msrs;
  for (const kvm::MsrEntry& msr : BootMsrs()) msrs[msr.index] = msr.value;
  EXPECT_EQ(msrs[0x2ff], 0x806u);
  EXPECT_EQ(msrs[0x277], 0x0007040600070406u);
  EXPECT_EQ(msrs[0x1a0] & 1, 1u);
}

TEST(RegsTest, LocalInterrupts) {
  kvm::LapicState boot;
  SetLocalInterrupts(true, boot);
  EXPECT_EQ(boot.Read(0x350), 0x700u);
  EXPECT_EQ(boot.Read(0x360), 0x400u);
  kvm::LapicState other;
  SetLocalInterrupts(false, other);
  EXPECT_EQ(other.Read(0x350), 0x10700u);
  EXPECT_EQ(other.Read(0x360), 0x400u);
}

TEST(RegsTest, DumpNamesEverything) {
  kvm::Registers registers = LongModeRegisters(kEntry);
  registers.r13 = 0xabcdef;
  kvm::SpecialRegisters special =
      LongModeSpecialRegisters(kEntry, Reset(), true);
  special.cr2 = 0xdead000;
  std::string dump = DescribeRegisters(registers, special);
  EXPECT_THAT(dump, AllOf(HasSubstr("rip=0000000001000000 "),
                          HasSubstr("rflags=0000000000000002 "),
                          HasSubstr("r13=0000000000abcdef "),
                          HasSubstr("cr2=000000000dead000 "),
                          HasSubstr("cr3=0000008000009000\n"),
                          HasSubstr("efer=0000000000000d00\n"),
                          HasSubstr("cs=0010 base=0000000000000000 "
                                    "limit=ffffffff type=b dpl=0 64-bit\n"),
                          HasSubstr("ss=0018 "), HasSubstr("tr=0020 "),
                          HasSubstr("gdt base=0000000000000500 limit=002f\n")));
  for (const char* name :
       {"rax=", "rbx=", "rcx=", "rdx=",       "rsi=", "rdi=",     "rbp=",
        "rsp=", "r8=",  "r9=",  "r10=",       "r11=", "r12=",     "r14=",
        "r15=", "cr0=", "cr4=", "apic_base=", "ldt=", "idt base="}) {
    EXPECT_THAT(dump, HasSubstr(name));
  }
}

}  // namespace
}  // namespace cloister::vcpu
