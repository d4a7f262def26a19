// SPDX-License-Identifier: Apache-2.0
#include "cloister/boot/aml.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::boot::aml {
namespace {

using ::testing::ElementsAre;

TEST(AmlTest, IntegersUseTheShortestForm) {
  EXPECT_THAT(Integer(0), ElementsAre(0x00));
  EXPECT_THAT(Integer(1), ElementsAre(0x01));
  EXPECT_THAT(Integer(2), ElementsAre(0x0a, 0x02));
  EXPECT_THAT(Integer(0xff), ElementsAre(0x0a, 0xff));
  EXPECT_THAT(Integer(0x100), ElementsAre(0x0b, 0x00, 0x01));
  EXPECT_THAT(Integer(0x10000), ElementsAre(0x0c, 0x00, 0x00, 0x01, 0x00));
  EXPECT_THAT(Integer(0x100000000),
              ElementsAre(0x0e, 0, 0, 0, 0, 0x01, 0, 0, 0));
}

TEST(AmlTest, StringsAndIds) {
  EXPECT_THAT(String("ab"), ElementsAre(0x0d, 'a', 'b', 0));
  // The id that the ACPI specification uses as an example.
  EXPECT_THAT(EisaId("PNP0A03"), ElementsAre(0x0c, 0x41, 0xd0, 0x0a, 0x03));
  EXPECT_THAT(EisaId("PNP0C0F"), ElementsAre(0x0c, 0x41, 0xd0, 0x0c, 0x0f));
}

// A scope's length field for a body of `size` bytes after the name.
std::vector<uint8_t> LengthBytes(size_t size) {
  Code scope = Scope("TEST", Code(size, 0xaa));
  return {scope.begin() + 1, scope.end() - static_cast<long>(size) - 4};
}

TEST(AmlTest, PackageLengthsCountThemselves) {
  EXPECT_THAT(LengthBytes(0), ElementsAre(5));
  EXPECT_THAT(LengthBytes(58), ElementsAre(63));
  // 0x41 = 4 + 59 + 2, low nibble first.
  EXPECT_THAT(LengthBytes(59), ElementsAre(0x41, 0x04));
  EXPECT_THAT(LengthBytes(0xfff - 6), ElementsAre(0x4f, 0xff));
  // 0x1001 = 4 + (0x1000 - 6) + 3.
  EXPECT_THAT(LengthBytes(0x1000 - 6), ElementsAre(0x81, 0x00, 0x01));
  EXPECT_THAT(LengthBytes(0xfffff - 7), ElementsAre(0x8f, 0xff, 0xff));
  EXPECT_THAT(LengthBytes(0x100000 - 7), ElementsAre(0xc1, 0x00, 0x00, 0x01));
}

TEST(AmlTest, NamesScopesAndDevices) {
  EXPECT_THAT(Name("_UID", Integer(1)),
              ElementsAre(0x08, '_', 'U', 'I', 'D', 0x01));
  EXPECT_THAT(Scope("\\_SB_", {}),
              ElementsAre(0x10, 6, '\\', '_', 'S', 'B', '_'));
  EXPECT_THAT(Device("COM1", {}),
              ElementsAre(0x5b, 0x82, 5, 'C', 'O', 'M', '1'));
  EXPECT_THAT(Package({Integer(0), Integer(7)}),
              ElementsAre(0x12, 5, 2, 0x00, 0x0a, 0x07));
}

TEST(AmlTest, SmallResources) {
  EXPECT_THAT(Io(0x3f8, 8), ElementsAre(0x47, 1, 0xf8, 0x03, 0xf8, 0x03, 1, 8));
  EXPECT_THAT(Irq(4), ElementsAre(0x22, 0x10, 0x00));
  EXPECT_THAT(Irq(15), ElementsAre(0x22, 0x00, 0x80));
  EXPECT_THAT(ResourceTemplate(Irq(4)),
              ElementsAre(0x11, 8, 0x0a, 5, 0x22, 0x10, 0x00, 0x79, 0x00));
}

TEST(AmlTest, LargeResources) {
  EXPECT_THAT(Interrupt(20, /*level=*/true),
              ElementsAre(0x89, 6, 0, 0x01, 1, 20, 0, 0, 0));
  EXPECT_THAT(Interrupt(20, /*level=*/false),
              ElementsAre(0x89, 6, 0, 0x03, 1, 20, 0, 0, 0));
  EXPECT_THAT(Memory32(0xd0000000, 0x200),
              ElementsAre(0x86, 9, 0, 1, 0, 0, 0, 0xd0, 0, 2, 0, 0));
  EXPECT_THAT(BusRange(0, 255), ElementsAre(0x88, 13, 0, 2, 0x0c, 0, 0, 0, 0, 0,
                                            255, 0, 0, 0, 0, 1));
  EXPECT_THAT(IoWindow(0x1000, 0xffff),
              ElementsAre(0x88, 13, 0, 1, 0x0c, 3, 0, 0, 0, 0x10, 0xff, 0xff, 0,
                          0, 0, 0xf0));
}

TEST(AmlTest, MemoryWindowsWidenWhenTheyMust) {
  EXPECT_EQ(MemoryRange(0xc0000000, 0xffffffff, true)[0], 0x87);
  EXPECT_EQ(MemoryRange(0xc0000000, 0xffffffff, true).size(), 26u);
  EXPECT_EQ(MemoryRange(0xc0000000, 0x100000000, true)[0], 0x8a);
  EXPECT_EQ(MemoryRange(0xc0000000, 0x100000000, true).size(), 46u);
  EXPECT_EQ(MemoryRange(0, 1, true)[4], 0x0c);
  EXPECT_EQ(MemoryRange(0, 1, false)[4], 0x0d);
}

}  // namespace
}  // namespace cloister::boot::aml
