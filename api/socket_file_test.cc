// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/socket_file.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::api {
namespace {

using ::testing::HasSubstr;

class SocketFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/socket-test-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    folder_ = name;
    path_ = folder_ + "/s";
  }
  void TearDown() override { ::rmdir(folder_.c_str()); }
  static bool Exists(const std::string& path) {
    struct stat info;
    return ::lstat(path.c_str(), &info) == 0;
  }
  // A socket's file that nobody listens on.
  void MakeStale() {
    base::UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path_.data(), path_.size());
    ASSERT_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&address),
                     sizeof(address)),
              0);
  }
  std::string folder_, path_;
};

TEST_F(SocketFileTest, HasItsModeAndGoes) {
  const mode_t before = ::umask(022);
  for (mode_t mode : {0600, 0660, 0666}) {
    ASSERT_OK_AND_ASSIGN(std::unique_ptr<SocketFile> file,
                         SocketFile::Create(path_, mode));
    struct stat info;
    ASSERT_EQ(::lstat(path_.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, mode);
    file.reset();
    EXPECT_FALSE(Exists(path_));
    EXPECT_FALSE(Exists(path_ + ".lock"));
  }
  ::umask(before);
}

TEST_F(SocketFileTest, TakesOverWhatNobodyServes) {
  MakeStale();
  ASSERT_OK_AND_ASSIGN(std::unique_ptr<SocketFile> file,
                       SocketFile::Create(path_));
  EXPECT_TRUE(Exists(path_));
}

TEST_F(SocketFileTest, LeavesAServerAlone) {
  ASSERT_OK_AND_ASSIGN(std::unique_ptr<SocketFile> first,
                       SocketFile::Create(path_));
  auto second = SocketFile::Create(path_);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists);
  // Also one that has no lock.
  ::unlink((path_ + ".lock").c_str());
  second = SocketFile::Create(path_);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(Exists(path_));
}

TEST_F(SocketFileTest, LeavesOtherFilesAlone) {
  const int fd = ::open(path_.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
  ASSERT_GE(fd, 0);
  ::close(fd);
  auto file = SocketFile::Create(path_);
  EXPECT_THAT(std::string(file.status().message()), HasSubstr("not a socket"));
  EXPECT_TRUE(Exists(path_));
  EXPECT_FALSE(Exists(path_ + ".lock"));
  ::unlink(path_.c_str());
}

TEST_F(SocketFileTest, RemovesOnlyItsOwnSocket) {
  ASSERT_OK_AND_ASSIGN(std::unique_ptr<SocketFile> file,
                       SocketFile::Create(path_));
  ::unlink(path_.c_str());
  MakeStale();
  file.reset();
  EXPECT_TRUE(Exists(path_));
  ::unlink(path_.c_str());
}

TEST_F(SocketFileTest, PathsHaveTheirLength) {
  EXPECT_FALSE(SocketFile::Create("").ok());
  const std::string longest =
      folder_ + "/" + std::string(107 - folder_.size() - 1, 'x');
  EXPECT_OK(SocketFile::Create(longest).status());
  auto longer = SocketFile::Create(longest + "x");
  EXPECT_THAT(std::string(longer.status().message()),
              HasSubstr("1 to 107 bytes"));
}

TEST(ListenLoopbackTest, OnlyLoopback) {
  ASSERT_OK_AND_ASSIGN(base::UniqueFd fd, ListenLoopback("127.0.0.1:0"));
  ASSERT_OK_AND_ASSIGN(std::string address, LocalAddress(fd.get()));
  EXPECT_THAT(address, HasSubstr("127.0.0.1:"));
  EXPECT_OK(ListenLoopback("127.3.2.1:0").status());
  for (const char* bad : {"0.0.0.0:0", "10.0.0.1:80", "[::]:0", "localhost:80",
                          "127.0.0.1", "127.0.0.1:65536", ":80", ""}) {
    EXPECT_EQ(ListenLoopback(bad).status().code(),
              absl::StatusCode::kInvalidArgument)
        << bad;
  }
}

}  // namespace
}  // namespace cloister::api
