// SPDX-License-Identifier: Apache-2.0
//
// Disks that cannot be: one line that names the disk or the option, and no
// guest.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_matchers.h"
#include "cloister/base/unique_fd.h"
#include "cloister/boot/fake_kernel.h"
#include "cloister/tests/guest_process.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::tests {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class DiskInputTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (access("/dev/kvm", R_OK | W_OK) != 0) {
      GTEST_SKIP() << "no /dev/kvm here that this user may open";
    }
    std::vector<uint8_t> elf = boot::MakeVmlinux();
    kernel_ = File("vmlinux", std::string(elf.begin(), elf.end()));
  }

  std::string File(const std::string& name, const std::string& content) {
    std::string path = absl::StrCat(::testing::TempDir(), "/", name);
    unlink(path.c_str());
    std::ofstream(path, std::ios::binary) << content;
    return path;
  }
  std::string Image(const std::string& name) {
    return File(name, std::string(65536, '\0'));
  }

  // `cloister run` with these disks says one line with all of `named` in it.
  void ExpectOneLine(const std::vector<std::string>& disks, int code,
                     const std::vector<std::string>& named) {
    std::vector<std::string> argv = {
        "cli/cloister", "run", "--kernel", kernel_, "--confidential", "off"};
    for (const std::string& disk : disks) {
      argv.insert(argv.end(), {"--disk", disk});
    }
    ASSERT_OK_AND_ASSIGN(auto process, GuestProcess::Start(argv));
    ASSERT_OK_AND_ASSIGN(int exit_code, process->Wait());
    const std::string& text = process->output();
    EXPECT_EQ(exit_code, code) << text;
    EXPECT_THAT(text, AllOf(StartsWith("cloister: "), HasSubstr("--disk")));
    for (const std::string& word : named) EXPECT_THAT(text, HasSubstr(word));
    EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1) << text;
  }

  std::string kernel_;
};

TEST_F(DiskInputTest, Missing) {
  ExpectOneLine({"/no/such/disk.img"}, 1, {"/no/such/disk.img", "No such"});
}

TEST_F(DiskInputTest, ReadOnly) {
  const std::string image = Image("read-only.img");
  ASSERT_EQ(chmod(image.c_str(), 0444), 0);
  ExpectOneLine({image}, 1, {image, "is read-only", "',ro'"});
}

TEST_F(DiskInputTest, Locked) {
  const std::string image = Image("locked.img");
  base::UniqueFd other(open(image.c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_EQ(flock(other.get(), LOCK_EX), 0);
  ExpectOneLine({image}, 1, {image, "is locked by another program"});
}

TEST_F(DiskInputTest, NotRaw) {
  const std::string image =
      File("cloud.qcow2", std::string("QFI\xfb", 4) + std::string(65532, '\0'));
  ExpectOneLine({image}, 1,
                {image, "is a qcow2 image",
                 "qemu-img convert -f qcow2 -O raw '" + image + "'"});
}

TEST_F(DiskInputTest, NoDisk) {
  ExpectOneLine({"/tmp"}, 1, {"/tmp", "neither a file nor a block device"});
  const std::string empty = File("empty.img", "");
  ExpectOneLine({empty}, 1, {empty, "is empty"});
  const std::string odd = File("odd.img", std::string(1000, 'x'));
  ExpectOneLine({odd}, 1, {odd, "no multiple of 512"});
}

TEST_F(DiskInputTest, TheSameOneTwice) {
  const std::string image = Image("twice.img");
  ExpectOneLine({image, image}, 1, {image, "is locked"});
}

TEST_F(DiskInputTest, TwoWithOneId) {
  const std::string first = Image("first.img");
  const std::string second = Image("second.img");
  ExpectOneLine({first + ",id=root", second + ",id=root"}, 1, {"root"});
  // A default may be taken, too.
  ExpectOneLine({first + ",id=disk1", second}, 1, {"disk1"});
}

TEST_F(DiskInputTest, BadOptions) {
  const std::string image = Image("options.img");
  ExpectOneLine({image + ",serial=" + std::string(21, 'x')}, 1, {"serial"});
  ExpectOneLine({image + ",rw"}, 2, {"rw"});
  ExpectOneLine({image + ",bps=fast"}, 2, {"bps"});
}

}  // namespace
}  // namespace cloister::tests
