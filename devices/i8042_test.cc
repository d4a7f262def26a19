// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/i8042.h"

#include <array>
#include <vector>

#include "cloister/devices/fake_irq_line.h"
#include "gtest/gtest.h"

namespace cloister::devices {
namespace {

constexpr uint8_t kTranslated[] = {0x1d, 0x38, 0xe0, 0x53,
                                   0xe0, 0xd3, 0xb8, 0x9d};

class I8042Test : public ::testing::Test {
 protected:
  I8042Test() : i8042_({[this] { ++resets_; }}, irq_) {}

  static uint8_t In(BusDevice& port) {
    uint8_t value = 0;
    port.Read(0, absl::MakeSpan(&value, 1));
    return value;
  }
  uint8_t Status() { return In(i8042_.command_port()); }
  uint8_t Data() { return In(i8042_.data_port()); }
  void Command(uint8_t value) {
    i8042_.command_port().Write(0, absl::MakeConstSpan(&value, 1));
  }
  void Data(uint8_t value) {
    i8042_.data_port().Write(0, absl::MakeConstSpan(&value, 1));
  }
  // Everything the output buffer gives, at most `limit` bytes.
  std::vector<uint8_t> Drain(size_t limit = 100) {
    std::vector<uint8_t> bytes;
    while ((Status() & 1) && bytes.size() < limit) bytes.push_back(Data());
    return bytes;
  }
  using Bytes = std::vector<uint8_t>;

