// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/socket_files.h"

#include <sys/un.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "cloister/api/socket_file.h"
#include "cloister/base/status_matchers.h"
#include "cloister/base/unique_fd.h"
#include "cloister/cli/named_test_socket.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::cli {
namespace {

using ::testing::UnorderedElementsAre;

class SocketFilesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/files-XXXXXX";  // short, for sockets
    ASSERT_NE(::mkdtemp(name), nullptr);
    folder_ = name;
  }
  void TearDown() override {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  std::string Path(const std::string& name) const {
    return absl::StrCat(folder_, "/", name);
  }
  std::set<std::string> All() {
    std::set<std::string> found;
    SocketFiles files;
    SocketFileNames names;
    while (files.Next(&names)) {
      found.insert(absl::StrCat(names.socket.data(), "|",
                                names.lock_fd < 0 ? "" : names.lock.data()));
    }
    return found;
  }
  std::string folder_;
};

TEST_F(SocketFilesTest, ThoseWithANameThatThisProcessListensOn) {
  EXPECT_THAT(All(), UnorderedElementsAre());
  ASSERT_OK_AND_ASSIGN(std::unique_ptr<api::SocketFile> api,
                       api::SocketFile::Create(Path("api")));
  const base::UniqueFd listens = NamedTestSocket(Path("listens"), true);
  const base::UniqueFd does_not = NamedTestSocket(Path("does-not"), false);
  const base::UniqueFd gone = NamedTestSocket(Path("gone"), true);
  ASSERT_EQ(::unlink(Path("gone").c_str()), 0);
  // One that has a file like a lock beside it, which nobody here has open.
  ASSERT_EQ(::symlink("/dev/null", Path("listens.lock").c_str()), 0);
  EXPECT_THAT(All(), UnorderedElementsAre(
                         absl::StrCat(Path("api"), "|", Path("api.lock")),
                         absl::StrCat(Path("listens"), "|")));
}

TEST_F(SocketFilesTest, AsLongAsANameMayBe) {
  const std::string path = Path(
      std::string(sizeof(sockaddr_un::sun_path) - folder_.size() - 1, 'n'));
  ASSERT_EQ(path.size(), sizeof(sockaddr_un::sun_path));
  const base::UniqueFd listens = NamedTestSocket(path, true);
  EXPECT_THAT(All(), UnorderedElementsAre(path + "|"));
}

}  // namespace
}  // namespace cloister::cli
