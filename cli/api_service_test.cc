// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/api_service.h"

#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <fstream>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/api/client.h"
#include "cloister/api/json.h"
#include "cloister/base/status_matchers.h"
#include "cloister/base/syscall.h"
#include "cloister/cli/ctl_command.h"
#include "cloister/cli/ctl_options.h"
#include "cloister/cli/exit_code.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::cli {
namespace {

using ::cloister::base::StatusIs;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class ApiServiceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    // Short: the path of a Unix socket has 107 bytes at most.
    char folder[] = "/tmp/cloister.XXXXXX";
    ASSERT_NE(::mkdtemp(folder), nullptr);
    folder_ = folder;
    options_.socket = absl::StrCat(folder_, "/api");
  }
  void TearDown() override {
    for (const char* file : {"api", "api.lock", "token"}) {
      ::unlink(absl::StrCat(folder_, "/", file).c_str());
    }
    EXPECT_EQ(::rmdir(folder_.c_str()), 0) << "something was left";
  }

  absl::StatusOr<std::unique_ptr<ApiService>> Create() {
    ApiService::Parts parts;
    parts.id = "one";
    parts.events = &events_;
    return ApiService::Create(options_, std::move(parts));
  }
  bool Exists(const std::string& path) {
    struct stat status = {};
    return ::lstat(path.c_str(), &status) == 0;
  }

  std::string folder_;
  ApiOptions options_;
  api::EventHub events_;
};

TEST_F(ApiServiceTest, ServesOnASocketWithThatModeAndTakesItAway) {
  options_.mode = 0640;
  ASSERT_OK_AND_ASSIGN(auto service, Create());
  struct stat status = {};
  ASSERT_EQ(::lstat(options_.socket.c_str(), &status), 0);
  EXPECT_TRUE(S_ISSOCK(status.st_mode));
  EXPECT_EQ(status.st_mode & 0777, 0640u);
  std::atomic<int> threads = 0;
  ASSERT_OK(service->Start([&] { ++threads; }));
  ASSERT_OK_AND_ASSIGN(auto client, api::Client::Connect(options_.socket));
  ASSERT_OK_AND_ASSIGN(std::string text, client->Get("/"));
  EXPECT_THAT(text, HasSubstr("\"id\":\"one\""));
  EXPECT_THAT(text, HasSubstr("Not started"));
  EXPECT_GE(threads, 1);
  EXPECT_EQ(service->tcp_address(), "");
  service->Stop();
  EXPECT_FALSE(Exists(options_.socket));
  EXPECT_THAT(api::Client::Connect(options_.socket).status(),
              StatusIs(absl::StatusCode::kUnavailable));
}

TEST_F(ApiServiceTest, IsGoneWithTheObjectAsWell) {
  ASSERT_OK_AND_ASSIGN(auto service, Create());
  ASSERT_OK(service->Start([] {}));
  service.reset();
  EXPECT_FALSE(Exists(options_.socket));
}

TEST_F(ApiServiceTest, ASocketInUseStaysWhoseItIs) {
  ASSERT_OK_AND_ASSIGN(auto first, Create());
  ASSERT_OK(first->Start([] {}));
  auto second = Create();
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(std::string(second.status().message()),
              HasSubstr(options_.socket));
  ASSERT_OK_AND_ASSIGN(auto client, api::Client::Connect(options_.socket));
  EXPECT_OK(client->Get("/"));
}

TEST_F(ApiServiceTest, AFaultForLackOfRightsSaysWhoLacksThem) {
  int error = EACCES;
  ApiService::Parts parts;
  parts.id = "one";
  parts.events = &events_;
  parts.denied_hint = "; the monitor has become user 65534";
  parts.configure_log = [&error](const api::Json&) {
    return base::ErrnoStatus(error, "log_path: open /root/log");
  };
  ASSERT_OK_AND_ASSIGN(auto service,
                       ApiService::Create(options_, std::move(parts)));
  ASSERT_OK(service->Start([] {}));
  ASSERT_OK_AND_ASSIGN(auto client, api::Client::Connect(options_.socket));
  auto put = [&] {
    auto response = client->Call("PUT", "/logger", "{\"log_path\":\"/x\"}");
    return response.ok() ? api::FaultMessage(*response)
                         : response.status().ToString();
  };
  EXPECT_EQ(put(),
            "log_path: open /root/log: Permission denied (EACCES); the monitor "
            "has become user 65534");
  error = ENOENT;
  EXPECT_THAT(put(), EndsWith("(ENOENT)"));
}

TEST_F(ApiServiceTest, TcpNeedsATokenAndALoopbackAddress) {
  options_.tcp = "127.0.0.1:0";
  EXPECT_THAT(std::string(Create().status().message()),
              HasSubstr("--api-token-file"));
  options_.token_file = absl::StrCat(folder_, "/token");
  std::ofstream(options_.token_file) << "sixteen letters!" << std::endl;
  ASSERT_EQ(::chmod(options_.token_file.c_str(), 0600), 0);
  options_.tcp = "192.0.2.1:0";
  EXPECT_THAT(std::string(Create().status().message()), HasSubstr("--api-tcp"));
  options_.tcp = "127.0.0.1:0";
  ASSERT_OK_AND_ASSIGN(auto service, Create());
  EXPECT_THAT(service->tcp_address(), StartsWith("127.0.0.1:"));
  EXPECT_NE(service->tcp_address(), "127.0.0.1:0") << "the port it got";
  ASSERT_OK(service->Start([] {}));
  ASSERT_OK_AND_ASSIGN(
      auto client,
      api::Client::ConnectTcp(service->tcp_address(), "sixteen letters!"));
  EXPECT_THAT(client->Get("/"), base::IsOkAndHolds(HasSubstr("\"one\"")));
  // `cloister ctl` finds the token as the server does.
  CtlOptions ctl;
  ctl.tcp = service->tcp_address();
  ctl.token_file = options_.token_file;
  ctl.verb = "get";
  ctl.path = "/version";
  EXPECT_EQ(CtlCommand(ctl), kExitOk);
  std::ofstream(options_.token_file) << "sixteen numbers!" << std::endl;
  EXPECT_EQ(CtlCommand(ctl), kExitError) << "another token";
  for (const char* address : {"", "127.0.0.1", "localhost:80", "127.0.0.1:x",
                              "127.0.0.1:65536", "::1:80", "[127.0.0.1]:80"}) {
    EXPECT_THAT(api::Client::ConnectTcp(address, "t").status(),
                StatusIs(absl::StatusCode::kInvalidArgument))
        << address;
  }
}

}  // namespace
}  // namespace cloister::cli
