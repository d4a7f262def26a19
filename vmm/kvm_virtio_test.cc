// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/kvm_virtio.h"

#include <cerrno>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "cloister/base/bytes.h"
#include "cloister/base/event_fd.h"
#include "cloister/base/status_matchers.h"
#include "cloister/kvm/fake_kvm.h"
#include "cloister/kvm/requests.h"
#include "cloister/kvm/system.h"
#include "cloister/kvm/vm.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::vmm {
namespace {

using devices::virtio::NotifyAddress;

class KvmVirtioTest : public ::testing::Test {
 protected:
  // The kernel's flags of KVM_IOEVENTFD (api.rst 4.59).
  static constexpr uint32_t kDatamatch = 1, kPio = 2, kDeassign = 4;

  void SetUp() override {
    ASSERT_OK_AND_ASSIGN(kvm::System system, kvm::System::Open(fake_));
    ASSERT_OK_AND_ASSIGN(kvm::Vm vm, system.CreateVm(kvm::VmType::kDefault));
    vm_.emplace(std::move(vm));
    ASSERT_OK_AND_ASSIGN(base::EventFd event, base::EventFd::Create());
    event_.emplace(std::move(event));
  }

  // What the last KVM_IOEVENTFD said.
  struct Ioeventfd {
    uint64_t datamatch, address;
    uint32_t length;
    int32_t fd;
    uint32_t flags;
    bool operator==(const Ioeventfd&) const = default;
  };
  Ioeventfd Last() const {
    const auto calls = fake_.CallsOf(kvm::Requests::kIoeventfd);
    if (calls.empty() || calls.back().data.size() < 28) return {};
    const uint8_t* data = calls.back().data.data();
    return {base::LoadLe<uint64_t>(data), base::LoadLe<uint64_t>(data + 8),
            base::LoadLe<uint32_t>(data + 16),
            static_cast<int32_t>(base::LoadLe<uint32_t>(data + 20)),
            base::LoadLe<uint32_t>(data + 24)};
  }

  kvm::FakeKvm fake_;
  std::optional<kvm::Vm> vm_;
  std::optional<base::EventFd> event_;
};

TEST_F(KvmVirtioTest, PortsWithAValueAreBoundToIt) {
  KvmNotifyBinder binder(*vm_);
  const NotifyAddress address = {NotifyAddress::Space::kPio, 0x1040, 2, 3};
  ASSERT_OK(binder.Bind(address, *event_));
  EXPECT_TRUE(
      (Last() == Ioeventfd{3, 0x1040, 2, event_->fd(), kPio | kDatamatch}));
  binder.Unbind(address, *event_);
  EXPECT_TRUE((Last() == Ioeventfd{3, 0x1040, 2, event_->fd(),
                                   kPio | kDatamatch | kDeassign}));
}

TEST_F(KvmVirtioTest, MemoryWithoutAValueIsBoundToAnyWrite) {
  KvmNotifyBinder binder(*vm_);
  ASSERT_OK(binder.Bind(
      {NotifyAddress::Space::kMmio, 0xd2000050, 4, std::nullopt}, *event_));
  EXPECT_TRUE((Last() == Ioeventfd{0, 0xd2000050, 4, event_->fd(), 0}));
}

TEST_F(KvmVirtioTest, RefusalsOfKvmAreTheCallers) {
  KvmNotifyBinder binder(*vm_);
  fake_.QueueErrno(kvm::Requests::kIoeventfd, EEXIST);
  EXPECT_FALSE(
      binder.Bind({NotifyAddress::Space::kPio, 1, 2, {}}, *event_).ok());
}

TEST_F(KvmVirtioTest, MessagesGoOutAsTheGuestWroteThem) {
  KvmMsiSink sink(*vm_);
  fake_.SetHandler(kvm::Requests::kSignalMsi, [](int, uintptr_t) { return 1; });
  sink.Send(0x12345678'fee01000, 0x4041);
  const auto calls = fake_.CallsOf(kvm::Requests::kSignalMsi);
  ASSERT_EQ(calls.size(), 1u);
  EXPECT_EQ(base::LoadLe<uint32_t>(&calls[0].data[0]), 0xfee01000u);
  EXPECT_EQ(base::LoadLe<uint32_t>(&calls[0].data[4]), 0x12345678u);
  EXPECT_EQ(base::LoadLe<uint32_t>(&calls[0].data[8]), 0x4041u);
  EXPECT_EQ(sink.lost(), 0u);
}

TEST_F(KvmVirtioTest, MessagesToNobodyAreCounted) {
  KvmMsiSink sink(*vm_);
  fake_.QueueErrno(kvm::Requests::kSignalMsi, EINVAL);
  sink.Send(0xdead0000, 1);
  EXPECT_EQ(sink.lost(), 1u);
}

}  // namespace
}  // namespace cloister::vmm
