// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/kvm_irq_line.h"

#include <cerrno>
#include <cstdint>
#include <utility>
#include <vector>

#include "cloister/base/bytes.h"
#include "cloister/base/status_matchers.h"
#include "cloister/kvm/fake_kvm.h"
#include "cloister/kvm/requests.h"
#include "cloister/kvm/system.h"
#include "cloister/kvm/vm.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::vmm {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

class KvmIrqLineTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK_AND_ASSIGN(kvm::System system, kvm::System::Open(fake_));
    ASSERT_OK_AND_ASSIGN(kvm::Vm vm, system.CreateVm(kvm::VmType::kDefault));
    vm_.emplace(std::move(vm));
  }
  // Inputs and levels, in order.
  std::vector<std::pair<uint32_t, uint32_t>> Changes() const {
    std::vector<std::pair<uint32_t, uint32_t>> changes;
    for (const auto& call : fake_.CallsOf(kvm::Requests::kIrqLine)) {
      changes.emplace_back(base::LoadLe<uint32_t>(&call.data[0]),
                           base::LoadLe<uint32_t>(&call.data[4]));
    }
    return changes;
  }

  kvm::FakeKvm fake_;
  std::optional<kvm::Vm> vm_;
};

TEST_F(KvmIrqLineTest, LevelsReachTheInput) {
  KvmIrqLine line(*vm_, kvm::Gsi(4));
  line.SetLevel(true);
  line.SetLevel(false);
  EXPECT_THAT(Changes(), ElementsAre(Pair(4, 1), Pair(4, 0)));
}

TEST_F(KvmIrqLineTest, APulseIsUpAndDownAgain) {
  KvmIrqLine line(*vm_, kvm::Gsi(9));
  line.Pulse();
  EXPECT_THAT(Changes(), ElementsAre(Pair(9, 1), Pair(9, 0)));
  EXPECT_EQ(line.failures(), 0u);
}

TEST_F(KvmIrqLineTest, WhatKvmRefusesIsCounted) {
  KvmIrqLine line(*vm_, kvm::Gsi(9));
  fake_.QueueErrno(kvm::Requests::kIrqLine, EINVAL);
  line.Pulse();
  EXPECT_EQ(line.failures(), 1u);
  EXPECT_THAT(Changes(), ElementsAre(Pair(9, 1), Pair(9, 0)))
      << "the line stayed up";
}

}  // namespace
}  // namespace cloister::vmm
