// SPDX-License-Identifier: Apache-2.0
//
// `cloister run` within the test's process: what ends a run, and the exit code
// that follows. tests/cli_console_test.cc has it at a terminal.
#include "cloister/cli/run_command.h"

#include <unistd.h>

#include <chrono>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/base/log.h"
#include "cloister/base/status_matchers.h"
#include "cloister/cli/exit_code.h"
#include "cloister/cli/vm_process.h"
#include "cloister/vcpu/kick_signal.h"
#include "cloister/vmm/micro_kernel.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using vmm::MicroKernel;

class RunCommandTest : public ::testing::Test {
 protected:
  void SetUp() override {
    options_.console = ConsoleKind::kNone;
    options_.console_given = true;
    // The filters would stay on the test's own thread.
    options_.sandbox.seccomp = false;
    options_.config.memory.bytes = 32 << 20;
    options_.config.confidential.backend = confidential::BackendChoice::kOff;
  }

  int Run() {
    base::Logger log(
        [this](base::LogLevel level, absl::string_view line) {
          if (level == base::LogLevel::kError) errors_.emplace_back(line);
        },
        base::LogLevel::kInfo);
    return RunCommand(options_, std::chrono::steady_clock::now(), log);
  }
  int RunKernel(MicroKernel kernel) {
    options_.config.kernel.path = absl::StrCat(::testing::TempDir(), "/kernel");
    EXPECT_OK(vmm::WriteMicroKernel(kernel, options_.config.kernel.path));
    EXPECT_OK(vcpu::InstallKickHandler(KickSignal()));
    return Run();
  }
  std::string File(const std::string& content) {
    std::string path = absl::StrCat(::testing::TempDir(), "/config.json");
    std::ofstream(path) << content;
    return path;
  }

  RunOptions options_;
  std::vector<std::string> errors_;
};

TEST_F(RunCommandTest, AConfigFileThatIsNoneNamesOptionAndFile) {
  options_.config_file = "/no/such/file";
  EXPECT_EQ(Run(), kExitError);
  EXPECT_THAT(errors_, ElementsAre(HasSubstr("--config-file /no/such/file")));
  for (const char* text :
       {"", "{", "[]", "{\"no-such-part\": {}}", "{\"machine-config\": {}}"}) {
    errors_.clear();
    options_.config_file = File(text);
    EXPECT_EQ(Run(), kExitError) << text;
    EXPECT_THAT(errors_, ElementsAre(HasSubstr("--config-file "))) << text;
  }
}

class RunGuestTest : public RunCommandTest {
 protected:
  void SetUp() override {
    RunCommandTest::SetUp();
    if (::access("/dev/kvm", R_OK | W_OK) != 0) {
      GTEST_SKIP() << "no /dev/kvm here that this user may open";
    }
  }
};

TEST_F(RunGuestTest, AGuestThatPowersOffIsAGoodEnd) {
  EXPECT_EQ(RunKernel(MicroKernel::kOff), kExitOk);
  EXPECT_THAT(errors_, IsEmpty());
}

TEST_F(RunGuestTest, AGuestThatCrashesItsCpuIsNot) {
  EXPECT_EQ(RunKernel(MicroKernel::kCrash), kExitTripleFault);
  ASSERT_THAT(errors_, ::testing::SizeIs(::testing::Ge(1)));
  EXPECT_THAT(errors_[0], HasSubstr("triple fault"));
}

TEST_F(RunGuestTest, WhatKvmCannotRunIsAnInternalError) {
  EXPECT_EQ(RunKernel(MicroKernel::kLost), kExitInternalError);
  ASSERT_THAT(errors_, ::testing::SizeIs(::testing::Ge(1)));
  EXPECT_THAT(errors_[0], HasSubstr("internal error"));
}

TEST_F(RunGuestTest, TheConfigFileStandsForTheOptions) {
  const std::string kernel = absl::StrCat(::testing::TempDir(), "/from-file");
  ASSERT_OK(vmm::WriteMicroKernel(MicroKernel::kOff, kernel));
  options_.config_file = File(absl::StrCat(
      R"({"boot-source": {"kernel_image_path": ")", kernel,
      R"("}, "machine-config": {"vcpu_count": 1, "mem_size_mib": 32},)",
      R"( "confidential": {"backend": "off"}})"));
  options_.config.kernel.path = "/overridden";
  ASSERT_OK(vcpu::InstallKickHandler(KickSignal()));
  EXPECT_EQ(Run(), kExitOk);
  EXPECT_THAT(errors_, IsEmpty());
}

}  // namespace
}  // namespace cloister::cli
