// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/pci_root.h"

#include <memory>
#include <vector>

#include "cloister/base/bytes.h"
#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::devices {
namespace {

// 256 bytes to read and write.
class Plain : public PciFunction {
 public:
  void ReadPciConfig(uint32_t offset, absl::Span<uint8_t> data) override {
    ASSERT_LE(offset + data.size(), sizeof(bytes));
    ASSERT_EQ(offset / 4, (offset + data.size() - 1) / 4);
    std::copy_n(bytes + offset, data.size(), data.begin());
  }
  void WritePciConfig(uint32_t offset,
                      absl::Span<const uint8_t> data) override {
    ASSERT_LE(offset + data.size(), sizeof(bytes));
    ASSERT_EQ(offset / 4, (offset + data.size() - 1) / 4);
    std::copy(data.begin(), data.end(), bytes + offset);
  }
  uint8_t bytes[256] = {};
};

class PciRootTest : public ::testing::Test {
 protected:
  PciRootTest() { EXPECT_OK(root_.Add(3, function_)); }

  static uint32_t Address(uint32_t slot, uint32_t offset) {
    return 0x80000000u | slot << 11 | offset;
  }
  template <typename T>
  T In(uint64_t offset) {
    uint8_t bytes[sizeof(T)] = {};
    root_.Read(offset, absl::MakeSpan(bytes));
    return base::LoadLe<T>(bytes);
  }
  template <typename T>
  void Out(uint64_t offset, T value) {
    uint8_t bytes[sizeof(T)];
    base::StoreLe<T>(bytes, value);
    root_.Write(offset, bytes);
  }

  std::shared_ptr<Plain> function_ = std::make_shared<Plain>();
  PciRoot root_;
};

TEST_F(PciRootTest, AnswersTheProbeForMechanismOne) {
  Out<uint8_t>(3, 1);  // 0xCFB, as Linux does: not the address port
  EXPECT_EQ(In<uint32_t>(0), 0u);
  Out<uint32_t>(0, 0x80000000u);
  EXPECT_EQ(In<uint32_t>(0), 0x80000000u);
  EXPECT_EQ(In<uint8_t>(3), 0x80);
}

TEST_F(PciRootTest, ShowsAHostBridge) {
  Out<uint32_t>(0, Address(0, 8));
  EXPECT_EQ(In<uint32_t>(4) >> 8, 0x060000u);
  Out<uint32_t>(4, ~0u);
  EXPECT_EQ(In<uint32_t>(4) >> 8, 0x060000u);
}

TEST_F(PciRootTest, ReachesAFunctionByAnyWidth) {
  Out<uint32_t>(0, Address(3, 0x10));
  Out<uint32_t>(4, 0x44332211);
  EXPECT_EQ(In<uint32_t>(4), 0x44332211u);
  EXPECT_EQ(In<uint16_t>(6), 0x4433);
  EXPECT_EQ(In<uint8_t>(5), 0x22);
  Out<uint8_t>(7, 0x99);
  EXPECT_EQ(function_->bytes[0x13], 0x99);
  Out<uint16_t>(5, 0xaabb);  // not aligned, but within the dword
  EXPECT_EQ(function_->bytes[0x11], 0xbb);
}

TEST_F(PciRootTest, RefusesWhatRunsOverADword) {
  Out<uint32_t>(0, Address(3, 0xfc));
  EXPECT_EQ(In<uint32_t>(5), ~0u);
  EXPECT_EQ(In<uint16_t>(7), 0xffff);
  EXPECT_EQ(In<uint64_t>(4), ~uint64_t{0});
  EXPECT_EQ(In<uint64_t>(0), ~uint64_t{0});
  EXPECT_EQ(In<uint16_t>(3), 0xffff);
  Out<uint32_t>(5, 0);
  Out<uint16_t>(7, 0);
  Out<uint64_t>(4, ~uint64_t{0});
  std::vector<uint8_t> three(3, 0xff);
  root_.Write(4, three);
  EXPECT_EQ(function_->bytes[0xfc], 0);
  std::vector<uint8_t> read(3, 0);
  root_.Read(4, absl::MakeSpan(read));
  EXPECT_EQ(read[0], 0xff);
}

TEST_F(PciRootTest, HasNothingElsewhere) {
  for (uint32_t address : {Address(4, 0), Address(3, 0) & 0x7fffffff,
                           Address(3, 0) | 0x10000, Address(3, 0) | 0x100}) {
    Out<uint32_t>(0, address);
    EXPECT_EQ(In<uint32_t>(4), ~0u) << address;
    Out<uint32_t>(4, 0x12345678);
  }
  EXPECT_EQ(function_->bytes[0], 0);
}

TEST_F(PciRootTest, TakesFunctionsForFreeSlots) {
  EXPECT_THAT(root_.Add(3, function_),
              base::StatusIs(absl::StatusCode::kAlreadyExists));
  EXPECT_THAT(root_.Add(0, function_),
              base::StatusIs(absl::StatusCode::kOutOfRange));
  EXPECT_THAT(root_.Add(32, function_),
              base::StatusIs(absl::StatusCode::kOutOfRange));
  EXPECT_OK(root_.Add(31, function_));
}

}  // namespace
}  // namespace cloister::devices
