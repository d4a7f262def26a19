// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/linux_probe.h"

#include <chrono>
#include <csignal>
#include <string>

#include "cloister/base/status_matchers.h"
#include "cloister/kvm/system.h"
#include "cloister/vcpu/kick_signal.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::vmm {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;

// The verdict depends on the host; that there is one, in time and with a
// reason, does not.
TEST(LinuxProbeTest, JudgesThisHostInTime) {
  auto system = kvm::System::Open();
  if (!system.ok()) GTEST_SKIP() << system.status().message();
  ASSERT_OK(vcpu::InstallKickHandler(SIGRTMIN));
  const auto start = std::chrono::steady_clock::now();
  absl::Status status = ProbeLinux(*system, SIGRTMIN);
  EXPECT_LT(std::chrono::steady_clock::now() - start,
            10 * kLinuxProbeLimit + std::chrono::seconds(5));
  if (status.ok()) return;
  EXPECT_THAT(std::string(status.message()),
              AnyOf(HasSubstr("#UD"), HasSubstr("#PF"), HasSubstr("#BP"),
                    HasSubstr("interprets guest code")));
}

}  // namespace
}  // namespace cloister::vmm
