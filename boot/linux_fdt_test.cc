// SPDX-License-Identifier: Apache-2.0
#include "cloister/boot/linux_fdt.h"

#include <libfdt.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "cloister/base/status_matchers.h"
#include "cloister/memory/guest_address.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::boot {
namespace {

using ::cloister::base::StatusIs;
using ::cloister::memory::GuestAddress;
using ::cloister::memory::GuestRange;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

FdtVirtioMmio Device(uint64_t address, uint32_t pin) {
  return {.registers = *GuestRange::Create(GuestAddress(address), 0x200),
          .pin = pin};
}

// The tree as libfdt reads it.
class LinuxFdtTest : public ::testing::Test {
 protected:
  void Build(const LinuxFdtOptions& options) {
    ASSERT_OK_AND_ASSIGN(tree_, BuildLinuxFdt(options));
    ASSERT_EQ(fdt_check_full(tree_.data(), tree_.size()), 0);
  }
  int Node(const char* path) const {
    const int node = fdt_path_offset(tree_.data(), path);
    EXPECT_GE(node, 0) << path;
    return node;
  }
  std::vector<uint32_t> Cells(const char* path, const char* name) const {
    int size = 0;
    const auto* value = static_cast<const fdt32_t*>(
        fdt_getprop(tree_.data(), Node(path), name, &size));
    std::vector<uint32_t> cells;
    for (int i = 0; i < size / 4; ++i) cells.push_back(fdt32_to_cpu(value[i]));
    return cells;
  }
  bool Is(const char* path, const char* compatible) const {
    return fdt_node_check_compatible(tree_.data(), Node(path), compatible) == 0;
  }

  std::vector<uint8_t> tree_;
};

TEST_F(LinuxFdtTest, NamesEachProcessorByItsApicId) {
  Build({.apic_ids = {0, 2, 300}});
  EXPECT_THAT(Cells("/cpus", "#address-cells"), ElementsAre(1));
  EXPECT_THAT(Cells("/cpus", "#size-cells"), ElementsAre(0));
  EXPECT_THAT(Cells("/cpus/cpu@0", "reg"), ElementsAre(0));
  EXPECT_THAT(Cells("/cpus/cpu@2", "reg"), ElementsAre(2));
  EXPECT_THAT(Cells("/cpus/cpu@12c", "reg"), ElementsAre(300));
  EXPECT_STREQ(static_cast<const char*>(fdt_getprop(
                   tree_.data(), Node("/cpus/cpu@2"), "device_type", nullptr)),
               "cpu");
}

TEST_F(LinuxFdtTest, EveryInterruptGoesToTheIoApic) {
  Build({.apic_ids = {0},
         .virtio_mmio = {Device(0xd2000000, 16), Device(0xd2001000, 23)}});
  const char io_apic[] = "/interrupt-controller@fec00000";
  EXPECT_TRUE(Is(io_apic, "intel,ce4100-ioapic"));
  EXPECT_THAT(Cells(io_apic, "reg"), ElementsAre(0, 0xfec00000, 0, 0x1000));
  EXPECT_THAT(Cells(io_apic, "#interrupt-cells"), ElementsAre(2));
  EXPECT_EQ(Cells("/", "interrupt-parent"), Cells(io_apic, "phandle"));
  EXPECT_TRUE(Is("/lapic@fee00000", "intel,ce4100-lapic"));

  EXPECT_TRUE(Is("/virtio_mmio@d2000000", "virtio,mmio"));
  EXPECT_THAT(Cells("/virtio_mmio@d2000000", "reg"),
              ElementsAre(0, 0xd2000000, 0, 0x200));
  EXPECT_THAT(Cells("/virtio_mmio@d2000000", "interrupts"), ElementsAre(16, 1))
      << "level, active high";
  EXPECT_THAT(Cells("/virtio_mmio@d2001000", "interrupts"), ElementsAre(23, 1));
}

TEST_F(LinuxFdtTest, AMachineThatCannotBeIsRefused) {
  EXPECT_THAT(BuildLinuxFdt({}), StatusIs(absl::StatusCode::kInvalidArgument,
                                          HasSubstr("no processor")));
  EXPECT_THAT(
      BuildLinuxFdt({.apic_ids = {3, 3}}),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("APIC id 3")));
  EXPECT_THAT(
      BuildLinuxFdt({.apic_ids = {0},
                     .virtio_mmio = {Device(0x1000, 1), Device(0x1000, 2)}}),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("two devices")));
}

}  // namespace
}  // namespace cloister::boot
