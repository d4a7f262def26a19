// SPDX-License-Identifier: Apache-2.0
//
// Interfaces, sockets and other devices that cannot be: one line that names the
// option or the thing, and no guest. (Disks: virtio_blk_input_test.)
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/base/unique_fd.h"
#include "cloister/tests/bad_run.h"
#include "gtest/gtest.h"

namespace cloister::tests {
namespace {

class VirtioInputTest : public BadRunTest {
 protected:
  // The line has the first option and `named` in it.
  void ExpectOneLine(const std::vector<std::string>& options, int code,
                     const std::string& named) {
    std::vector<std::string> all = {"--kernel", GoodKernel(), "--confidential",
                                    "off"};
    all.insert(all.end(), options.begin(), options.end());
    BadRunTest::ExpectOneLine(all, code, {options[0], named});
  }
};

TEST_F(VirtioInputTest, NetworkInterfaces) {
  auto expect = [&](const std::string& net, int code,
                    const std::string& named) {
    ExpectOneLine({"--net", net}, code, named);
  };
  expect("tap=nosuchtap0", 1, "nosuchtap0");
  expect("tap=lo", 1, "lo");
  expect("tap=a-name-that-is-too-long", 1, "a-name-that-is-too-long");
  expect("tap=t0,mac=01:00:5e:00:00:01", 1, "multicast");
  expect("tap=t0,mac=02:00:00:00:00", 1, "02:00:00:00:00");
  expect("tap=t0,queues=17", 1, "queues=17");
  expect("fd=0", 1, "fd=0: not an attached tap");
  expect("fd=999", 1, "fd=999");
  expect("tap=t0,speed=9", 2, "speed");
  ExpectOneLine({"--net", "tap=t0,id=x", "--net", "tap=t1,id=x"}, 1,
                "two devices with id x");
}

TEST_F(VirtioInputTest, Sockets) {
  auto expect = [&](const std::string& vsock, int code,
                    const std::string& named) {
    ExpectOneLine({"--vsock", vsock}, code, named);
  };
  for (const char* cid : {"0", "2", "4294967295", "18446744073709551615"}) {
    expect(absl::StrCat("path=/tmp/v,cid=", cid), 1,
           absl::StrCat("cid=", cid, " is out of range: 3 to 4294967294"));
  }
  expect("path=/tmp/v,cid=18446744073709551616", 2, "cid");
  expect("cid=3", 1, "path= is needed");
  const std::string long_path = "/tmp/" + std::string(92, 'v');
  expect("path=" + long_path, 1,
         absl::StrCat("path=", long_path, " is too long: 97 bytes, and at most",
                      " 96 are possible"));
  expect("path=/no/such/folder/v", 1, "/no/such/folder");
  const std::string file = File("no-socket", "");
  expect("path=" + file, 1, file);

  // One that somebody listens to. A test's own folder may be too long a name.
  char folder[] = "/tmp/bad-input-XXXXXX";
  ASSERT_NE(::mkdtemp(folder), nullptr);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::snprintf(address.sun_path, sizeof(address.sun_path), "%s/v", folder);
  base::UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address),
                   sizeof(address)),
            0);
  ASSERT_EQ(::listen(listener.get(), 1), 0);
  expect(absl::StrCat("path=", address.sun_path), 1,
         absl::StrCat(address.sun_path, " is in use"));
  EXPECT_EQ(::access(address.sun_path, F_OK), 0) << "it is left alone";
  ::unlink(address.sun_path);
  ::rmdir(folder);
}

TEST_F(VirtioInputTest, OtherDevices) {
  ExpectOneLine({"--balloon", "target=4097"}, 1, "--balloon: target=4097");
  ExpectOneLine({"--balloon", "size=1M"}, 2, "--balloon");
  ExpectOneLine({"--virtio-transport", "isa"}, 2, "pci, mmio or mmio-fdt");
  ExpectOneLine({"--console", "tty"}, 2, "serial, virtio or none");
}

}  // namespace
}  // namespace cloister::tests
