// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/exit_router.h"

#include <memory>
#include <optional>
#include <vector>

#include "cloister/base/log.h"
#include "cloister/base/status_matchers.h"
#include "cloister/memory/conversion_world.h"
#include "gtest/gtest.h"

namespace cloister::vmm {
namespace {

using memory::GuestAddress;
using memory::GuestRange;

// A backend without memory: all that a router asks of one.
class StubBackend : public confidential::Backend {
 public:
  std::optional<int> bit;

  absl::string_view name() const override { return "stub"; }
  confidential::BackendKind kind() const override {
    return confidential::BackendKind::kOff;
  }
  std::optional<int> c_bit() const override { return bit; }
  memory::ConversionContent content() const override {
    return memory::ConversionContent::kLost;
  }
  uint64_t preferred_chunk() const override { return 4096; }
  memory::PageProgress SetAttributes(const GuestRange& range,
                                     memory::PageState) override {
    return {absl::OkStatus(), range.size()};
  }
  absl::Status ReserveShared(const GuestRange&) override {
    return absl::OkStatus();
  }
  absl::Status FreeShared(const GuestRange&) override {
    return absl::OkStatus();
  }
  absl::Status FreePrivate(const GuestRange&) override {
    return absl::OkStatus();
  }
  absl::Status ForEachBacked(
      memory::BackingSide, const GuestRange&,
      absl::FunctionRef<void(const GuestRange&)>) override {
    return absl::OkStatus();
  }
  absl::StatusOr<confidential::PageFault> TranslateFault(
      const kvm::MemoryFaultExit& fault) const override {
    if (!fault.is_private) return absl::FailedPreconditionError("not mine");
    return confidential::PageFault{fault.address, memory::PageState::kShared};
  }
  absl::Status Launch(const confidential::LaunchRequest&) override {
    return absl::OkStatus();
  }
};

class Register : public devices::BusDevice {
 public:
  absl::string_view name() const override { return "register"; }
  void Read(uint64_t, absl::Span<uint8_t> data) override { data[0] = 0x5a; }
  void Write(uint64_t, absl::Span<const uint8_t> data) override {
    written.push_back(data[0]);
    if (on_write) on_write();
  }
  std::vector<uint8_t> written;
  std::function<void()> on_write;
};

class ExitRouterTest : public ::testing::Test {
 protected:
  ExitRouterTest()
      : pio_(devices::Bus::Space::kPio, base::Logger::Null()),
        mmio_(devices::Bus::Space::kMmio, base::Logger::Null()),
        router_({.pio = &pio_,
                 .mmio = &mmio_,
                 .states = &states_,
                 .broker = nullptr,
                 .backend = &backend_,
                 .log = &base::Logger::Null()}) {}

