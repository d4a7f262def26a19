// SPDX-License-Identifier: Apache-2.0
#include "cloister/boot/input_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::boot {
namespace {

using ::cloister::base::StatusIs;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

std::string WriteFile(const std::string& name, const std::string& content) {
  std::string path = ::testing::TempDir() + "/" + name;
  std::ofstream(path, std::ios::binary | std::ios::trunc) << content;
  return path;
}

TEST(InputFileTest, ReadsTheWholeFile) {
  std::string path = WriteFile("three", "abc");
  ASSERT_OK_AND_ASSIGN(InputFile file, InputFile::Open("kernel", path));
  EXPECT_EQ(file.size(), 3u);
  EXPECT_EQ(file.name(), "kernel " + path);
  ASSERT_OK_AND_ASSIGN(SharedBytes bytes, file.Read(3));
  EXPECT_THAT(bytes.span(), ElementsAre('a', 'b', 'c'));
}

TEST(InputFileTest, ReadsMoreThanOneChunk) {
  std::string content(size_t{65} << 20, 'x');
  content.back() = 'y';
  ASSERT_OK_AND_ASSIGN(InputFile file,
                       InputFile::Open("initrd", WriteFile("large", content)));
  ASSERT_OK_AND_ASSIGN(SharedBytes bytes, file.Read(UINT64_MAX));
  EXPECT_EQ(bytes.size(), content.size());
  EXPECT_EQ(bytes.span().back(), 'y');
}

TEST(InputFileTest, OpenErrorsNameTheFileOnOneLine) {
  EXPECT_THAT(InputFile::Open("kernel", "/nonexistent/file"),
              StatusIs(absl::StatusCode::kNotFound,
                       AllOf(StartsWith("kernel /nonexistent/file: "),
                             Not(HasSubstr("\n")))));
  EXPECT_THAT(InputFile::Open("kernel", ::testing::TempDir()),
              StatusIs(kInvalid, HasSubstr("not a regular file")));
  EXPECT_THAT(InputFile::Open("kernel", "/dev/zero"),
              StatusIs(kInvalid, HasSubstr("not a regular file")));
  EXPECT_THAT(InputFile::Open("initrd", WriteFile("empty", "")),
              StatusIs(kInvalid, HasSubstr("empty")));
}

TEST(InputFileTest, DoesNotHangOnAFifo) {
  std::string path = ::testing::TempDir() + "/fifo";
  ::unlink(path.c_str());
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  EXPECT_THAT(InputFile::Open("kernel", path),
              StatusIs(kInvalid, HasSubstr("not a regular file")));
}

TEST(InputFileTest, RefusesFilesAboveTheLimit) {
  ASSERT_OK_AND_ASSIGN(InputFile file,
                       InputFile::Open("kernel", WriteFile("four", "abcd")));
  EXPECT_THAT(file.Read(3), StatusIs(kInvalid, HasSubstr("4 bytes")));
}

TEST(InputFileTest, AFileThatShrinksIsAnError) {
  std::string path = WriteFile("shrinking", "abcd");
  ASSERT_OK_AND_ASSIGN(InputFile file, InputFile::Open("kernel", path));
  ASSERT_EQ(::truncate(path.c_str(), 1), 0);
  EXPECT_THAT(file.Read(10),
              StatusIs(kInvalid, HasSubstr("shrank from 4 to 1 bytes")));
}

TEST(InputFileTest, WhatIsAppendedAfterOpenIsNotRead) {
  std::string path = WriteFile("growing", "ab");
  ASSERT_OK_AND_ASSIGN(InputFile file, InputFile::Open("kernel", path));
  std::ofstream(path, std::ios::binary | std::ios::app) << "cd";
  ASSERT_OK_AND_ASSIGN(SharedBytes bytes, file.Read(10));
  EXPECT_EQ(bytes.size(), 2u);
}

}  // namespace
}  // namespace cloister::boot
