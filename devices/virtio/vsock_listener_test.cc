// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/vsock_listener.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string>

#include "cloister/base/status_matchers.h"
#include "cloister/base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::devices::virtio {
namespace {

using base::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

class VsockListenerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char directory[] = "/tmp/cloister-listener-XXXXXX";
    ASSERT_NE(::mkdtemp(directory), nullptr);
    directory_ = directory;
    path_ = directory_ + "/s";
  }
  void TearDown() override {
    EXPECT_EQ(::rmdir(directory_.c_str()), 0) << "something is left behind";
  }
  bool Exists() const { return ::access(path_.c_str(), F_OK) == 0; }

  std::string directory_, path_;
};

TEST_F(VsockListenerTest, RemovesItsPath) {
  {
    ASSERT_OK_AND_ASSIGN(auto listener, VsockListener::Create(path_));
    EXPECT_THAT(listener->Accept(), StatusIs(absl::StatusCode::kUnavailable));
    ASSERT_OK_AND_ASSIGN(base::UniqueFd client, ConnectUnix(path_));
    EXPECT_OK(listener->Accept());
  }
  EXPECT_FALSE(Exists());
}

TEST_F(VsockListenerTest, RefusesAPathInUse) {
  ASSERT_OK_AND_ASSIGN(auto listener, VsockListener::Create(path_));
  EXPECT_THAT(VsockListener::Create(path_),
              StatusIs(absl::StatusCode::kAlreadyExists,
                       HasSubstr(path_ + " is in use")));
  EXPECT_OK(ConnectUnix(path_));
}

// Anyone who can read the directory can: it keeps nobody from ending.
TEST_F(VsockListenerTest, ALockedDirectoryIsNotWaitedForForever) {
  const base::UniqueFd directory(
      ::open(directory_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  ASSERT_OK_AND_ASSIGN(auto listener, VsockListener::Create(path_));
  ASSERT_EQ(::flock(directory.get(), LOCK_EX), 0);
  EXPECT_THAT(VsockListener::Create(directory_ + "/other"),
              StatusIs(absl::StatusCode::kUnavailable,
                       AllOf(HasSubstr("/other"), HasSubstr("locked"))));
  listener.reset();
  EXPECT_FALSE(Exists());
  ASSERT_EQ(::flock(directory.get(), LOCK_UN), 0);
  EXPECT_OK(VsockListener::Create(path_));
}

TEST_F(VsockListenerTest, TakesOverWhatNobodyListensTo) {
  base::UniqueFd old(::socket(AF_UNIX, SOCK_STREAM, 0));
  struct sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path_.data(), path_.size());
  ASSERT_EQ(::bind(old.get(), reinterpret_cast<struct sockaddr*>(&address),
                   sizeof(address)),
            0);
  old.reset();
  ASSERT_TRUE(Exists());
  ASSERT_OK_AND_ASSIGN(auto listener, VsockListener::Create(path_));
  EXPECT_OK(ConnectUnix(path_));
}

TEST_F(VsockListenerTest, LeavesOtherFilesAlone) {
  base::UniqueFd file(::open(path_.c_str(), O_CREAT | O_WRONLY, 0600));
  EXPECT_THAT(VsockListener::Create(path_),
              StatusIs(absl::StatusCode::kAlreadyExists,
                       HasSubstr(path_ + " exists and is not a socket")));
  EXPECT_TRUE(Exists());
  ::unlink(path_.c_str());
}

TEST_F(VsockListenerTest, LeavesAPathThatIsSomeoneElsesByNow) {
  {
    ASSERT_OK_AND_ASSIGN(auto listener, VsockListener::Create(path_));
    ASSERT_EQ(::unlink(path_.c_str()), 0);
    base::UniqueFd file(::open(path_.c_str(), O_CREAT | O_WRONLY, 0600));
  }
  EXPECT_TRUE(Exists());
  ::unlink(path_.c_str());
}

TEST_F(VsockListenerTest, SaysHowLongAPathMayBe) {
  const std::string longest =
      directory_ + "/" +
      std::string(VsockListener::kMaxPath - directory_.size() - 1, 'x');
  EXPECT_OK(VsockListener::Create(longest));
  EXPECT_THAT(VsockListener::Create(longest + "x"),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr(longest), HasSubstr("too long"))));
  EXPECT_THAT(VsockListener::Create(""),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(VsockListenerTest, NamesADirectoryThatIsNotThere) {
  EXPECT_THAT(VsockListener::Create(directory_ + "/no/s"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/no")));
}

}  // namespace
}  // namespace cloister::devices::virtio
