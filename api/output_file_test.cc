// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/output_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>

#include "cloister/base/status_matchers.h"
#include "gtest/gtest.h"

namespace cloister::api {
namespace {

class OutputFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = ::testing::TempDir() + "/output-XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
    path_ = folder_ + "/f";
  }
  void TearDown() override {
    ::unlink(path_.c_str());
    ::rmdir(folder_.c_str());
  }
  std::string folder_, path_;
};

TEST_F(OutputFileTest, AppendsToAFileThatOnlyTheOwnerReads) {
  for (int i = 0; i < 2; ++i) {
    ASSERT_OK_AND_ASSIGN(std::unique_ptr<OutputFile> file,
                         OutputFile::Open(path_));
    EXPECT_EQ(file->Write("line\n"), 5u);
    EXPECT_EQ(file->dropped_bytes(), 0u);
  }
  std::ifstream in(path_);
  std::stringstream text;
  text << in.rdbuf();
  EXPECT_EQ(text.str(), "line\nline\n");
  struct stat info;
  ASSERT_EQ(::stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST_F(OutputFileTest, NamedPipeNeedsNoReaderAndIsNotWaitedFor) {
  ASSERT_EQ(::mkfifo(path_.c_str(), 0600), 0);
  ASSERT_OK_AND_ASSIGN(std::unique_ptr<OutputFile> file,
                       OutputFile::Open(path_));
  const std::string line(1000, 'x');
  size_t written = 0;
  for (int i = 0; i < 2000; ++i) written += file->Write(line);
  EXPECT_GT(written, 0u);
  EXPECT_EQ(file->dropped_bytes(), 2000000 - written);
  EXPECT_GT(file->dropped_bytes(), 0u);
  // A reader who comes late gets what there is.
  const int reader = ::open(path_.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  ASSERT_GE(reader, 0);
  char part[4096];
  EXPECT_GT(::read(reader, part, sizeof(part)), 0);
  ::close(reader);
}

TEST_F(OutputFileTest, RefusesWhatIsNoFile) {
  EXPECT_FALSE(OutputFile::Open(folder_).ok());
  EXPECT_EQ(OutputFile::Open(folder_ + "/no/file").status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_OK(OutputFile::Open("/dev/null").status());
}

}  // namespace
}  // namespace cloister::api
