// SPDX-License-Identifier: Apache-2.0
#include "cloister/kvm/exit_decoder.h"

#include <cstring>
#include <vector>

#include "cloister/base/status_matchers.h"
#include "cloister/kvm/exit_encoder.h"
#include "cloister/kvm/uapi.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::kvm {
namespace {

using base::StatusIs;
using ::testing::HasSubstr;

constexpr size_t kSize = 3 * 4096;
constexpr size_t kIoOffset = 4096;

class ExitDecoderTest : public ::testing::Test {
 protected:
  struct kvm_run* run() {
    return reinterpret_cast<struct kvm_run*>(page());
  }
  uint8_t* page() { return reinterpret_cast<uint8_t*>(words_.data()); }
  absl::StatusOr<Exit> Decode() { return DecodeExit(page(), kSize); }
  template <typename T>
  T DecodeAs() {
    absl::StatusOr<Exit> exit = Decode();
    if (!exit.ok() || !std::holds_alternative<T>(*exit)) {
      ADD_FAILURE() << (exit.ok() ? DescribeExit(*exit)
                                  : exit.status().ToString());
      return T{};
    }
    return std::get<T>(*exit);
  }
  void SetIo(uint8_t width, uint32_t count, uint64_t offset) {
    run()->exit_reason = KVM_EXIT_IO;
    run()->io.direction = KVM_EXIT_IO_OUT;
    run()->io.size = width;
    run()->io.count = count;
    run()->io.port = 0x3f8;
    run()->io.data_offset = offset;
  }

