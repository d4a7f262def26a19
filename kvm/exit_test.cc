// SPDX-License-Identifier: Apache-2.0
#include "cloister/kvm/exit.h"

#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::kvm {
namespace {

using ::testing::StartsWith;

TEST(ExitName, NamesEveryKnownNumberOnce) {
  std::set<std::string> names;
  for (uint32_t number = 0; number <= 43; ++number) {
    std::string name = ExitName(number);
    EXPECT_THAT(name, StartsWith("KVM_EXIT_"));
    EXPECT_EQ(name.find('<'), std::string::npos) << name;
    EXPECT_TRUE(names.insert(name).second) << name;
  }
  EXPECT_EQ(ExitName(8), "KVM_EXIT_SHUTDOWN");
  EXPECT_EQ(ExitName(17), "KVM_EXIT_INTERNAL_ERROR");
  EXPECT_EQ(ExitName(37), "KVM_EXIT_NOTIFY");
  EXPECT_EQ(ExitName(39), "KVM_EXIT_MEMORY_FAULT");
}

TEST(ExitName, SaysSoBeyondTheKnownOnes) {
  EXPECT_EQ(ExitName(44), "KVM_EXIT_<44>, not known to this build");
  EXPECT_EQ(ExitName(0xffffffff),
            "KVM_EXIT_<4294967295>, not known to this build");
}

TEST(DescribeExit, SaysWhatHelps) {
  using memory::GuestAddress;
  uint8_t byte = 0;
  EXPECT_EQ(DescribeExit(IoExit{IoExit::Direction::kOut, 0x3f8, 1, 1, &byte}),
            "KVM_EXIT_IO: out of 1 byte to port 0x3f8");
  EXPECT_EQ(DescribeExit(IoExit{IoExit::Direction::kIn, 0x1f0, 2, 256, &byte}),
            "KVM_EXIT_IO: in of 2 bytes x 256 from port 0x1f0");
  EXPECT_EQ(DescribeExit(MmioExit{GuestAddress(0xd0000010), 4, true, &byte}),
            "KVM_EXIT_MMIO: write of 4 bytes at GPA 0xd0000010");
  EXPECT_EQ(DescribeExit(HypercallExit{12, {0x1000, 2, 16}, true, nullptr}),
            "KVM_EXIT_HYPERCALL: number 12, args 0x1000 0x2 0x10");
  EXPECT_EQ(
      DescribeExit(MemoryFaultExit{GuestAddress(0x2000), 0x1000, 8, true}),
      "KVM_EXIT_MEMORY_FAULT: private access at GPA 0x2000 size 0x1000, flags "
      "0x8");
  EXPECT_EQ(DescribeExit(MsrExit{0xc0010015, true, 5, nullptr, nullptr,
                                 MsrExit::kUnknown}),
            "KVM_EXIT_X86_WRMSR: MSR 0xc0010015 = 0x5, unknown to KVM");
  EXPECT_EQ(
      DescribeExit(MsrExit{0x10, false, 0, nullptr, nullptr, MsrExit::kFilter}),
      "KVM_EXIT_X86_RDMSR: MSR 0x10, filtered");
  EXPECT_EQ(DescribeExit(HaltExit{}), "KVM_EXIT_HLT");
  EXPECT_EQ(DescribeExit(ShutdownExit{}), "KVM_EXIT_SHUTDOWN: triple fault");
  EXPECT_EQ(DescribeExit(InterruptWindowExit{}), "KVM_EXIT_IRQ_WINDOW_OPEN");
  EXPECT_EQ(DescribeExit(InterruptedExit{}), "KVM_EXIT_INTR");
  EXPECT_EQ(DescribeExit(SystemEventExit{3, 1, {0x77}}),
            "KVM_EXIT_SYSTEM_EVENT: type 3, crash, data 0x77");
  EXPECT_EQ(DescribeExit(FailEntryExit{0x80000021, 2}),
            "KVM_EXIT_FAIL_ENTRY: hardware reason 0x80000021 on host CPU 2");
  EXPECT_EQ(DescribeExit(DebugExit{1, 0x1000, 2, 3}),
            "KVM_EXIT_DEBUG: exception 1 at 0x1000, DR6 0x2, DR7 0x3");
  EXPECT_EQ(DescribeExit(ApicEoiExit{0x31}),
            "KVM_EXIT_IOAPIC_EOI: vector 0x31");
  EXPECT_EQ(DescribeExit(UnknownExit{0x55}),
            "KVM_EXIT_UNKNOWN: hardware reason 0x55");
  EXPECT_EQ(DescribeExit(OtherExit{34}), "KVM_EXIT_XEN");
}

TEST(InternalErrorExit, ShowsTheInstruction) {
  InternalErrorExit exit;
  exit.suberror = InternalErrorExit::kEmulation;
  exit.count = 3;
  exit.data = {1, 0x0000'0000'0aa2'0f03, 0};
  EXPECT_EQ(exit.InstructionBytes(), "0f a2 0a");
  EXPECT_EQ(DescribeExit(exit),
            "KVM_EXIT_INTERNAL_ERROR: suberror 1, instruction emulation failed")
      << "and not which instruction";
}

TEST(InternalErrorExit, DoesNotTrustTheLengthByte) {
  InternalErrorExit exit;
  exit.suberror = InternalErrorExit::kEmulation;
  exit.count = 3;
  exit.data = {1, 0xff, 0};
  EXPECT_EQ(exit.InstructionBytes(),
            "00 00 00 00 00 00 00 00 00 00 00 00 00 00 00");
}

TEST(InternalErrorExit, WithoutInstructionShowsData) {
  InternalErrorExit exit;
  exit.suberror = InternalErrorExit::kEmulation;
  exit.count = 2;
  exit.data = {1, 2};
  EXPECT_EQ(exit.InstructionBytes(), "");
  exit.count = 3;
  exit.data[0] = 0;  // the flag says: no bytes
  EXPECT_EQ(exit.InstructionBytes(), "");
  exit.suberror = 3;
  EXPECT_EQ(DescribeExit(exit),
            "KVM_EXIT_INTERNAL_ERROR: suberror 3, exit during event delivery, "
            "data 0x0 0x2 0x0");
}

}  // namespace
}  // namespace cloister::kvm
