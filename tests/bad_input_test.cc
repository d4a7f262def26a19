// SPDX-License-Identifier: Apache-2.0
//
// What a user's mistakes get from `cloister run`: one line that names the file,
// the option or the capability, exit code 1 (2 for the command line itself), no
// guest started and no core file.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_matchers.h"
#include "cloister/boot/decompress.h"
#include "cloister/boot/fake_kernel.h"
#include "cloister/cli/pty_session.h"
#include "cloister/tests/bad_run.h"
#include "cloister/tests/guest_process.h"
#include "cloister/vmm/micro_kernel.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::tests {
namespace {

using ::testing::HasSubstr;

class BadInputTest : public BadRunTest {
 protected:
  // The one thing that the line has to name.
  void ExpectOneLine(const std::vector<std::string>& options, int code,
                     const std::string& named) {
    BadRunTest::ExpectOneLine(options, code, {named});
  }

  const std::vector<uint8_t> elf_ = boot::MakeVmlinux();
};

TEST_F(BadInputTest, MissingKernel) {
  ExpectOneLine({"--kernel", "/no/such/vmlinuz", "--confidential", "off"}, 1,
                "/no/such/vmlinuz");
}

TEST_F(BadInputTest, MissingKernelOfAConfidentialGuest) {
  ExpectOneLine({"--kernel", "/no/such/vmlinuz"}, 1, "/no/such/vmlinuz");
}

// Not bad input, but as final: ud2 without an IDT.
TEST_F(BadInputTest, TripleFaultHasItsOwnExitCodeAndShowsRegisters) {
  std::vector<boot::FakeSegment> segments = boot::LinuxLikeSegments();
  segments[0].data = {0x0f, 0x0b};
  std::vector<uint8_t> elf = boot::MakeElf(segments, segments[0].physical);
  std::string kernel =
      File("ud2",
           std::string(reinterpret_cast<const char*>(elf.data()), elf.size()));
  ASSERT_OK_AND_ASSIGN(
      auto process,
      GuestProcess::Start({"cli/cloister", "run", "--kernel", kernel,
                           "--memory", "32M", "--confidential", "off"}));
  ASSERT_OK_AND_ASSIGN(int exit_code, process->Wait());
  EXPECT_EQ(exit_code, 3) << process->output();
  EXPECT_THAT(process->output(), HasSubstr("triple fault"));
  EXPECT_THAT(process->output(), HasSubstr("rip="));
}

// Nor is this: an instruction fetch from nowhere.
TEST_F(BadInputTest, WhatKvmCannotRunHasItsOwnExitCodeAndShowsRegisters) {
  const std::string kernel = absl::StrCat(::testing::TempDir(), "/lost");
  ASSERT_OK(vmm::WriteMicroKernel(vmm::MicroKernel::kLost, kernel));
  ASSERT_OK_AND_ASSIGN(
      auto process,
      GuestProcess::Start({"cli/cloister", "run", "--kernel", kernel,
                           "--memory", "32M", "--confidential", "off"}));
  ASSERT_OK_AND_ASSIGN(int exit_code, process->Wait());
  EXPECT_EQ(exit_code, 4) << process->output();
  EXPECT_THAT(process->output(), HasSubstr("internal error"));
  EXPECT_THAT(process->output(), HasSubstr("rip="));
}

TEST_F(BadInputTest, OptionsOfConfidentialGuests) {
  ExpectOneLine({"--kernel", GoodKernel(), "--shared-limit", "4097"}, 1,
                "--shared-limit");
  ExpectOneLine({"--kernel", GoodKernel(), "--conversion-rate", "fast"}, 2,
                "--conversion-rate");
  ExpectOneLine({"--kernel", GoodKernel(), "--conversion-reports", "smoke"}, 2,
                "--conversion-reports");
}

TEST_F(BadInputTest, KernelIsADirectory) {
  ExpectOneLine({"--kernel", "/", "--confidential", "off"}, 1, "/");
}

TEST_F(BadInputTest, KernelIsNoKernel) {
  ExpectOneLine({"--kernel", File("text", std::string(5000, 'x')),
                 "--confidential", "off"},
                1, "text");
}

TEST_F(BadInputTest, EmptyKernel) {
  ExpectOneLine({"--kernel", File("empty", ""), "--confidential", "off"}, 1,
                "empty");
}

TEST_F(BadInputTest, TruncatedKernel) {
  std::string whole(reinterpret_cast<const char*>(elf_.data()), elf_.size());
  ExpectOneLine({"--kernel", File("short", whole.substr(0, whole.size() / 2)),
                 "--confidential", "off"},
                1, "short");
}

// What bootloaders are given: each piece of it may be missing or wrong.
TEST_F(BadInputTest, DamagedBzImage) {
  const std::vector<uint8_t> image =
      boot::MakeBzImage(boot::Compression::kGzip, elf_);
  const std::string whole(image.begin(), image.end());
  uint32_t start = 0, length = 0;  // of the packed kernel, in the second part
  std::memcpy(&start, &image[0x248], sizeof(start));
  std::memcpy(&length, &image[0x24c], sizeof(length));
  const size_t end = (image[0x1f1] + 1) * 512 + start + length;
  ASSERT_LE(end, whole.size());
  for (size_t size :
       {size_t{100}, size_t{513}, size_t{0x300}, whole.size() / 2, end - 1}) {
    SCOPED_TRACE(size);
    ExpectOneLine({"--kernel", File("cut", whole.substr(0, size)),
                   "--confidential", "off"},
                  1, "cut");
  }
  // Its length, its checksum, its data.
  for (size_t from_end : {size_t{1}, size_t{5}, size_t{20}, size_t{60}}) {
    for (int bit : {0, 7}) {
      SCOPED_TRACE(absl::StrCat(from_end, " bytes before the end, bit ", bit));
      std::string flipped = whole;
      flipped[end - from_end] ^= static_cast<char>(1 << bit);
      ExpectOneLine(
          {"--kernel", File("flipped", flipped), "--confidential", "off"}, 1,
          "flipped");
    }
  }
}

TEST_F(BadInputTest, NoCoreFileAndTheTerminalAsItWas) {
  std::string flipped(reinterpret_cast<const char*>(elf_.data()), elf_.size());
  flipped[4] ^= 1;  // the ELF class
  struct Case {
    std::vector<std::string> options;
    int code;
  };
  const std::vector<Case> cases = {
      {{"--kernel", "/no/such/vmlinuz"}, 1},
      {{"--kernel", File("flipped-elf", flipped)}, 1},
      {{"--kernel", GoodKernel(), "--initrd", "/no/initrd"}, 1},
      {{"--kernel", GoodKernel(), "--memory", "4097"}, 1},
      {{"--kernel", GoodKernel(), "--cpus", "100000"}, 1},
      {{"--kernel", GoodKernel(), "--no-such-option"}, 2},
      {{"--kernel", GoodKernel(), "--disk", "/no/disk"}, 1},
  };
  for (const Case& one : cases) {
    SCOPED_TRACE(one.options.back());
    // A limit above zero, so that a crash would leave a file or a flag.
    std::vector<std::string> argv = {
        "/bin/sh",
        "-c",
        "ulimit -c unlimited; exec cli/cloister run \"$@\"",
        "sh",
        "--confidential",
        "off"};
    argv.insert(argv.end(), one.options.begin(), one.options.end());
    ASSERT_OK_AND_ASSIGN(auto pty, cli::PtySession::Create());
    ASSERT_OK(pty->Start(argv));
    ASSERT_OK_AND_ASSIGN(const int status, pty->Wait());
    EXPECT_TRUE(WIFEXITED(status)) << status;
    EXPECT_EQ(WEXITSTATUS(status), one.code);
    EXPECT_FALSE(WCOREDUMP(status));
    EXPECT_TRUE(pty->restored());
    EXPECT_EQ(::access("core", F_OK), -1);
  }
}

TEST_F(BadInputTest, WrongArchitecture) {
  std::string arm(reinterpret_cast<const char*>(elf_.data()), elf_.size());
  arm[18] = static_cast<char>(183);  // e_machine: EM_AARCH64
  ExpectOneLine({"--kernel", File("arm64", arm), "--confidential", "off"}, 1,
                "arm64");
}

TEST_F(BadInputTest, MissingInitrd) {
  ExpectOneLine({"--kernel", GoodKernel(), "--initrd", "/no/initrd",
                 "--confidential", "off"},
                1, "/no/initrd");
}

TEST_F(BadInputTest, InitrdThatDoesNotFit) {
  std::string path = File("big-initrd", "x");
  ASSERT_EQ(::truncate(path.c_str(), 64 << 20), 0);
  ExpectOneLine({"--kernel", GoodKernel(), "--initrd", path, "--memory", "32M",
                 "--confidential", "off"},
                1, absl::StrCat("initrd ", path, ": "));
}

TEST_F(BadInputTest, Memory) {
  for (const char* size : {"0", "4097", "1M"}) {
    ExpectOneLine(
        {"--kernel", GoodKernel(), "--memory", size, "--confidential", "off"},
        1, "--memory");
  }
  ExpectOneLine({"--kernel", GoodKernel(), "--memory", "lots"}, 2, "lots");
}

TEST_F(BadInputTest, TooManyOrNoCpus) {
  for (const char* cpus : {"0", "4096", "100000"}) {
    ExpectOneLine(
        {"--kernel", GoodKernel(), "--cpus", cpus, "--confidential", "off"}, 1,
        "--cpus");
  }
}

TEST_F(BadInputTest, CommandLineTooLong) {
  ExpectOneLine({"--kernel", GoodKernel(), "--append", std::string(70000, 'a'),
                 "--confidential", "off"},
                1, "--append: kernel command line");
}

TEST_F(BadInputTest, UnknownOptionAndBackend) {
  ExpectOneLine({"--kernel", GoodKernel(), "--frobnicate"}, 2, "--frobnicate");
  ExpectOneLine({"--kernel", GoodKernel(), "--confidential", "magic"}, 2,
                "magic");
}

}  // namespace
}  // namespace cloister::tests
