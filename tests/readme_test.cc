// SPDX-License-Identifier: Apache-2.0
//
// A new user's path: the commands of the README's part about HTTP, run as they
// are printed, in a folder that has the files they name. Natively on /dev/kvm,
// with a kernel that needs no more than this machine can do.
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/api/client.h"
#include "cloister/base/status_matchers.h"
#include "cloister/cli/pty_session.h"
#include "cloister/tests/doc_commands.h"
#include "cloister/tests/guest_process.h"
#include "cloister/vmm/micro_kernel.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::tests {
namespace {

using base::IsOkAndHolds;
using ::testing::HasSubstr;
using ::testing::SizeIs;
using ::testing::StartsWith;

constexpr char kSocket[] = "/tmp/vm.sock";

class ReadmeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::access("/dev/kvm", R_OK | W_OK) != 0) {
      GTEST_SKIP() << "no /dev/kvm here that this user may open";
    }
    if (api::Client::Connect(kSocket).ok()) {
      GTEST_SKIP() << kSocket << " is in use";
    }
    char name[] = "/tmp/readme-test-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    folder_ = name;
    std::filesystem::create_directories(folder_ + "/bazel-bin/cli");
    std::filesystem::create_symlink(std::filesystem::absolute("cli/cloister"),
                                    folder_ + "/bazel-bin/cli/cloister");
    ASSERT_OK(
        vmm::WriteMicroKernel(vmm::MicroKernel::kPrint, folder_ + "/vmlinuz"));
    std::ofstream(folder_ + "/initrd.img") << std::string(4096, 'i');
  }
  void TearDown() override {
    server_.reset();
    std::error_code ignored;
    if (!folder_.empty()) std::filesystem::remove_all(folder_, ignored);
  }
  std::vector<std::string> Shell(const std::string& script) {
    return {"/bin/bash", "-c", absl::StrCat("cd ", folder_, "\n", script)};
  }

  std::string folder_;
  std::unique_ptr<GuestProcess> server_;
};

TEST_F(ReadmeTest, ByHttp) {
  ASSERT_OK_AND_ASSIGN(std::vector<std::string> commands,
                       DocCommands("README.md", "## By HTTP"));
  ASSERT_THAT(commands, SizeIs(5));
  ASSERT_THAT(commands[0], StartsWith("bazel-bin/cli/cloister serve"));
  ASSERT_OK_AND_ASSIGN(server_,
                       GuestProcess::Start(Shell(commands[0] + "\nwait $!")));
  const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while (!api::Client::Connect(kSocket).ok() &&
         std::chrono::steady_clock::now() < end) {
    std::this_thread::yield();
  }
  for (size_t i : {1, 2}) {
    ASSERT_OK_AND_ASSIGN(auto curl, GuestProcess::Start(Shell(commands[i])));
    EXPECT_THAT(curl->Wait(), IsOkAndHolds(0)) << commands[i];
    EXPECT_THAT(curl->output(), ::testing::Not(HasSubstr("fault_message")));
  }
  ASSERT_OK_AND_ASSIGN(auto client, api::Client::Connect(kSocket));
  EXPECT_THAT(client->Get("/"),
              IsOkAndHolds(HasSubstr("\"state\":\"Running\"")));

  ASSERT_THAT(commands[3], HasSubstr(" top"));
  ASSERT_OK_AND_ASSIGN(auto terminal, cli::PtySession::Create());
  ASSERT_OK(terminal->Start(Shell(commands[3])));
  EXPECT_OK(terminal->Expect("Running"));
  EXPECT_OK(terminal->Expect("port_write"));
  EXPECT_OK(terminal->Type("q"));
  EXPECT_THAT(terminal->Wait(), IsOkAndHolds(0));
  EXPECT_TRUE(terminal->restored());

  ASSERT_THAT(commands[4], HasSubstr(" stop"));
  ASSERT_OK_AND_ASSIGN(auto stop, GuestProcess::Start(Shell(commands[4])));
  EXPECT_THAT(stop->Wait(), IsOkAndHolds(0)) << stop->output();
  EXPECT_THAT(server_->Wait(), IsOkAndHolds(0)) << server_->output();
  EXPECT_NE(::access(kSocket, F_OK), 0);
}

}  // namespace
}  // namespace cloister::tests
