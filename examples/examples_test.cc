// SPDX-License-Identifier: Apache-2.0
//
// Runs each example and looks at what it prints.
#include <unistd.h>

#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/boot/fake_kernel.h"
#include "cloister/examples/shell.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace {

using ::cloister::examples::Shell;
using ::cloister::examples::ShellResult;
using ::testing::HasSubstr;

TEST(PageStatesTest, PrintsTheMapThatResults) {
  ShellResult result = Shell(
      "printf 'private 0 0x4000000\\nshared 0x100000 0x2000\\n"
      "private 0x101000 0x1000\\n' | examples/page_states");
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.output,
            "           0     0x100000 private\n"
            "    0x100000       0x1000 shared\n"
            "    0x101000    0x3eff000 private\n"
            "67104768 bytes private\n"
            "4096 bytes shared\n");
}

TEST(PageStatesTest, MistakesNameTheLine) {
  ShellResult result = Shell(
      "printf 'private 0 0x1000\\nshared 0x10 0x1000\\n' | "
      "examples/page_states");
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.output, HasSubstr("line 2: "));
  EXPECT_EQ(Shell("echo nonsense | examples/page_states").exit_code, 1);
}

TEST(CustomDeviceTest, TheGuestsMailArrives) {
  if (::access("/dev/kvm", R_OK | W_OK) != 0) {
    GTEST_SKIP() << "no /dev/kvm here that this user may open";
  }
  // mov dx, 0x500; in al, dx; add al, 'A'; out dx, al: three times; then
  // mov dx, 0x604; mov ax, 0x3400; out dx, ax, which powers off.
  std::vector<uint8_t> code = {0x66, 0xba, 0x00, 0x05};
  for (int i = 0; i < 3; ++i) {
    code.insert(code.end(), {0xec, 0x04, 0x41, 0xee});
  }
  code.insert(code.end(),
              {0x66, 0xba, 0x04, 0x06, 0x66, 0xb8, 0x00, 0x34, 0x66, 0xef});
  auto segments = cloister::boot::LinuxLikeSegments();
  segments[0].data = code;
  segments[0].memory_size = 4096;
  const auto elf = cloister::boot::MakeElf(segments, segments[0].physical);
  const std::string kernel = absl::StrCat(::testing::TempDir(), "/mail");
  std::ofstream(kernel, std::ios::binary)
      .write(reinterpret_cast<const char*>(elf.data()), elf.size());
  ShellResult result = Shell(absl::StrCat("examples/custom_device ", kernel));
  EXPECT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output, HasSubstr("mail: \"ABC\"\n"));
  EXPECT_THAT(result.output, HasSubstr("the guest's end: power off\n"));
}

TEST(DmaMirrorTest, RefusesWhatHasNoEntries) {
  ShellResult result = Shell("examples/dma_mirror_main");
  EXPECT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output, HasSubstr("share 4 MiB: done\n"
                                       "   0x1000000   0x200000\n"
                                       "   0x1200000   0x200000\n"));
  EXPECT_THAT(result.output, HasSubstr("take back a page: done\n"
                                       "   0x1000000   0x100000\n"
                                       "   0x1101000    0xff000\n"
                                       "   0x1200000   0x200000\n"));
  EXPECT_THAT(result.output, HasSubstr("3 of 6 are free\n"));
  EXPECT_THAT(result.output, HasSubstr("take back 4 MiB: done\n"));
}

}  // namespace
