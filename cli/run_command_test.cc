// SPDX-License-Identifier: Apache-2.0
//
// `cloister run` within the test's process: what ends a run, and the exit code
// that follows. tests/cli_console_test.cc has it at a terminal.
#include "cloister/cli/run_command.h"

#include <unistd.h>

#include <chrono>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
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

  // The exit code; what it says on stderr is sorted into the members below.
  int Run() {
    ::testing::internal::CaptureStderr();
    const int code = RunCommand(options_, std::chrono::steady_clock::now());
    stderr_ = ::testing::internal::GetCapturedStderr();
    for (absl::string_view line : absl::StrSplit(stderr_, '\n')) {
      if (absl::ConsumePrefix(&line, "cloister: error: ")) {
        errors_.emplace_back(line);
      } else if (absl::ConsumePrefix(&line, "cloister: warning: ")) {
        if (absl::StartsWith(line, "--initrd")) warnings_.emplace_back(line);
      } else if (absl::ConsumePrefix(&line, "cloister: ") &&
                 absl::StartsWith(line, "launch digest")) {
        digest_ = std::string(line);
      }
    }
    return code;
  }
  int RunKernel(MicroKernel kernel) {
    options_.config.kernel.path = absl::StrCat(::testing::TempDir(), "/kernel");
    EXPECT_OK(vmm::WriteMicroKernel(kernel, options_.config.kernel.path));
    EXPECT_OK(vcpu::InstallKickHandler(KickSignal()));
    return Run();
  }
  std::string File(const std::string& content) {
    std::string path = Path("config.json");
    std::ofstream(path) << content;
    return path;
  }
  static std::string Path(const char* name) {
    return absl::StrCat(::testing::TempDir(), "/", name);
  }
  // A name for a file that is not there.
  static std::string Fresh(const char* name) {
    ::unlink(Path(name).c_str());
    return Path(name);
  }
  static std::string ReadAll(const std::string& path) {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  RunOptions options_;
  std::string stderr_;
  std::vector<std::string> errors_;
  std::vector<std::string> warnings_;
  std::string digest_;
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

TEST_F(RunGuestTest, AnImageWithPartitionsWantsItsInitrd) {
  // A GUID partition table with a Linux root from sector 2048 to 4095.
  std::string table(1024, '\0');
  table.replace(512, 8, "EFI PART");
  constexpr char kLinuxRoot[] =
      "\xe3\xbc\x68\x4f\xcd\xe8\xb1\x4d\x96\xe7\xfb\xca\xf9\x84\xb7\x09";
  table.append(kLinuxRoot, 16).resize(4096 * 512);
  table[1024 + 33] = 2048 >> 8;
  table.replace(1024 + 40, 2, "\xff\x0f");
  const std::string disk = absl::StrCat(::testing::TempDir(), "/cloud.raw");
  std::ofstream(disk, std::ios::binary) << table;
  options_.config.devices.disks.push_back({.path = disk});
  EXPECT_EQ(RunKernel(MicroKernel::kOff), kExitOk);
  EXPECT_THAT(warnings_, ElementsAre(HasSubstr("--initrd is missing")));
  EXPECT_THAT(warnings_[0], HasSubstr("offset=1048576"));
  warnings_.clear();
  options_.config.kernel.initrd_path = File("an initrd");
  EXPECT_EQ(RunKernel(MicroKernel::kOff), kExitOk);
  EXPECT_THAT(warnings_, IsEmpty());
}

// Seen by the launch digest, which a virtio console is a part of, of a VM that
// for want of a folder for its socket is not started.
TEST_F(RunGuestTest, TheFileSaysWhatTheConsoleIs) {
  const std::string kernel = absl::StrCat(::testing::TempDir(), "/from-file");
  ASSERT_OK(vmm::WriteMicroKernel(MicroKernel::kOff, kernel));
  ASSERT_OK(vcpu::InstallKickHandler(KickSignal()));
  auto digest = [&](const char* console) {
    options_.config_file = File(absl::StrCat(
        R"({"boot-source": {"kernel_image_path": ")", kernel,
        R"("}, "confidential": {"backend": "emulated", )",
        R"("conversion_reports": "fault"}, )",
        R"("machine-config": {"vcpu_count": 1, "mem_size_mib": 32, "console": ")",
        console, R"("}})"));
    digest_.clear();
    EXPECT_EQ(Run(), kExitError);
    return digest_;
  };
  options_.api.socket = "/no/such/folder/socket";
  options_.console = ConsoleKind::kStdio;
  options_.console_given = false;
  const std::string serial = digest("serial");
  if (!errors_.empty() && absl::StrContains(errors_[0], "this host lacks")) {
    GTEST_SKIP() << "not applicable: " << errors_[0];
  }
  EXPECT_THAT(serial, HasSubstr("launch digest"));
  EXPECT_EQ(digest("none"), serial);
  const std::string with_virtio = digest("virtio");
  EXPECT_THAT(with_virtio, HasSubstr("launch digest"));
  EXPECT_NE(with_virtio, serial);
  // The option goes before the file.
  options_.console_given = true;
  EXPECT_EQ(digest("virtio"), serial);
  options_.console = ConsoleKind::kVirtio;
  EXPECT_EQ(digest("serial"), with_virtio);
  errors_.clear();
  digest("tty");
  EXPECT_THAT(errors_, ElementsAre(HasSubstr("machine-config: console")));
}

