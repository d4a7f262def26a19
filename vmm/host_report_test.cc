// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/host_report.h"

#include <sys/mman.h>

#include <cerrno>
#include <csignal>

#include "cloister/base/status_matchers.h"
#include "cloister/kvm/syscalls.h"
#include "cloister/vcpu/kick_signal.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::vmm {
namespace {

using ::cloister::base::StatusIs;

// A host whose /dev/kvm cannot be opened.
class NoKvm : public kvm::Syscalls {
 public:
  explicit NoKvm(int error) : error_(error) {}
  int Open(const char*, int) override {
    errno = error_;
    return -1;
  }
  int Ioctl(int, unsigned long, uintptr_t) override {
    errno = ENOTTY;
    return -1;
  }
  void* Mmap(void*, size_t, int, int, int, off_t) override {
    errno = ENOMEM;
    return MAP_FAILED;
  }
  int Munmap(void*, size_t) override { return 0; }
  int Fallocate(int, int, off_t, off_t) override { return 0; }

 private:
  const int error_;
};

TEST(HostReportTest, MissingAndForbiddenDevicesAreTheReport) {
  NoKvm missing(ENOENT);
  HostReport report = ExamineHost(SIGRTMIN, missing);
  EXPECT_THAT(report.kvm_error, StatusIs(absl::StatusCode::kNotFound));
  EXPECT_FALSE(report.linux_guests.ok());
  EXPECT_TRUE(report.backends.empty());
  NoKvm forbidden(EACCES);
  EXPECT_THAT(ExamineHost(SIGRTMIN, forbidden).kvm_error,
              StatusIs(absl::StatusCode::kPermissionDenied));
}

TEST(HostReportTest, ThisHostIsExaminedWhole) {
  ASSERT_OK(vcpu::InstallKickHandler(SIGRTMIN));
  HostReport report = ExamineHost(SIGRTMIN);
  if (!report.kvm_error.ok()) GTEST_SKIP() << report.kvm_error.message();
  EXPECT_EQ(report.kvm.api_version, 12);
  EXPECT_FALSE(report.cpu_vendor.empty());
  ASSERT_EQ(report.backends.size(), 3u);
  EXPECT_EQ(report.backends[0].missing, "");
}

}  // namespace
}  // namespace cloister::vmm
