// SPDX-License-Identifier: Apache-2.0
//
// Disks that cannot be: one line that names the disk or the option, and no
// guest.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <string>
#include <vector>

#include "cloister/base/unique_fd.h"
#include "cloister/tests/bad_run.h"
#include "gtest/gtest.h"

namespace cloister::tests {
namespace {

class DiskInputTest : public BadRunTest {
 protected:
  std::string Image(const std::string& name) {
    return File(name, std::string(65536, '\0'));
  }

  // With these disks, the line has "--disk" and all of `named` in it.
  void ExpectOneLine(const std::vector<std::string>& disks, int code,
                     std::vector<std::string> named) {
    std::vector<std::string> options = {"--kernel", GoodKernel(),
                                        "--confidential", "off"};
    for (const std::string& disk : disks) {
      options.insert(options.end(), {"--disk", disk});
    }
    named.push_back("--disk");
    BadRunTest::ExpectOneLine(options, code, named);
  }
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