TEST_F(RunCommandTest, ALogThatCannotBeOpenedIsNamed) {
  options_.log.path = "/no/such/folder/log";
  EXPECT_EQ(Run(), kExitError);
  EXPECT_THAT(errors_, ElementsAre(HasSubstr("--log-path: open /no/such")));
  errors_.clear();
  options_.log.path.clear();
  options_.config_file =
      File(R"({"boot-source": {"kernel_image_path": "/k"}, )"
           R"("logger": {"log_path": "/no/such/folder/log"}})");
  EXPECT_EQ(Run(), kExitError);
  EXPECT_THAT(errors_, ElementsAre(HasSubstr("log_path: open /no/such")));
  EXPECT_THAT(errors_[0], HasSubstr("--config-file " + options_.config_file));
}

TEST_F(RunGuestTest, TheLogAndTheMetricsGoWhereTheOptionsSay) {
  options_.log.path = Fresh("log");
  options_.log.level = "debug";
  options_.log.show_level = true;
  options_.log.metrics_path = Fresh("metrics");
  EXPECT_EQ(RunKernel(MicroKernel::kCrash), kExitTripleFault);
  const std::string log = ReadAll(options_.log.path);
  EXPECT_THAT(log, HasSubstr(":debug] the guest runs\n"));
  EXPECT_THAT(log, HasSubstr(":error] triple fault"));
  EXPECT_THAT(errors_, IsEmpty()) << "they are in the file";
  const std::string metrics = ReadAll(options_.log.metrics_path);
  EXPECT_THAT(metrics, HasSubstr("\"utc_timestamp_ms\""));
  EXPECT_THAT(metrics, HasSubstr("\"vcpu\""));
  EXPECT_EQ(metrics.back(), '\n');

  options_.log.metrics_path = "/no/such/folder/metrics";
  EXPECT_EQ(RunKernel(MicroKernel::kOff), kExitError);
  EXPECT_THAT(errors_, ElementsAre(HasSubstr("--metrics-path: open /no/such")));
}

TEST_F(RunGuestTest, TheFilesLogMetricsAndSerialPortAreHeeded) {
  ASSERT_OK(vmm::WriteMicroKernel(MicroKernel::kFresh, Path("from-file")));
  ASSERT_OK(vcpu::InstallKickHandler(KickSignal()));
  for (const char* name : {"log", "metrics", "console", "other"}) Fresh(name);
  options_.config_file = File(absl::StrCat(
      R"({"boot-source": {"kernel_image_path": ")", Path("from-file"),
      R"("}, "machine-config": {"vcpu_count": 1, "mem_size_mib": 32},)",
      R"( "confidential": {"backend": "off"}, "logger": {"level": "Debug",)",
      R"( "format": "json", "log_path": ")", Path("log"), R"("},)",
      R"( "metrics": {"metrics_path": ")", Path("metrics"), R"("},)",
      R"( "serial": {"serial_out_path": ")", Path("console"), R"("}})"));
  EXPECT_EQ(Run(), kExitOk) << stderr_;
  EXPECT_THAT(ReadAll(Path("console")), HasSubstr("f"));
  EXPECT_THAT(ReadAll(Path("log")), HasSubstr("\"message\":\"the guest runs"));
  EXPECT_THAT(ReadAll(Path("metrics")), HasSubstr("\"vcpu\""));
  // The option goes before the file.
  Fresh("log");
  options_.log.path = Path("other");
  EXPECT_EQ(Run(), kExitOk) << stderr_;
  EXPECT_THAT(ReadAll(Path("other")),
              HasSubstr("\"message\":\"the guest runs"));
  EXPECT_NE(::access(Path("log").c_str(), F_OK), 0);
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
