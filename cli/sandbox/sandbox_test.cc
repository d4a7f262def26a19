// SPDX-License-Identifier: Apache-2.0
//
// The program's sandbox on the C library that it is shipped with, in processes
// of their own.
#include "cloister/cli/sandbox/sandbox.h"

#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_matchers.h"
#include "cloister/cli/exit_code.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

struct Result {
  int exit_code = -1;
  std::string output;
};

Result Child(const std::string& arguments) {
  const char* child = std::getenv("SANDBOX_TEST_CHILD");
  if (child == nullptr) return {-1, "set SANDBOX_TEST_CHILD to the helper"};
  std::FILE* pipe =
      ::popen(absl::StrCat(child, " ", arguments, " 2>&1").c_str(), "r");
  if (pipe == nullptr) return {};
  Result result;
  std::array<char, 512> buffer;
  while (std::fgets(buffer.data(), buffer.size(), pipe) != nullptr) {
    result.output += buffer.data();
  }
  const int status = ::pclose(pipe);
  result.exit_code =
      WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
  return result;
}

constexpr const char* kKinds[] = {"main", "vcpu", "device", "conversion",
                                  "api"};

class SandboxTest : public ::testing::Test {
 protected:
  void SetUp() override {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "sanitizers switch the filters off";
#endif
  }
};

TEST_F(SandboxTest, ARefusedCallIsNamedWithItsThreadOnEveryKind) {
  struct Case {
    const char* action;
    const char* call;
  };
  for (const char* kind : kKinds) {
    for (const Case& each :
         {Case{"execve", "execve (59)"}, Case{"mmap", "mmap (9)"},
          Case{"socket", "socket (41)"}}) {
      Result result = Child(absl::StrCat(kind, " ", each.action));
      EXPECT_EQ(result.exit_code, kExitSeccomp)
          << kind << " " << each.action << ": " << result.output;
      EXPECT_THAT(result.output,
                  HasSubstr(absl::StrCat("cloister: error: seccomp: a thread "
                                         "of kind ",
                                         kind, " may not call ", each.call)));
      EXPECT_THAT(result.output, HasSubstr("docs/sandbox.md"));
      EXPECT_THAT(result.output, Not(HasSubstr("not refused")));
    }
  }
}

TEST_F(SandboxTest, ThreadsWithoutAFilterOfTheirOwnHaveTheMainThreads) {
  EXPECT_EQ(Child("api-worker openat").exit_code, 0);
  Result result = Child("api-worker execve");
  EXPECT_EQ(result.exit_code, kExitSeccomp) << result.output;
  EXPECT_THAT(result.output, HasSubstr("kind main may not call execve"));
}

TEST_F(SandboxTest, ArgumentsAreShown) {
  // AF_NETLINK, SOCK_RAW
  EXPECT_THAT(Child("api socket").output, HasSubstr("arguments 0x10 0x3 0x0"));
}

TEST_F(SandboxTest, WhatIsAllowedIsNotRefused) {
  for (const char* kind : kKinds) {
    Result result = Child(absl::StrCat(kind, " nothing"));
    EXPECT_EQ(result.exit_code, 0) << kind << result.output;
    result = Child(absl::StrCat(kind, " date"));
    EXPECT_EQ(result.exit_code, 0) << kind << result.output;
  }
  EXPECT_EQ(Child("main openat").exit_code, 0);
  EXPECT_EQ(Child("vcpu openat").exit_code, kExitSeccomp);
}

TEST_F(SandboxTest, NoSeccompSaysSo) {
  Result result = Child("--seccomp off vcpu openat");
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.output, HasSubstr("seccomp: off (--no-seccomp)"));
  EXPECT_THAT(Child("--seccomp off main identity").output,
              HasSubstr("NoNewPrivs:\t1"));
}

// How often `what` is in `text`.
int Count(const std::string& text, const std::string& what) {
  int count = 0;
  for (size_t at = text.find(what); at != std::string::npos;
       at = text.find(what, at + 1)) {
    ++count;
  }
  return count;
}

TEST_F(SandboxTest, EveryThreadBecomesThatUserWithoutCapabilities) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can become somebody else";
  Result result = Child("--user 12345 --group 23456 main identity");
  EXPECT_EQ(result.exit_code, 0) << result.output;
  // The main thread and one that was under its own filter already.
  for (const char* line :
       {"Uid:\t12345\t12345\t12345\t12345\n",
        "Gid:\t23456\t23456\t23456\t23456\n", "Groups:\t \n",
        "CapInh:\t0000000000000000\n", "CapPrm:\t0000000000000000\n",
        "CapEff:\t0000000000000000\n", "CapBnd:\t0000000000000000\n",
        "CapAmb:\t0000000000000000\n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n"}) {
    EXPECT_EQ(Count(result.output, line), 2) << line << result.output;
  }
}

TEST_F(SandboxTest, AUserByNameTakesItsOwnGroup) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can become somebody else";
  Result result = Child("--user nobody main identity");
  EXPECT_THAT(result.output, HasSubstr("Uid:\t65534\t65534\t65534\t65534"));
  EXPECT_THAT(result.output, HasSubstr("Gid:\t65534\t65534\t65534\t65534"));
}

TEST_F(SandboxTest, OnlyRootCanBecomeSomebodyElse) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to be somebody first";
  const std::string script =
      absl::StrCat("--user 12345 --group 12345 main nothing");
  const char* child = std::getenv("SANDBOX_TEST_CHILD");
  ASSERT_NE(child, nullptr);
  ::setenv(
      "SANDBOX_TEST_CHILD",
      absl::StrCat("setpriv --reuid 777 --regid 777 --clear-groups ", child)
          .c_str(),
      1);
  Result result = Child(script);
  ::setenv("SANDBOX_TEST_CHILD", child, 1);
  EXPECT_EQ(result.exit_code, 1) << result.output;
  EXPECT_THAT(result.output, HasSubstr("--group: setresgid: EPERM"));
}

}  // namespace
}  // namespace cloister::cli