  int resets_ = 0;
  FakeIrqLine irq_;
  I8042 i8042_;
};

TEST_F(I8042Test, PollsFindNothingToWaitFor) {
  EXPECT_EQ(Status() & 0x03, 0);
  Command(0x20);
  EXPECT_EQ(Status() & 0x02, 0);
  EXPECT_EQ(Drain(), Bytes{0x65});
  EXPECT_EQ(Status() & 0x03, 0);
}

TEST_F(I8042Test, ResetPulses) {
  Command(0xff);
  Command(0xf1);
  EXPECT_EQ(resets_, 0);
  Command(0xfe);
  EXPECT_EQ(resets_, 1);
  Command(0xf0);
  EXPECT_EQ(resets_, 2);
  Command(0xd1);
  Data(0xdf);
  EXPECT_EQ(resets_, 2);
  Command(0xd1);
  Data(0xde);
  EXPECT_EQ(resets_, 3);
  EXPECT_FALSE(Status() & 0x01) << "an argument is no keyboard command";
}

TEST_F(I8042Test, A20IsStoredAndHarmless) {
  Command(0xdd);
  Command(0xd0);
  EXPECT_EQ(Drain(), Bytes{0x01});
  Command(0xdf);
  Command(0xd0);
  EXPECT_EQ(Drain(), Bytes{0x03});
}

// i8042_controller_check, _selftest, _init and i8042_check_aux of Linux.
TEST_F(I8042Test, LinuxFindsAControllerWithoutAux) {
  EXPECT_TRUE(Drain(16).empty());
  Command(0xaa);
  EXPECT_EQ(Drain(), Bytes{0x55});
  Command(0x20);
  const uint8_t ctr = Data();
  Command(0x20);
  EXPECT_EQ(Data(), ctr);
  Command(0x60);
  Data(static_cast<uint8_t>((ctr | 0x10) & ~0x01));
  Command(0x20);
  EXPECT_EQ(Drain(), Bytes{static_cast<uint8_t>((ctr | 0x10) & ~0x01)});
  EXPECT_FALSE(irq_.level());

  Command(0xd3);
  Data(0x5a);
  EXPECT_EQ(Status() & 0x21, 0x01) << "not from an auxiliary port";
  EXPECT_NE(Drain(), Bytes{0x5a});
  Command(0xa9);
  const Bytes test = Drain();
  ASSERT_EQ(test.size(), 1u);
  EXPECT_TRUE(test[0] != 0 && test[0] != 0xfa && test[0] != 0xff);
}

// atkbd_probe and atkbd_activate of Linux, then the three fingers.
TEST_F(I8042Test, LinuxKeyboardTypesCtrlAltDel) {
  Data(0xf2);
  EXPECT_EQ(Drain(), (Bytes{0xfa, 0xab, 0x41}));
  Data(0xed);
  Data(0x00);
  EXPECT_EQ(Drain(), (Bytes{0xfa, 0xfa}));
  Data(0xf3);
  Data(0x00);
  EXPECT_EQ(Drain(), (Bytes{0xfa, 0xfa}));
  Data(0xf4);
  EXPECT_EQ(Drain(), Bytes{0xfa});

  const int before = irq_.edges();
  EXPECT_TRUE(i8042_.SendCtrlAltDel());
  EXPECT_TRUE(irq_.level());
  EXPECT_EQ(Drain(), Bytes(std::begin(kTranslated), std::end(kTranslated)));
  EXPECT_EQ(irq_.edges(), before + 8) << "an edge for each byte";
  EXPECT_FALSE(irq_.level());
  EXPECT_EQ(irq_.redundant(), 0);
}

TEST_F(I8042Test, UntranslatedKeysAreScanSetTwo) {
  Command(0x60);
  Data(0x05);
  Data(0xf2);
  EXPECT_EQ(Drain(), (Bytes{0xfa, 0xab, 0x83}));
  ASSERT_TRUE(i8042_.SendCtrlAltDel());
  EXPECT_EQ(Drain(), (Bytes{0x14, 0x11, 0xe0, 0x71, 0xe0, 0xf0, 0x71, 0xf0,
                            0x11, 0xf0, 0x14}));
  Data(0xf0);
  Data(0x01);
  Data(0xf0);
  Data(0x00);
  EXPECT_EQ(Drain(), (Bytes{0xfa, 0xfa, 0xfa, 0xfa, 0x01}));
  ASSERT_TRUE(i8042_.SendCtrlAltDel());
  EXPECT_EQ(Drain(), Bytes(std::begin(kTranslated), std::end(kTranslated)));
}

TEST_F(I8042Test, CtrlAltDelNeedsAListeningGuest) {
  Data(0xf5);
  Drain();
  EXPECT_FALSE(i8042_.SendCtrlAltDel()) << "scanning off";
  Data(0xf4);
  Drain();
  Command(0xad);
  EXPECT_FALSE(i8042_.SendCtrlAltDel()) << "clock off";
  Command(0xae);
  Command(0x60);
  Data(0x44);
  EXPECT_FALSE(i8042_.SendCtrlAltDel()) << "no interrupt";
  Command(0x60);
  Data(0x45);
  int sent = 0;
  while (sent < 100 && i8042_.SendCtrlAltDel()) ++sent;
  EXPECT_EQ(sent, 4) << "bounded by what the guest leaves unread";
  EXPECT_EQ(Drain().size(), 32u);
}

TEST_F(I8042Test, DisabledClockHoldsBytesBack) {
  ASSERT_TRUE(i8042_.SendCtrlAltDel());
  Command(0xad);
  EXPECT_EQ(Status() & 1, 0);
  EXPECT_FALSE(irq_.level());
  Command(0x20);
  EXPECT_EQ(Drain(), Bytes{0x75}) << "the controller still answers";
  Command(0xae);
  EXPECT_EQ(Drain().size(), 8u);
}

TEST_F(I8042Test, KeyboardResetAndUnknownCommands) {
  Data(0xff);
  EXPECT_EQ(Drain(), (Bytes{0xfa, 0xaa}));
  Data(0xee);
  EXPECT_EQ(Drain(), Bytes{0xee});
  Data(0x01);
  EXPECT_EQ(Drain(), Bytes{0xfe});
  Data(0xfe);
  EXPECT_EQ(Drain(), Bytes{0xfe}) << "resend";
}

TEST_F(I8042Test, ControllerRamAndBufferWrites) {
  Command(0x6a);
  Data(0x42);
  Command(0x2a);
  EXPECT_EQ(Drain(), Bytes{0x42});
  Command(0xd2);
  Data(0x99);
  EXPECT_EQ(Drain(), Bytes{0x99});
  Command(0xd4);
  Data(0xf4);
  EXPECT_TRUE(Drain().empty()) << "nobody at the auxiliary port";
}

TEST_F(I8042Test, EveryCommandAndByteLeavesItBounded) {
  for (int command = 0; command < 256; ++command) {
    for (int data = 0; data < 256; data += 5) {
      Command(static_cast<uint8_t>(command));
      Data(static_cast<uint8_t>(data));
      Data(static_cast<uint8_t>(data ^ 0xff));
    }
  }
  Command(0xae);
  EXPECT_LE(Drain(1000).size(), 33u);
}

}  // namespace
}  // namespace cloister::devices
