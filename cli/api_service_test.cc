// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/api_service.h"

#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/api/client.h"
#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::cli {
namespace {

using ::cloister::base::StatusIs;
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
}

}  // namespace
}  // namespace cloister::cli
