// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/msix_table.h"

#include <utility>
#include <vector>

#include "cloister/base/bytes.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::devices::virtio {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

class FakeMsi : public MsiSink {
 public:
  void Send(uint64_t address, uint32_t data) override {
    sent.push_back({address, data});
  }
  std::vector<std::pair<uint64_t, uint32_t>> sent;
};

class MsixTableTest : public ::testing::Test {
 protected:
  uint32_t In(uint64_t offset) {
    uint8_t bytes[4];
    table_.Read(offset, absl::MakeSpan(bytes));
    return base::LoadLe<uint32_t>(bytes);
  }
  void Out(uint64_t offset, uint32_t value) {
    uint8_t bytes[4];
    base::StoreLe<uint32_t>(bytes, value);
    table_.Write(offset, bytes);
  }

  FakeMsi sink_;
  MsixTable table_{2, sink_};
};

TEST_F(MsixTableTest, StartsMasked) {
  EXPECT_EQ(In(12), 1u);
  table_.SetControl(true, false);
  table_.Raise(0);
  EXPECT_THAT(sink_.sent, IsEmpty());
  EXPECT_EQ(In(MsixTable::kPendingOffset), 1u);
  Out(0, 0xfee01003);
  Out(4, 0x100);
  Out(8, 0x41);
  Out(12, 0);
  EXPECT_THAT(sink_.sent, ElementsAre(Pair(0x100fee01000, 0x41)));
  EXPECT_EQ(In(MsixTable::kPendingOffset), 0u);
}

TEST_F(MsixTableTest, ReadsBackWhatWasWritten) {
  Out(16 + 8, 0x42);
  Out(16 + 12, 0);
  EXPECT_EQ(In(16 + 8), 0x42u);
  EXPECT_EQ(In(16 + 12), 0u);
  Out(16 + 12, 1);
  EXPECT_EQ(In(16 + 12), 1u);
}

TEST_F(MsixTableTest, SendsNothingWhileOff) {
  Out(12, 0);
  table_.Raise(0);
  table_.SetControl(true, false);
  table_.Raise(1);  // masked
  table_.Raise(2);  // no such vector
  table_.Raise(MsixTable::kNoVector);
  EXPECT_THAT(sink_.sent, IsEmpty());
  table_.ClearPending();
  Out(16 + 12, 0);
  EXPECT_THAT(sink_.sent, IsEmpty());
}

TEST_F(MsixTableTest, TakesWholeDwordsAndQwords) {
  const std::vector<uint8_t> ones(8, 0xff);
  table_.Write(0, absl::MakeConstSpan(ones.data(), 2));
  table_.Write(1, absl::MakeConstSpan(ones.data(), 4));
  table_.Write(4, absl::MakeConstSpan(ones.data(), 8));
  EXPECT_EQ(In(0), 0u);
  EXPECT_EQ(In(8), 0u);
  table_.Write(0, ones);
  EXPECT_EQ(In(0), 0xfffffffcu);
  EXPECT_EQ(In(4), 0xffffffffu);
  // Beyond the table, and the pending bits, are not the guest's.
  for (uint64_t offset = 32; offset < MsixTable::kBarSize; offset += 4) {
    Out(offset, ~0u);
    EXPECT_EQ(In(offset), 0u) << offset;
  }
}

}  // namespace
}  // namespace cloister::devices::virtio
