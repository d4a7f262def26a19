// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/measure_command.h"

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/base/log.h"
#include "cloister/boot/fake_kernel.h"
#include "cloister/cli/exit_code.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class MeasureCommandTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string path = absl::StrCat(::testing::TempDir(), "/vmlinux");
    const std::vector<uint8_t> elf = boot::MakeVmlinux();
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(elf.data()),
               static_cast<std::streamsize>(elf.size()));
    options_.config.kernel.path = path;
  }

  // Stdout of the command.
  std::string Measure(int exit_code) {
    base::Logger log(
        [this](base::LogLevel, absl::string_view line) {
          errors_.emplace_back(line);
        },
        base::LogLevel::kError);
    ::testing::internal::CaptureStdout();
    EXPECT_EQ(MeasureCommand(options_, log), exit_code);
    return ::testing::internal::GetCapturedStdout();
  }

  RunOptions options_;
  std::vector<std::string> errors_;
};

TEST_F(MeasureCommandTest, MeasuresWhatAConfigFileDescribes) {
  options_.config.cpus.count = 3;
  options_.config.memory.bytes = 64 << 20;
  const std::string digest = Measure(kExitOk);
  options_.config_file = absl::StrCat(::testing::TempDir(), "/config.json");
  std::ofstream(options_.config_file)
      << R"({"boot-source": {"kernel_image_path": ")"
      << options_.config.kernel.path
      << R"("}, "machine-config": {"vcpu_count": 3, "mem_size_mib": 64}})";
  options_.config.cpus.count = 1;
  EXPECT_EQ(Measure(kExitOk), digest);
  options_.config_file = "/no/such/file";
  EXPECT_EQ(Measure(kExitError), "");
  EXPECT_THAT(errors_, ElementsAre(HasSubstr("--config-file /no/such/file")));
}

TEST_F(MeasureCommandTest, PrintsTheDigestOfWhatTheOptionsSay) {
  const std::string first = Measure(kExitOk);
  EXPECT_EQ(Measure(kExitOk), first);
  EXPECT_THAT(errors_, IsEmpty());
  auto json = nlohmann::json::parse(first, nullptr, false);
  ASSERT_FALSE(json.is_discarded()) << first;
  EXPECT_EQ(json["digest"].get<std::string>().size(), 64u);
  EXPECT_EQ(json["inputs"][0]["type"], "shim");
  options_.config.cpus.count = 2;
  EXPECT_NE(Measure(kExitOk), first);
  // What the guest does not see is not measured.
  options_.config.cpus.count = 1;
  options_.console = ConsoleKind::kNone;
  options_.config.id = "another";
  EXPECT_EQ(Measure(kExitOk), first);
}

TEST_F(MeasureCommandTest, OrdinaryGuestsHaveNone) {
  options_.config.confidential.backend = confidential::BackendChoice::kOff;
  EXPECT_EQ(Measure(kExitError), "");
  EXPECT_THAT(errors_, ElementsAre(HasSubstr("--confidential off")));
}

TEST_F(MeasureCommandTest, MistakesNameTheFileAndPrintNothing) {
  options_.config.kernel.path = "/no/such/kernel";
  EXPECT_EQ(Measure(kExitError), "");
  EXPECT_THAT(errors_, ElementsAre(HasSubstr("/no/such/kernel")));
}

}  // namespace
}  // namespace cloister::cli