 private:
  std::vector<uint64_t> words_ = std::vector<uint64_t>(kSize / 8);
};

TEST_F(ExitDecoderTest, Io) {
  SetIo(2, 3, kIoOffset);
  IoExit exit = DecodeAs<IoExit>();
  EXPECT_EQ(exit.direction, IoExit::Direction::kOut);
  EXPECT_EQ(exit.port, 0x3f8);
  EXPECT_EQ(exit.width, 2);
  EXPECT_EQ(exit.count, 3u);
  EXPECT_EQ(exit.size(), 6u);
  EXPECT_EQ(exit.data, page() + kIoOffset);
}

TEST_F(ExitDecoderTest, IoMayFillTheMappingToItsEnd) {
  SetIo(4, 2048, kIoOffset);
  EXPECT_EQ(DecodeAs<IoExit>().size(), kSize - kIoOffset);
}

TEST_F(ExitDecoderTest, IoOutsideTheMappingIsRefused) {
  struct {
    uint8_t width;
    uint32_t count;
    uint64_t offset;
  } bad[] = {
      {4, 2049, kIoOffset},         // one item too many
      {1, 1, kSize},                // starts at the end
      {1, 1, kSize + 1},            // starts behind it
      {1, 1, ~uint64_t{0}},         // offset + size wraps
      {4, 0xffffffff, kIoOffset},   // large count
      {1, 1, 0},                    // the header itself
      {1, 1, sizeof(kvm_run) - 1},  // still in it
      {3, 1, kIoOffset},            // no such width
      {0, 1, kIoOffset},            //
      {8, 1, kIoOffset},            //
      {1, 0, kIoOffset},            // nothing at all
  };
  for (const auto& item : bad) {
    SetIo(item.width, item.count, item.offset);
    EXPECT_THAT(Decode(),
                StatusIs(absl::StatusCode::kInternal, HasSubstr("KVM_EXIT_IO")))
        << int{item.width} << " " << item.count << " " << item.offset;
  }
  SetIo(1, 1, kIoOffset);
  run()->io.direction = 2;
  EXPECT_THAT(Decode(), StatusIs(absl::StatusCode::kInternal));
}

TEST_F(ExitDecoderTest, MmioLengths) {
  for (uint32_t length : {0u, 1u, 2u, 3u, 4u, 8u, 9u, 0x80000000u, 0x100u}) {
    run()->exit_reason = KVM_EXIT_MMIO;
    run()->mmio.phys_addr = 0xd0000000;
    run()->mmio.len = length;
    run()->mmio.is_write = 1;
    if (length < 1 || length > 8) {
      EXPECT_THAT(Decode(), StatusIs(absl::StatusCode::kInternal,
                                     HasSubstr("KVM_EXIT_MMIO")));
      continue;
    }
    MmioExit exit = DecodeAs<MmioExit>();
    EXPECT_EQ(exit.length, length);
    EXPECT_TRUE(exit.is_write);
    EXPECT_EQ(exit.address.value(), 0xd0000000u);
    EXPECT_EQ(exit.data, run()->mmio.data);
  }
}

TEST_F(ExitDecoderTest, HypercallResultPointsIntoThePage) {
  HypercallExit call{12, {1, 2, 3, 4, 5, 6}, true, nullptr};
  EncodeExit(call, {}, kIoOffset, page());
  HypercallExit exit = DecodeAs<HypercallExit>();
  EXPECT_EQ(exit.number, HypercallExit::kMapGpaRange);
  EXPECT_EQ(exit.args, (std::array<uint64_t, 6>{1, 2, 3, 4, 5, 6}));
  EXPECT_TRUE(exit.long_mode);
  *exit.result = 42;
  EXPECT_EQ(run()->hypercall.ret, 42u);
}

TEST_F(ExitDecoderTest, MemoryFault) {
  MemoryFaultExit fault{memory::GuestAddress(0x7000), 0x1000, 8, true};
  EncodeExit(fault, {}, kIoOffset, page());
  EXPECT_EQ(run()->exit_reason, 39u);
  MemoryFaultExit exit = DecodeAs<MemoryFaultExit>();
  EXPECT_EQ(exit.address, fault.address);
  EXPECT_EQ(exit.size, 0x1000u);
  EXPECT_EQ(exit.flags, 8u);
  EXPECT_TRUE(exit.is_private);
  fault.flags = 0x10;
  fault.is_private = false;
  EncodeExit(fault, {}, kIoOffset, page());
  exit = DecodeAs<MemoryFaultExit>();
  EXPECT_FALSE(exit.is_private);
  EXPECT_EQ(exit.flags, 0x10u);
}

TEST_F(ExitDecoderTest, MsrReadAndWrite) {
  EncodeExit(MsrExit{0x10, false, 0, nullptr, nullptr, MsrExit::kFilter}, {},
             kIoOffset, page());
  MsrExit read = DecodeAs<MsrExit>();
  EXPECT_EQ(read.index, 0x10u);
  EXPECT_FALSE(read.is_write);
  EXPECT_EQ(read.reason, MsrExit::kFilter);
  *read.result = 99;
  *read.error = 1;
  EXPECT_EQ(run()->msr.data, 99u);
  EXPECT_EQ(run()->msr.error, 1);

  EncodeExit(MsrExit{0x11, true, 7, nullptr, nullptr, MsrExit::kUnknown}, {},
             kIoOffset, page());
  MsrExit write = DecodeAs<MsrExit>();
  EXPECT_TRUE(write.is_write);
  EXPECT_EQ(write.value, 7u);
}

TEST_F(ExitDecoderTest, CountsOfDataAreClamped) {
  run()->exit_reason = KVM_EXIT_INTERNAL_ERROR;
  run()->internal.suberror = 3;
  run()->internal.ndata = 0xffffffff;
  EXPECT_EQ(DecodeAs<InternalErrorExit>().count, 16u);
  run()->exit_reason = KVM_EXIT_SYSTEM_EVENT;
  run()->system_event.type = 2;
  run()->system_event.ndata = 17;
  SystemEventExit event = DecodeAs<SystemEventExit>();
  EXPECT_EQ(event.count, 16u);
  EXPECT_EQ(event.type, SystemEventExit::kReset);
}

TEST_F(ExitDecoderTest, TheRest) {
  EncodeExit(HaltExit{}, {}, kIoOffset, page());
  DecodeAs<HaltExit>();
  EncodeExit(ShutdownExit{}, {}, kIoOffset, page());
  DecodeAs<ShutdownExit>();
  EncodeExit(InterruptWindowExit{}, {}, kIoOffset, page());
  DecodeAs<InterruptWindowExit>();
  EncodeExit(InterruptedExit{}, {}, kIoOffset, page());
  DecodeAs<InterruptedExit>();
  EncodeExit(FailEntryExit{0x21, 3}, {}, kIoOffset, page());
  EXPECT_EQ(DecodeAs<FailEntryExit>().hardware_reason, 0x21u);
  EXPECT_EQ(DecodeAs<FailEntryExit>().cpu, 3u);
  EncodeExit(DebugExit{1, 2, 3, 4}, {}, kIoOffset, page());
  EXPECT_EQ(DecodeAs<DebugExit>().pc, 2u);
  EncodeExit(ApicEoiExit{0x31}, {}, kIoOffset, page());
  EXPECT_EQ(DecodeAs<ApicEoiExit>().vector, 0x31);
  EncodeExit(UnknownExit{0x77}, {}, kIoOffset, page());
  EXPECT_EQ(DecodeAs<UnknownExit>().hardware_reason, 0x77u);
  EncodeExit(OtherExit{34}, {}, kIoOffset, page());
  EXPECT_EQ(DecodeAs<OtherExit>().number, 34u);
  run()->exit_reason = 0xfffffffe;
  EXPECT_EQ(DecodeAs<OtherExit>().number, 0xfffffffeu);
}

TEST_F(ExitDecoderTest, ATooSmallPageIsRefused) {
  EXPECT_THAT(DecodeExit(page(), sizeof(kvm_run) - 1),
              StatusIs(absl::StatusCode::kInternal));
}

}  // namespace
}  // namespace cloister::kvm
