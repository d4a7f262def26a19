// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/run_config.h"

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "cloister/api/json.h"
#include "cloister/base/status_matchers.h"
#include "cloister/cli/options.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::cli {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class RunConfigTest : public ::testing::Test {
 protected:
  RunConfigTest() {
    options_.config.id = "name";
    options_.config.kernel.path = "/option";
    options_.config.memory.bytes = 32 << 20;
  }
  // The file is one line of JSON whose machine has `machine` in it.
  void Use(const std::string& machine) {
    options_.config_file = absl::StrCat(::testing::TempDir(), "/config.json");
    std::ofstream(options_.config_file)
        << R"({"boot-source": {"kernel_image_path": "/file"}, )"
        << R"("machine-config": {"vcpu_count": 3, "mem_size_mib": 64)"
        << machine << "}}";
  }

  RunOptions options_;
};

TEST_F(RunConfigTest, WithoutAFileNothingChanges) {
  ASSERT_OK(ApplyConfigFile(&options_));
  EXPECT_EQ(options_.config.kernel.path, "/option");
  EXPECT_EQ(options_.config.memory.bytes, 32u << 20);
}

TEST_F(RunConfigTest, TheFileStandsInPlaceOfTheOptions) {
  Use("");
  ASSERT_OK(ApplyConfigFile(&options_));
  EXPECT_EQ(options_.config.id, "name");
  EXPECT_EQ(options_.config.kernel.path, "/file");
  EXPECT_EQ(options_.config.cpus.count, 3u);
  EXPECT_EQ(options_.config.memory.bytes, 64u << 20);
}

TEST_F(RunConfigTest, TheConsolesOptionGoesBeforeTheFile) {
  Use(R"(, "console": "virtio")");
  ASSERT_OK(ApplyConfigFile(&options_));
  EXPECT_EQ(options_.console, ConsoleKind::kVirtio);
  EXPECT_TRUE(options_.config.devices.console.has_value());
  // With its limits.
  options_.console_given = true;
  options_.config.devices.console->tx_limit.bandwidth.size = 7;
  ASSERT_OK(ApplyConfigFile(&options_));
  ASSERT_TRUE(options_.config.devices.console.has_value());
  EXPECT_EQ(options_.config.devices.console->tx_limit.bandwidth.size, 7u);
  options_.console = ConsoleKind::kNone;
  ASSERT_OK(ApplyConfigFile(&options_));
  EXPECT_EQ(options_.console, ConsoleKind::kNone);
  EXPECT_FALSE(options_.config.devices.console.has_value());
}

TEST_F(RunConfigTest, TheRestIsHandedOn) {
  api::Json rest;
  ASSERT_OK(ApplyConfigFile(&options_, &rest));
  EXPECT_EQ(rest, api::Json::object());
  options_.log.metrics_path = "/m";
  ASSERT_OK(ApplyConfigFile(&options_, &rest));
  EXPECT_EQ(rest["metrics"]["metrics_path"], "/m");
  EXPECT_EQ(options_.config.kernel.path, "/option");
  Use(R"(}, "logger": {"log_path": "/l"}, "serial": {"serial_out_path": "/s")");
  ASSERT_OK(ApplyConfigFile(&options_, &rest));
  EXPECT_EQ(rest["logger"]["log_path"], "/l");
  EXPECT_EQ(rest["logger"]["level"], "Info");
  EXPECT_EQ(rest["serial"]["serial_out_path"], "/s");
  EXPECT_EQ(rest["metrics"]["metrics_path"], "/m");
  EXPECT_EQ(options_.config.kernel.path, "/file");
  // What the options say is checked as what the file says is.
  options_.log.path = std::string(5000, 'p');
  EXPECT_THAT(std::string(ApplyConfigFile(&options_, &rest).message()),
              HasSubstr("--log-path"));
}

TEST_F(RunConfigTest, MistakesNameOptionAndFileAndChangeNothing) {
  for (const char* machine : {R"(, "smt": 7)", R"(, "nonsense": 1)", "]"}) {
    Use(machine);
    EXPECT_THAT(std::string(ApplyConfigFile(&options_).message()),
                HasSubstr("--config-file " + options_.config_file + ": "))
        << machine;
  }
  options_.config_file = "/no/such/file";
  EXPECT_THAT(std::string(ApplyConfigFile(&options_).message()),
              AllOf(HasSubstr("--config-file"), HasSubstr("/no/such/file")));
  EXPECT_EQ(options_.config.kernel.path, "/option");
}

}  // namespace
}  // namespace cloister::cli
