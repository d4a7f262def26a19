// SPDX-License-Identifier: Apache-2.0
//
// `cloister serve` within the test's process, for what needs no client: the VM
// of a file, and what is refused. tests/api_* have clients.
#include "cloister/cli/serve_command.h"

#include <unistd.h>

#include <chrono>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_matchers.h"
#include "cloister/cli/exit_code.h"
#include "cloister/cli/vm_process.h"
#include "cloister/vcpu/kick_signal.h"
#include "cloister/vmm/micro_kernel.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::cli {
namespace {

using ::testing::HasSubstr;
using vmm::MicroKernel;

class ServeCommandTest : public ::testing::Test {
 protected:
  void SetUp() override {
    // The filters would stay on the test's own thread.
    options_.sandbox.seccomp = false;
    options_.no_api = true;
    options_.config_file = absl::StrCat(::testing::TempDir(), "/config.json");
  }

  void Write(const std::string& config) {
    std::ofstream(options_.config_file) << config;
  }
  void WriteFor(MicroKernel kernel) {
    const std::string path = absl::StrCat(::testing::TempDir(), "/kernel");
    ASSERT_OK(vmm::WriteMicroKernel(kernel, path));
    Write(absl::StrCat(
        R"({"boot-source": {"kernel_image_path": ")", path,
        R"("}, "machine-config": {"vcpu_count": 1, "mem_size_mib": 32},)",
        R"( "confidential": {"backend": "off"}})"));
  }
  // The exit code; stderr is in errors_.
  int Serve() {
    EXPECT_OK(vcpu::InstallKickHandler(KickSignal()));
    ::testing::internal::CaptureStderr();
    const int code = ServeCommand(options_, std::chrono::steady_clock::now());
    errors_ = ::testing::internal::GetCapturedStderr();
    return code;
  }

  ServeOptions options_;
  std::string errors_;
};

TEST_F(ServeCommandTest, WithNeitherApiNorFileThereIsNothingToDo) {
  options_.config_file.clear();
  EXPECT_EQ(Serve(), kExitError);
  EXPECT_THAT(errors_, HasSubstr("--no-api: needs --config-file"));
}

TEST_F(ServeCommandTest, AFileThatIsNoneNamesOptionAndFile) {
  options_.config_file = "/no/such/file";
  EXPECT_EQ(Serve(), kExitError);
  EXPECT_THAT(errors_, HasSubstr("--config-file /no/such/file"));
  options_.config_file = absl::StrCat(::testing::TempDir(), "/config.json");
  Write("{\"machine-config\": {\"vcpu_count\": 0}}");
  EXPECT_EQ(Serve(), kExitError);
  EXPECT_THAT(errors_, HasSubstr("vcpu_count"));
}

class ServeGuestTest : public ServeCommandTest {
 protected:
  void SetUp() override {
    ServeCommandTest::SetUp();
    if (::access("/dev/kvm", R_OK | W_OK) != 0) {
      GTEST_SKIP() << "no /dev/kvm here that this user may open";
    }
  }
};

TEST_F(ServeGuestTest, TheEndOfTheVmIsTheEndOfTheServer) {
  WriteFor(MicroKernel::kOff);
  EXPECT_EQ(Serve(), kExitOk) << errors_;
}

TEST_F(ServeGuestTest, ACrashHasItsExitCode) {
  WriteFor(MicroKernel::kCrash);
  options_.boot_timer = true;
  EXPECT_EQ(Serve(), kExitTripleFault);
  EXPECT_THAT(errors_, HasSubstr("triple fault: "));
  EXPECT_THAT(errors_, HasSubstr("process start"));
}

TEST_F(ServeGuestTest, AKernelThatIsMissingIsNamed) {
  Write(R"({"boot-source": {"kernel_image_path": "/no/such/kernel"}})");
  EXPECT_EQ(Serve(), kExitError);
  EXPECT_THAT(errors_, HasSubstr("/no/such/kernel"));
}

}  // namespace
}  // namespace cloister::cli
