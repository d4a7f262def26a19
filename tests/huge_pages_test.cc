// SPDX-License-Identifier: Apache-2.0
//
// `cloister run --huge-pages 2M` on a host whose pool of huge pages is this
// test's: in the lab only.
#include <algorithm>
#include <csignal>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_matchers.h"
#include "cloister/tests/echo_kernel.h"
#include "cloister/tests/guest_process.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::tests {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr char kPool[] = "/sys/kernel/mm/hugepages/hugepages-2048kB/";
constexpr char kBanner[] = "echo here";
constexpr int kPagesOf32M = 16;

int Pool(const char* file) {
  int value = -1;
  std::ifstream(absl::StrCat(kPool, file)) >> value;
  return value;
}

// Pages that are taken: used, or promised to a mapping.
int Taken() {
  return Pool("nr_hugepages") - Pool("free_hugepages") + Pool("resv_hugepages");
}

std::string ReadAll(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

class HugePagesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    kernel_ = absl::StrCat(::testing::TempDir(), "/echo");
    const std::vector<uint8_t> elf = MakeEchoKernel(kBanner);
    std::ofstream(kernel_, std::ios::binary)
        .write(reinterpret_cast<const char*>(elf.data()), elf.size());
  }
  void TearDown() override { SetPool(0); }

  void SetPool(int pages) {
    std::ofstream(absl::StrCat(kPool, "nr_hugepages")) << pages << std::flush;
    ASSERT_EQ(Pool("nr_hugepages"), pages);
  }

  std::unique_ptr<GuestProcess> Run(const char* memory, const char* pages) {
    auto process = GuestProcess::Start(
        {"cli/cloister", "run", "--kernel", kernel_, "--memory", memory,
         "--confidential", "off", "--huge-pages", pages});
    EXPECT_OK(process);
    return process.ok() ? *std::move(process) : nullptr;
  }

  // One line that has `named` in it, and exit code 1.
  void ExpectRefused(const char* memory, const char* pages,
                     const ::testing::Matcher<std::string>& named) {
    auto process = Run(memory, pages);
    ASSERT_NE(process, nullptr);
    ASSERT_OK_AND_ASSIGN(const int code, process->Wait());
    EXPECT_EQ(code, 1);
    const std::string& text = process->output();
    EXPECT_THAT(text, named);
    EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1) << text;
  }

  std::string kernel_;
};

TEST_F(HugePagesTest, ReservedPagesAreTheGuestsMemory) {
  SetPool(kPagesOf32M + 1);
  auto process = Run("32M", "2M");
  ASSERT_NE(process, nullptr);
  ASSERT_OK(process->Expect(kBanner));
  EXPECT_EQ(Taken(), kPagesOf32M);
  EXPECT_LT(Pool("free_hugepages"), Pool("nr_hugepages"))
      << "the guest ran in other pages";
  EXPECT_THAT(ReadAll(absl::StrCat("/proc/", process->pid(), "/smaps")),
              HasSubstr("KernelPageSize:     2048 kB"));
  process->Signal(SIGTERM);
  ASSERT_OK(process->Wait().status());
  EXPECT_EQ(Taken(), 0);
}

TEST_F(HugePagesTest, TooFewReservedPagesSayHowManyAndWhere) {
  SetPool(kPagesOf32M - 1);
  ExpectRefused("32M", "2M",
                AllOf(HasSubstr("not enough free huge pages"),
                      HasSubstr("write 16 or more"),
                      HasSubstr(absl::StrCat(kPool, "nr_hugepages"))));
  EXPECT_EQ(Taken(), 0);
}

TEST_F(HugePagesTest, MemoryIsWholePages) {
  SetPool(kPagesOf32M + 1);
  ExpectRefused("33M", "2M", AllOf(HasSubstr("--memory"), HasSubstr("2 MiB")));
  ExpectRefused("512M", "1G", AllOf(HasSubstr("--memory"), HasSubstr("1 GiB")));
}

}  // namespace
}  // namespace cloister::tests
