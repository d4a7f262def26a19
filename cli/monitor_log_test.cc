// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/monitor_log.h"

#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "cloister/base/status_matchers.h"
#include "cloister/cli/exit_code.h"
#include "cloister/cli/log_options.h"
#include "cloister/cli/sandbox/refusal_handler.h"
#include "cloister/vmm/sandbox/seccomp_filter.h"
#include "cloister/vmm/sandbox/seccomp_rules.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::cli {
namespace {

using api::Json;
using base::StatusIs;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::MatchesRegex;
using ::testing::Not;

class MonitorLogTest : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = absl::StrCat(::testing::TempDir(), "/log");
    ::unlink(path_.c_str());
  }
  std::string Lines() const {
    std::ifstream file(path_);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  // Everything that `action` writes on standard error.
  template <typename Action>
  std::string Stderr(Action action) {
    ::testing::internal::CaptureStderr();
    action();
    return ::testing::internal::GetCapturedStderr();
  }

  std::string path_;
};

TEST_F(MonitorLogTest, LinesGoToTheFileOnceThereIsOne) {
  MonitorLog log("one", base::LogLevel::kInfo);
  EXPECT_THAT(Stderr([&] { log.log().Info("early"); }), HasSubstr("early"));
  ASSERT_OK(log.Configure({{"log_path", path_}, {"show_level", true}}));
  EXPECT_THAT(Stderr([&] {
                log.log().Info("late");
                log.log().Debug("detail");
              }),
              IsEmpty());
  EXPECT_THAT(Lines(), EndsWith(" [one:info] late\n"));
  EXPECT_THAT(Lines(), Not(HasSubstr("early")));
}

TEST_F(MonitorLogTest, TheLevelOfTheFileGoesBeforeThatOfTheOptions) {
  MonitorLog log("one", base::LogLevel::kInfo);
  ASSERT_OK(log.Configure({{"log_path", path_}, {"level", "Debug"}}));
  log.log().Debug("detail");
  EXPECT_THAT(Lines(), HasSubstr("detail"));
  ASSERT_OK(log.Configure({{"level", "Off"}}));
  log.log().Error("nobody reads this");
  EXPECT_THAT(Lines(), Not(HasSubstr("nobody")));
}

TEST_F(MonitorLogTest, WhatEndsTheProcessIsOnStderrToo) {
  MonitorLog log("one", base::LogLevel::kInfo);
  EXPECT_THAT(Stderr([&] { log.Fail("first"); }), "cloister: error: first\n");
  ASSERT_OK(log.Configure({{"log_path", path_}}));
  EXPECT_THAT(Stderr([&] { log.Fail("second"); }), "cloister: error: second\n");
  EXPECT_THAT(Lines(), EndsWith("second\n"));
}

TEST_F(MonitorLogTest, WarningsAreEvents) {
  MonitorLog log("one", base::LogLevel::kInfo);
  auto listener = log.events().Subscribe([] {});
  Stderr([&] { log.log().Warning("careful"); });
  const std::string event = listener->Take(4096);
  EXPECT_THAT(event, HasSubstr("\"event\":\"log\""));
  EXPECT_THAT(event, HasSubstr("careful"));
}

TEST_F(MonitorLogTest, AFileThatCannotBeOpenedIsNamed) {
  MonitorLog log("one", base::LogLevel::kInfo);
  EXPECT_THAT(log.Configure({{"log_path", "/no/such/folder/x"}}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("log_path: open /no/such/folder/x")));
}

// A refused call, in a process of its own, in the file that `logger` names.
[[noreturn]] void Refuse(const Json& logger) {
  MonitorLog log("o\"ne", base::LogLevel::kInfo);
  auto filter =
      vmm::SeccompFilter::Build(vmm::ThreadKind::kVcpu, vmm::SeccompRules({}));
  if (!log.Configure(logger).ok() || !filter.ok() ||
      !InstallRefusalHandler().ok() ||
      ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      !filter->Install().ok()) {
    ::_exit(1);
  }
  ::syscall(SYS_ptrace, 0x11, 0x22, 0x33);
  ::_exit(2);
}