  devices::Bus pio_, mmio_;
  memory::PageStateMap states_;
  StubBackend backend_;
  ExitRouter router_;
};

TEST_F(ExitRouterTest, PortsAndMemoryReachTheirBus) {
  auto port = std::make_shared<Register>();
  auto window = std::make_shared<Register>();
  ASSERT_OK(pio_.Insert(0x10, 1, port));
  ASSERT_OK(mmio_.Insert(0x10, 1, window));
  uint8_t byte = 0;
  router_.OnPortRead(0x10, absl::MakeSpan(&byte, 1));
  EXPECT_EQ(byte, 0x5a);
  byte = 7;
  EXPECT_EQ(router_.OnPortWrite(0x10, absl::MakeSpan(&byte, 1)),
            vcpu::Verdict::kContinue);
  byte = 8;
  EXPECT_EQ(router_.OnMmioWrite(GuestAddress(0x10), absl::MakeSpan(&byte, 1)),
            vcpu::Verdict::kContinue);
  EXPECT_EQ(port->written, std::vector<uint8_t>({7}));
  EXPECT_EQ(window->written, std::vector<uint8_t>({8}));
}

TEST_F(ExitRouterTest, ADevicesWishEndsTheWriteThatCausedIt) {
  auto port = std::make_shared<Register>();
  port->on_write = [this] {
    router_.Request(vcpu::Verdict::kReset);
    router_.Request(vcpu::Verdict::kPowerOff);  // Too late.
  };
  ASSERT_OK(pio_.Insert(0x10, 1, port));
  uint8_t byte = 0;
  EXPECT_EQ(router_.OnPortWrite(0x10, absl::MakeSpan(&byte, 1)),
            vcpu::Verdict::kReset);
}

TEST_F(ExitRouterTest, UnknownHypercallsAreAnsweredWithEnosys) {
  vcpu::Hypercall call;
  call.number = 99;
  EXPECT_EQ(router_.OnHypercall(call), static_cast<uint64_t>(-1000));
  call.number = kvm::HypercallExit::kMapGpaRange;  // Without a broker.
  EXPECT_EQ(router_.OnHypercall(call), static_cast<uint64_t>(-1000));
}

TEST_F(ExitRouterTest, SevStatusExistsOnlyWithACBit) {
  vcpu::MsrAccess access;
  access.index = 0xc0010131;
  EXPECT_FALSE(router_.OnMsr(access));
  backend_.bit = 47;
  EXPECT_TRUE(router_.OnMsr(access));
  EXPECT_EQ(access.value, 1u);
  access.is_write = true;
  EXPECT_FALSE(router_.OnMsr(access));
}

TEST_F(ExitRouterTest, MigrationControlTakesItsOneBit) {
  backend_.bit = 47;
  vcpu::MsrAccess access;
  access.index = 0x4b564d08;
  access.is_write = true;
  access.value = 1;
  EXPECT_TRUE(router_.OnMsr(access));
  access.value = 2;
  EXPECT_FALSE(router_.OnMsr(access));
}

// What the guest_memfd could not give, or a poisoned page: nobody wanted to
// convert anything.
TEST_F(ExitRouterTest, AFaultThatAsksForNoConversionIsNoFailedOne) {
  kvm::MemoryFaultExit fault;
  fault.address = GuestAddress(0x1000);
  EXPECT_EQ(router_.OnMemoryFault(fault, 0).message(), "not mine");
  EXPECT_FALSE(router_.conversion_failed());
  fault.is_private = true;  // The backend translates it; nothing converts.
  EXPECT_EQ(router_.OnMemoryFault(fault, 0).message(),
            "this VM converts no memory");
  EXPECT_FALSE(router_.conversion_failed());
}

class ConvertingRouterTest : public ExitRouterTest {
 protected:
  ConvertingRouterTest()
      : world_(Denying()),
        converting_({.pio = &pio_,
                     .mmio = &mmio_,
                     .states = &world_.states,
                     .broker = world_.broker.get(),
                     .backend = &backend_,
                     .log = &base::Logger::Null()}) {}
  static memory::ConversionBrokerOptions Denying() {
    memory::ConversionBrokerOptions options;
    options.policy.implicit = memory::ImplicitPolicy::kDeny;
    return options;
  }
  // A touch of a private page through the shared view.
  absl::Status Touch(uint64_t page) {
    kvm::MemoryFaultExit fault;
    fault.address = GuestAddress(page);
    fault.is_private = true;
    return converting_.OnMemoryFault(fault, converting_.PageStateGeneration());
  }

  memory::ConversionWorld world_;
  ExitRouter converting_;
};

TEST_F(ConvertingRouterTest, AFaultThatConvertsResumes) {
  EXPECT_OK(Touch(0x8000));
  EXPECT_EQ(world_.State(0x8000), memory::PageState::kShared);
  EXPECT_FALSE(converting_.conversion_failed());
}

TEST_F(ConvertingRouterTest, AFaultOutsideTheConvertingPartIsNoFailedOne) {
  kvm::MemoryFaultExit fault;
  fault.address = GuestAddress(0x8000);
  EXPECT_EQ(converting_.OnMemoryFault(fault, 0).message(), "not mine");
  EXPECT_EQ(world_.State(0x8000), memory::PageState::kPrivate);
  EXPECT_FALSE(converting_.conversion_failed());
}

TEST_F(ConvertingRouterTest, ADeniedConversionIsAFailedOne) {
  world_.broker->ArmImplicitPolicy();
  EXPECT_THAT(Touch(0x8000),
              base::StatusIs(absl::StatusCode::kPermissionDenied));
  EXPECT_TRUE(converting_.conversion_failed());
}

TEST_F(ConvertingRouterTest, AConversionThatTheHostCannotDoIsAFailedOne) {
  world_.backend.FailCalls(memory::FakeBackend::Method::kSet, 0, 1,
                           absl::InternalError("told to"));
  EXPECT_FALSE(Touch(0x8000).ok());
  EXPECT_TRUE(converting_.conversion_failed());
}

}  // namespace
}  // namespace cloister::vmm
