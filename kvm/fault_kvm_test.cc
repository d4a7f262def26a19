// SPDX-License-Identifier: Apache-2.0
#include "cloister/kvm/fault_kvm.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <cerrno>

#include "cloister/base/unique_fd.h"
#include "cloister/kvm/fake_kvm.h"
#include "cloister/kvm/uapi.h"
#include "gtest/gtest.h"

namespace cloister::kvm {
namespace {

class FaultKvmTest : public ::testing::Test {
 protected:
  FakeKvm fake_;
  FaultKvm faults_{fake_};
};

TEST_F(FaultKvmTest, FailsTheNthCallOnly) {
  faults_.FailCall(2, ENOMEM);
  base::UniqueFd fd(faults_.Open("/dev/kvm", O_RDWR));
  ASSERT_TRUE(fd.valid());
  EXPECT_FALSE(faults_.Fired());
  EXPECT_EQ(faults_.Ioctl(fd.get(), KVM_GET_API_VERSION, 0), -1);
  EXPECT_EQ(errno, ENOMEM);
  EXPECT_TRUE(faults_.Fired());
  EXPECT_EQ(faults_.Ioctl(fd.get(), KVM_GET_API_VERSION, 0), 12);
  EXPECT_EQ(faults_.calls(), 3u);
  // The failed one never arrived.
  EXPECT_EQ(fake_.CountOf(KVM_GET_API_VERSION), 1u);
}

TEST_F(FaultKvmTest, FailsTheNthOfARequest) {
  base::UniqueFd fd(faults_.Open("/dev/kvm", O_RDWR));
  faults_.FailRequest(KVM_GET_API_VERSION, 2, EINTR);
  EXPECT_EQ(faults_.Ioctl(fd.get(), KVM_GET_API_VERSION, 0), 12);
  EXPECT_GT(faults_.Ioctl(fd.get(), KVM_GET_VCPU_MMAP_SIZE, 0), 0);
  EXPECT_EQ(faults_.Ioctl(fd.get(), KVM_GET_API_VERSION, 0), -1);
  EXPECT_EQ(errno, EINTR);
  EXPECT_EQ(faults_.Ioctl(fd.get(), KVM_GET_API_VERSION, 0), 12);
}

TEST_F(FaultKvmTest, FailsEveryKindOfCall) {
  faults_.FailCall(1, EACCES);
  EXPECT_EQ(faults_.Open("/dev/kvm", O_RDWR), -1);
  EXPECT_EQ(errno, EACCES);
  faults_.FailCall(1, ENOMEM);
  EXPECT_EQ(faults_.Mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE, -1, 0),
            MAP_FAILED);
  EXPECT_EQ(errno, ENOMEM);
  faults_.FailCall(1, ENOSPC);
  EXPECT_EQ(faults_.Fallocate(-1, 0, 0, 1), -1);
  EXPECT_EQ(errno, ENOSPC);
}

TEST_F(FaultKvmTest, ResetForgetsPlans) {
  faults_.FailCall(1, EIO);
  faults_.FailRequest(KVM_GET_API_VERSION, 1, EIO);
  faults_.Reset();
  base::UniqueFd fd(faults_.Open("/dev/kvm", O_RDWR));
  EXPECT_EQ(faults_.Ioctl(fd.get(), KVM_GET_API_VERSION, 0), 12);
  EXPECT_FALSE(faults_.Fired());
}

TEST_F(FaultKvmTest, HidesCapabilities) {
  base::UniqueFd fd(faults_.Open("/dev/kvm", O_RDWR));
  EXPECT_EQ(faults_.Ioctl(fd.get(), KVM_CHECK_EXTENSION, KVM_CAP_GUEST_MEMFD),
            1);
  faults_.HideCapability(Capability::kGuestMemfd);
  EXPECT_EQ(faults_.Ioctl(fd.get(), KVM_CHECK_EXTENSION, KVM_CAP_GUEST_MEMFD),
            0);
  EXPECT_EQ(faults_.Ioctl(fd.get(), KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY),
            1);
}

}  // namespace
}  // namespace cloister::kvm