using MonitorLogDeathTest = MonitorLogTest;

TEST_F(MonitorLogDeathTest, ARefusedCallIsNamedInTheFile) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer's runtime makes calls of its own";
#endif
  EXPECT_EXIT(Refuse({{"log_path", path_}, {"show_level", true}}),
              ::testing::ExitedWithCode(kExitSeccomp), "may not call ptrace");
  EXPECT_THAT(Lines(),
              MatchesRegex("20[0-9]*-[0-9]*-[0-9]*T[0-9]*:[0-9]*:[0-9]*\\."
                           "[0-9]*Z \\[o\"ne:error\\] seccomp: a thread of "
                           "kind vcpu may not call ptrace .*\n"));
  ::unlink(path_.c_str());
  EXPECT_EXIT(Refuse({{"log_path", path_}, {"format", "json"}}),
              ::testing::ExitedWithCode(kExitSeccomp), "may not call ptrace");
  auto line = api::ParseJson(Lines());
  ASSERT_OK(line);
  EXPECT_EQ((*line)["id"], "o\"ne");
  EXPECT_EQ((*line)["level"], "error");
  EXPECT_THAT((*line)["message"].get<std::string>(),
              HasSubstr("may not call ptrace (101), arguments 0x11"));
  EXPECT_EQ((*line)["time"].get<std::string>().size(), 27u);
}

TEST(WithLogOptionsTest, OptionsGoBeforeTheFile) {
  LogOptions options;
  EXPECT_EQ(WithLogOptions("{}", options), "{}");
  const std::string file = R"({"logger":{"log_path":"/f","level":"Error"},)"
                           R"("metrics":{"metrics_path":"/m","emit_id":true}})";
  EXPECT_EQ(api::ParseJson(WithLogOptions(file, options)),
            api::ParseJson(file));
  options.path = "/o";
  options.level = "debug";
  options.show_level = true;
  options.metrics_path = "/n";
  EXPECT_EQ(
      *api::ParseJson(WithLogOptions(file, options)),
      *api::ParseJson(R"({"logger":{"log_path":"/o","level":"debug",)"
                      R"("show_level":true},)"
                      R"("metrics":{"metrics_path":"/n","emit_id":true}})"));
  EXPECT_EQ(*api::ParseJson(WithLogOptions("{}", options)),
            *api::ParseJson(
                R"({"logger":{"log_path":"/o","level":"debug",)"
                R"("show_level":true},"metrics":{"metrics_path":"/n"}})"));
}

TEST(WithLogOptionsTest, TheLevelOfEveryCommandStandsInForNone) {
  LogOptions options;
  options.path = "/o";
  options.minimum = base::LogLevel::kDebug;
  EXPECT_THAT(WithLogOptions("{}", options), HasSubstr("\"level\":\"debug\""));
}

TEST(WithLogOptionsTest, MistakesAreLeftToWhoeverReadsTheText) {
  LogOptions options;
  options.path = "/o";
  options.metrics_path = "/m";
  for (const char* text :
       {"", "{", "[]", R"({"logger":7})", R"({"logger":{},"metrics":[]})"}) {
    EXPECT_EQ(WithLogOptions(text, options), text);
  }
}

TEST(NameLogOptionsTest, NamesTheOptionThatWasGiven) {
  LogOptions options;
  const absl::Status status = absl::InvalidArgumentError("log_path: open /x");
  EXPECT_EQ(NameLogOptions(status, options), status);
  options.path = "/x";
  EXPECT_EQ(NameLogOptions(status, options),
            absl::InvalidArgumentError("--log-path: open /x"));
  options.metrics_path = "/y";
  EXPECT_EQ(
      NameLogOptions(absl::NotFoundError("metrics_path: open /y"), options),
      absl::NotFoundError("--metrics-path: open /y"));
  EXPECT_OK(NameLogOptions(absl::OkStatus(), options));
}

}  // namespace
}  // namespace cloister::cli
