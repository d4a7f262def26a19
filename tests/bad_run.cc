// SPDX-License-Identifier: Apache-2.0
#include "cloister/tests/bad_run.h"

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_matchers.h"
#include "cloister/boot/fake_kernel.h"
#include "cloister/tests/guest_process.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::tests {

using ::testing::HasSubstr;
using ::testing::StartsWith;

void BadRunTest::SetUp() {
  if (::access("/dev/kvm", R_OK | W_OK) != 0) {
    GTEST_SKIP() << "no /dev/kvm here that this user may open";
  }
}

std::string BadRunTest::File(const std::string& name,
                             const std::string& content) {
  std::string path = absl::StrCat(::testing::TempDir(), "/", name);
  ::unlink(path.c_str());
  std::ofstream(path, std::ios::binary) << content;
  return path;
}

std::string BadRunTest::GoodKernel() {
  const std::vector<uint8_t> elf = boot::MakeVmlinux();
  return File("vmlinux", std::string(elf.begin(), elf.end()));
}

void BadRunTest::ExpectOneLine(const std::vector<std::string>& options,
                               int code,
                               const std::vector<std::string>& named) {
  std::vector<std::string> argv = {"cli/cloister", "run"};
  argv.insert(argv.end(), options.begin(), options.end());
  ASSERT_OK_AND_ASSIGN(auto process, GuestProcess::Start(argv));
  ASSERT_OK_AND_ASSIGN(int exit_code, process->Wait());
  const std::string& text = process->output();
  EXPECT_EQ(exit_code, code) << text;
  EXPECT_THAT(text, StartsWith("cloister: "));
  for (const std::string& word : named) EXPECT_THAT(text, HasSubstr(word));
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1) << text;
  EXPECT_EQ(::access("core", F_OK), -1);
}

}  // namespace cloister::tests
