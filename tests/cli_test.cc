// SPDX-License-Identifier: Apache-2.0
//
// The commands that start no guest, as a user runs them.
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_matchers.h"
#include "cloister/boot/fake_kernel.h"
#include "cloister/tests/guest_process.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::tests {
namespace {

using ::testing::HasSubstr;

struct Result {
  int exit_code = -1;
  std::string output;
};

Result RunCloister(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "cli/cloister");
  auto process = GuestProcess::Start(arguments);
  if (!process.ok()) return {-1, process.status().ToString()};
  auto code = (*process)->Wait();
  return {code.ok() ? *code : -1, (*process)->output()};
}

std::string Kernel() {
  std::string path = absl::StrCat(::testing::TempDir(), "/vmlinux");
  std::vector<uint8_t> elf = boot::MakeVmlinux();
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(elf.data()), elf.size());
  return path;
}

TEST(CliTest, VersionAndHelp) {
  EXPECT_THAT(RunCloister({"version"}).output, HasSubstr("cloister "));
  Result help = RunCloister({"--help"});
  EXPECT_EQ(help.exit_code, 0);
  EXPECT_THAT(help.output, HasSubstr("doctor"));
}

TEST(CliTest, DoctorPrintsJsonOnAnyHost) {
  Result result = RunCloister({"doctor", "--json"});
  auto json = nlohmann::json::parse(result.output, nullptr, false);
  ASSERT_FALSE(json.is_discarded()) << result.output;
  EXPECT_EQ(result.exit_code, json["kvm"]["usable"].get<bool>() ? 0 : 1);
}

TEST(CliTest, MeasureIsRepeatableAndListsItsInputsInOrder) {
  std::vector<std::string> arguments = {
      "measure", "--kernel", Kernel(), "--memory", "64M", "--append", "quiet"};
  Result first = RunCloister(arguments);
  EXPECT_EQ(first.exit_code, 0);
  EXPECT_EQ(first.output, RunCloister(arguments).output);
  auto json = nlohmann::json::parse(first.output, nullptr, false);
  ASSERT_FALSE(json.is_discarded()) << first.output;
  EXPECT_EQ(json["digest"].get<std::string>().size(), 64u);
  ASSERT_GE(json["inputs"].size(), 5u);
  EXPECT_EQ(json["inputs"][0]["type"], "shim");
  EXPECT_EQ(json["inputs"][1]["type"], "start state");
  arguments.back() = "loud";
  EXPECT_NE(first.output, RunCloister(arguments).output);
}

TEST(CliTest, OrdinaryGuestsHaveNoDigest) {
  Result result =
      RunCloister({"measure", "--kernel", Kernel(), "--confidential", "off"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.output, HasSubstr("--confidential off"));
}

}  // namespace
}  // namespace cloister::tests
