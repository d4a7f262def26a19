// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/sandbox/socket_owner.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "cloister/api/socket_file.h"
#include "cloister/base/status_matchers.h"
#include "cloister/base/unique_fd.h"
#include "cloister/cli/named_test_socket.h"
#include "gtest/gtest.h"

namespace cloister::cli {
namespace {

constexpr uid_t kUser = 12345;
constexpr gid_t kGroup = 23456;

class SocketOwnerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "only root can give files away";
    char name[] = "/tmp/owner-XXXXXX";  // short, for sockets
    ASSERT_NE(::mkdtemp(name), nullptr);
    folder_ = name;
  }
  void TearDown() override {
    std::error_code ignored;
    if (!folder_.empty()) std::filesystem::remove_all(folder_, ignored);
  }
  std::string Path(const char* name) const {
    return absl::StrCat(folder_, "/", name);
  }
  // "user:group" of a file itself, not of what it points to.
  std::string Owner(const char* name) {
    struct stat info = {};
    EXPECT_EQ(::lstat(Path(name).c_str(), &info), 0) << name;
    return absl::StrCat(info.st_uid, ":", info.st_gid);
  }
  std::string folder_;
};

TEST_F(SocketOwnerTest, SocketsAndTheirLocksAreGiven) {
  ASSERT_OK_AND_ASSIGN(std::unique_ptr<api::SocketFile> api,
                       api::SocketFile::Create(Path("api")));
  const base::UniqueFd vsock = NamedTestSocket(Path("vsock"), true);
  const base::UniqueFd other(
      ::open(Path("disk").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
  GiveSocketFiles({.uid = kUser, .gid = kGroup});
  EXPECT_EQ(Owner("api"), "12345:0");
  EXPECT_EQ(Owner("api.lock"), "12345:0");
  EXPECT_EQ(Owner("vsock"), "12345:0");
  EXPECT_EQ(Owner("disk"), "0:0");
}

TEST_F(SocketOwnerTest, WithoutAUserNothingIs) {
  const base::UniqueFd vsock = NamedTestSocket(Path("vsock"), true);
  GiveSocketFiles({.uid = {}, .gid = kGroup});
  EXPECT_EQ(Owner("vsock"), "0:0");
  GiveSocketFiles({.uid = kUser, .gid = {}});
  EXPECT_EQ(Owner("vsock"), "12345:0");
}

// What somebody puts in a socket's place stays whose it is.
TEST_F(SocketOwnerTest, OthersFilesAreNotGivenAway) {
  const base::UniqueFd secret(
      ::open(Path("secret").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
  for (const char* name : {"pointed", "linked", "file", "foreign"}) {
    SCOPED_TRACE(name);
    const std::string kind = name;
    const base::UniqueFd socket = NamedTestSocket(Path(name), true);
    if (kind == "linked") {
      ASSERT_EQ(::link(Path(name).c_str(), Path("second").c_str()), 0);
    } else if (kind == "foreign") {
      ASSERT_EQ(::chown(Path(name).c_str(), 7, 7), 0);
    } else {
      ASSERT_EQ(::unlink(Path(name).c_str()), 0);
      ASSERT_EQ(kind == "pointed"
                    ? ::symlink(Path("secret").c_str(), Path(name).c_str())
                    : ::link(Path("secret").c_str(), Path(name).c_str()),
                0);
    }
    GiveSocketFiles({.uid = kUser, .gid = kGroup});
    EXPECT_EQ(Owner(name), kind == "foreign" ? "7:7" : "0:0");
    EXPECT_EQ(Owner("secret"), "0:0");
  }
}

}  // namespace
}  // namespace cloister::cli
