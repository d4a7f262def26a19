// SPDX-License-Identifier: Apache-2.0
#include "cloister/kvm/irq.h"

#include <map>
#include <set>

#include "gtest/gtest.h"

namespace cloister::kvm {
namespace {

TEST(Msi, AddressesOneProcessor) {
  Msi low = Msi::ToProcessor(3, 0x41);
  EXPECT_EQ(low.address, 0xfee03000u);
  EXPECT_EQ(low.data, 0x41u);
}

// Ids beyond 255 put their high bits where KVM's x2APIC API wants them.
TEST(Msi, AddressesProcessorsBeyond255) {
  Msi high = Msi::ToProcessor(0x12345, 0x30);
  EXPECT_EQ(high.address, 0x0001'2300'fee4'5000u);
}

TEST(DefaultIrqchipRoutes, CoverEveryPinOnce) {
  std::map<uint32_t, std::set<IrqchipPin::Chip>> chips;
  for (const Route& route : DefaultIrqchipRoutes()) {
    const auto& pin = std::get<IrqchipPin>(route.target);
    EXPECT_TRUE(chips[route.gsi.value()].insert(pin.chip).second);
    switch (pin.chip) {
      case IrqchipPin::Chip::kIoapic:
      case IrqchipPin::Chip::kPicMaster:
        EXPECT_EQ(pin.pin, route.gsi.value());
        break;
      case IrqchipPin::Chip::kPicSlave:
        EXPECT_EQ(pin.pin + 8, route.gsi.value());
        break;
    }
  }
  ASSERT_EQ(chips.size(), 24u);
  EXPECT_EQ(chips[4], (std::set<IrqchipPin::Chip>{IrqchipPin::Chip::kPicMaster,
                                                  IrqchipPin::Chip::kIoapic}));
  EXPECT_EQ(chips[15], (std::set<IrqchipPin::Chip>{IrqchipPin::Chip::kPicSlave,
                                                   IrqchipPin::Chip::kIoapic}));
  EXPECT_EQ(chips[16], (std::set<IrqchipPin::Chip>{IrqchipPin::Chip::kIoapic}));
}

TEST(IoEvent, DescribesItself) {
  IoEvent event{IoEvent::Space::kMmio, 0xd0000000, 4, 1};
  EXPECT_EQ(event.ToString(), "mmio 0xd0000000+4 value 0x1");
  event = {IoEvent::Space::kPio, 0x3f8, 0, {}};
  EXPECT_EQ(event.ToString(), "pio 0x3f8+0");
}

}  // namespace
}  // namespace cloister::kvm
