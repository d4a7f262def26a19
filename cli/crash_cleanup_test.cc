// SPDX-License-Identifier: Apache-2.0
//
// Processes that end by a signal, from several threads, and what they leave.
#include "cloister/cli/crash_cleanup.h"

#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "cloister/api/socket_file.h"
#include "cloister/base/status_matchers.h"
#include "cloister/base/unique_fd.h"
#include "cloister/cli/named_test_socket.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::cli {
namespace {

bool Exists(const std::string& path) {
  struct stat status = {};
  return ::lstat(path.c_str(), &status) == 0;
}

class CrashCleanUpDeathTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ::testing::FLAGS_gtest_death_test_style = "threadsafe";
    // Short, for sockets. A death test runs SetUp again in a process of its
    // own, which is to find the same folder.
    const char* folder = std::getenv("CRASH_CLEANUP_TEST_FOLDER");
    if (folder != nullptr) {
      folder_ = folder;
      return;
    }
    char name[] = "/tmp/crash-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    folder_ = name;
    ::setenv("CRASH_CLEANUP_TEST_FOLDER", name, 1);
  }
  void TearDown() override {
    ::unsetenv("CRASH_CLEANUP_TEST_FOLDER");
    for (const char* name : {"api", "api.lock", "vsock", "client"}) {
      ::unlink(Path(name).c_str());
    }
    EXPECT_EQ(::rmdir(folder_.c_str()), 0) << "something was left";
  }
  std::string Path(const char* name) const {
    return absl::StrCat(folder_, "/", name);
  }
  // Serves, then does `end` on the main thread or another one.
  template <typename End>
  void ServeAnd(bool on_main, End end) {
    if (!InstallCrashCleanUp().ok()) ::_exit(91);
    auto api = api::SocketFile::Create(Path("api"));
    const base::UniqueFd vsock = NamedTestSocket(Path("vsock"), true);
    const base::UniqueFd client = NamedTestSocket(Path("client"), false);
    if (!api.ok() || !Exists(Path("api.lock"))) ::_exit(92);
    if (on_main) {
      end();
    } else {
      std::thread(end).join();
    }
    ::_exit(93);
  }

  std::string folder_;
};

class CrashTest : public CrashCleanUpDeathTest,
                  public ::testing::WithParamInterface<bool> {};

TEST_P(CrashTest, RemovesWhatItListensOnAndNothingElse) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer has handlers of its own";
#endif
  for (int signal : {SIGSEGV, SIGABRT, SIGSYS}) {
    ::unlink(Path("client").c_str());
    EXPECT_EXIT(ServeAnd(GetParam(), [signal] { ::raise(signal); }),
                ::testing::KilledBySignal(signal), "");
    for (const char* name : {"api", "api.lock", "vsock"}) {
      EXPECT_FALSE(Exists(Path(name))) << name << ", signal " << signal;
    }
    EXPECT_TRUE(Exists(Path("client"))) << "does not listen";
  }
}

INSTANTIATE_TEST_SUITE_P(, CrashTest, ::testing::Bool(), [](const auto& info) {
  return info.param ? "MainThread" : "AnotherThread";
});

TEST_F(CrashCleanUpDeathTest, OfOthersTheSignalMeansNothing) {
  auto still_there = [this] {
    ::kill(::getpid(), CleanUpSignal());
    ::_exit(Exists(Path("api")) ? 42 : 43);
  };
  EXPECT_EXIT(ServeAnd(true, still_there), ::testing::ExitedWithCode(42), "");
}

// One that somebody else listens on, and that was handed to this process.
TEST_F(CrashCleanUpDeathTest, WhatOthersListenOnStays) {
  const base::UniqueFd inherited = NamedTestSocket(Path("inherited"), true);
  ::testing::FLAGS_gtest_death_test_style = "fast";
  EXPECT_EXIT(
      {
        if (!InstallCrashCleanUp().ok()) ::_exit(91);
        CleanUpAfterCrash();
        ::_exit(7);
      },
      ::testing::ExitedWithCode(7), "");
  EXPECT_TRUE(Exists(Path("inherited")));
  CleanUpAfterCrash();
  EXPECT_TRUE(Exists(Path("inherited"))) << "nobody asked for it here";
  ::unlink(Path("inherited").c_str());
}

}  // namespace
}  // namespace cloister::cli
