// SPDX-License-Identifier: Apache-2.0
//
// Disks of real guests, in the lab: a root file system, data that must come
// back, host disks that fail, fill up or dawdle.
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "cloister/base/status_matchers.h"
#include "cloister/tests/guest_process.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::tests {
namespace {

using ::cloister::base::IsOkAndHolds;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kCloister[] = "cli/cloister";
constexpr std::chrono::seconds kPatience(300);

bool Soak() { return std::getenv("CLOISTER_SOAK") != nullptr; }

std::string GuestFile(const std::string& guest, const char* what) {
  const std::string name = absl::StrCat("CLOISTER_GUEST_", guest, "_", what);
  const char* path = std::getenv(name.c_str());
  return path == nullptr ? absl::StrCat("$", name, " is not set") : path;
}

// What a shell command on the lab's host says; a failure is the test's.
std::string Sh(const std::string& command) {
  auto process = GuestProcess::Start({"sh", "-euc", command});
  if (!process.ok()) {
    ADD_FAILURE() << process.status();
    return "";
  }
  auto code = (*process)->Wait(kPatience);
  EXPECT_THAT(code, IsOkAndHolds(0)) << command << "\n" << (*process)->output();
  return (*process)->output();
}

// A folder in memory, with everything that was mapped or mounted in it gone at
// the end.
class Scratch {
 public:
  explicit Scratch(const std::string& size = "3g") {
    path_ = absl::StrCat("/run/blk-", getpid(), "-", ++count_);
    Sh(absl::StrCat("mkdir -p ", path_, "; mount -t tmpfs -o size=", size,
                    " blk ", path_));
  }
  ~Scratch() {
    for (auto it = undo_.rbegin(); it != undo_.rend(); ++it) Sh(*it);
    Sh(absl::StrCat("umount ", path_, "; rmdir ", path_));
  }
  const std::string& path() const { return path_; }
  std::string File(const std::string& name) const {
    return absl::StrCat(path_, "/", name);
  }
  // A raw image of zeros.
  std::string Image(const std::string& name, int mib) const {
    Sh(absl::StrCat("truncate -s ", mib, "M ", File(name)));
    return File(name);
  }
  std::string Loop(const std::string& image) {
    std::string device(
        absl::StripAsciiWhitespace(Sh("losetup -f --show " + image)));
    undo_.push_back("losetup -d " + device);
    return device;
  }
  // A device-mapper device from a table.
  std::string Map(const std::string& name, const std::string& table) {
    const std::string unique = absl::StrCat(name, getpid(), "-", count_);
    std::string quoted = absl::StrReplaceAll(table, {{"\n", "\\n"}});
    Sh(absl::StrCat("printf '", quoted, "' | dmsetup create --noudevsync ",
                    unique, "; dmsetup mknodes"));
    undo_.push_back("dmsetup remove --noudevsync --retry " + unique);
    return "/dev/mapper/" + unique;
  }

 private:
  static int count_;
  std::string path_;
  std::vector<std::string> undo_;
};
int Scratch::count_ = 0;

struct Options {
  std::string guest = "DEBIAN_6_1";
  std::string backend = "off";
  std::string append = "";
  std::vector<std::string> more = {};
  std::string memory = "256M";
};

absl::StatusOr<std::unique_ptr<GuestProcess>> Boot(const Options& options) {
  std::vector<std::string> argv = {
      kCloister,
      "run",
      "--kernel",
      GuestFile(options.guest, "KERNEL"),
      "--initrd",
      GuestFile(options.guest, "INITRAMFS"),
      "--append",
      absl::StrCat("console=ttyS0 quiet panic=-1 ", options.append),
      "--memory",
      options.memory,
      "--confidential",
      options.backend};
  argv.insert(argv.end(), options.more.begin(), options.more.end());
  return GuestProcess::Start(argv);
}

// Boots, runs a shell command in the guest to its end, and powers off; all that
// came out.
std::string RunGuest(Options options, const std::string& command) {
  options.append = absl::StrCat("cloister.run=\"", command, "\"");
  auto guest = Boot(options);
  if (!guest.ok()) {
    ADD_FAILURE() << guest.status();
    return "";
  }
  EXPECT_THAT((*guest)->Wait(kPatience), IsOkAndHolds(0)) << (*guest)->output();
  return absl::StrReplaceAll((*guest)->output(), {{"\r", ""}});
}

class BackendTest : public ::testing::TestWithParam<const char*> {
 protected:
  Options With(std::vector<std::string> more) const {
    return {.backend = GetParam(), .more = std::move(more)};
  }
};

INSTANTIATE_TEST_SUITE_P(Backends, BackendTest,
                         ::testing::Values("off", "sw-protected"),
                         [](const ::testing::TestParamInfo<const char*>& info) {
                           return std::string(info.param) == "off"
                                      ? "off"
                                      : "sw_protected";
                         });

constexpr char kInit[] = R"(#!/bin/busybox sh
PATH=/bin
while read -r device mount type _; do
  [ "$mount" = / ] && echo "root: $device is $type"
done </proc/mounts
sha256sum -c -s /manifest && echo "root: the manifest holds"
echo "the guest was here" >/witness
sync
mount -o remount,ro / && echo "root: read-only again"
poweroff -f
)";

TEST_P(BackendTest, MountsAnExt4RootAndBootsIt) {
  Scratch scratch;
  const std::string tree = scratch.File("tree");
  const std::string image = scratch.File("root.img");
  // The guest's own initramfs, as a root file system.
  Sh(absl::StrCat("mkdir ", tree, "; cd ", tree, "; cpio -idmu --quiet <",
                  GuestFile("DEBIAN_6_1", "INITRAMFS"), "; rm -f bin/init"));
  std::ofstream(tree + "/bin/init") << kInit;
  Sh(absl::StrCat("cd ", tree,
                  "; chmod 755 bin/init; "
                  "head -c 8388608 /dev/urandom >blob; "
                  "find lib blob bin/busybox -type f | sort | "
                  "xargs sha256sum >manifest; "
                  "mke2fs -q -t ext4 -d . ",
                  image, " 96M"));
  Options options = With({"--disk", image});
  options.append = "cloister.root=/dev/vda";
  ASSERT_OK_AND_ASSIGN(auto guest, Boot(options));
  EXPECT_OK(guest->Expect("root: /dev/vda is ext4", kPatience));
  EXPECT_OK(guest->Expect("root: the manifest holds", kPatience));
  EXPECT_OK(guest->Expect("root: read-only again", kPatience));
  EXPECT_THAT(guest->Wait(), IsOkAndHolds(0)) << guest->output();
  Sh("e2fsck -fn " + image);
  EXPECT_THAT(Sh("debugfs -R 'cat /witness' " + image),
              HasSubstr("the guest was here"));
}

// Unpacks packages as root, without their scripts, and adds what those would
// have made: links, users, and a service that looks round and powers off.
constexpr char kUnpack[] = R"sh(
mkdir -p "$1/usr/bin" "$1/usr/sbin" "$1/usr/lib" "$1/usr/lib64"; cd "$1"
for name in bin sbin lib lib64; do ln -s "usr/$name" "$name"; done
for deb in "$CLOISTER_DEBIAN_ROOT"/*.deb; do
  dpkg-deb --fsys-tarfile "$deb" | tar -x --keep-directory-symlink -f -
done
for name in passwd group; do cp "usr/share/base-passwd/$name.master" "etc/$name"; done
echo "messagebus:x:990:990::/nonexistent:/usr/sbin/nologin" >>etc/passwd
echo "messagebus:x:990:" >>etc/group
echo cloister >etc/hostname
echo 0123456789abcdef0123456789abcdef >etc/machine-id
echo "/dev/vda / ext4 rw 0 0" >etc/fstab
find usr/bin usr/sbin usr/lib -xdev -type f -print0 | sort -z |
  xargs -0 sha256sum >manifest
cat >usr/bin/look-round <<'END'
#!/bin/sh
exec >/dev/ttyS0 2>&1
echo "root: $(findmnt -no SOURCE,FSTYPE / | tr -s ' ')"
echo "root: init is $(systemctl --version | head -n 1)"
sha256sum -c --quiet /manifest && echo "root: the manifest holds"
echo "root: the system is $(systemctl is-system-running --wait)"
systemctl --failed --no-legend
echo "the guest was here" >/witness
sync
systemctl poweroff
END
chmod 755 usr/bin/look-round
cat >etc/systemd/system/look-round.service <<'END'
[Service]
ExecStart=/usr/bin/look-round
END
# A getty would take the console from it; the kernel here has no autofs.
for unit in serial-getty@ttyS0.service proc-sys-fs-binfmt_misc.automount; do
  ln -s /dev/null "etc/systemd/system/$unit"
done
mkdir -p etc/systemd/system/multi-user.target.wants
ln -s /lib/systemd/system/multi-user.target etc/systemd/system/default.target
ln -s ../look-round.service etc/systemd/system/multi-user.target.wants/
)sh";

TEST_P(BackendTest, BootsADebianRootWithSystemd) {
  if (std::getenv("CLOISTER_DEBIAN_ROOT") == nullptr) {
    GTEST_SKIP() << "only in ./dev soak: $CLOISTER_DEBIAN_ROOT is not set";
  }
  constexpr std::chrono::seconds kLong(1500);
  Scratch scratch;
  const std::string tree = scratch.File("tree");
  const std::string image = scratch.File("root.img");
  std::ofstream(scratch.File("unpack")) << kUnpack;
  Sh(absl::StrCat("sh -eu ", scratch.File("unpack"), " ", tree,
                  "; mke2fs -q -t ext4 -d ", tree, " ", image, " 512M; rm -r ",
                  tree));
  Options options = With({"--disk", image});
  options.memory = "512M";
  options.append = "cloister.root=/dev/vda";
  ASSERT_OK_AND_ASSIGN(auto guest, Boot(options));
  EXPECT_OK(guest->Expect("root: /dev/vda ext4", kLong));
  EXPECT_OK(guest->Expect("root: init is systemd 252", kLong));
  EXPECT_OK(guest->Expect("root: the manifest holds", kLong));
  EXPECT_OK(guest->Expect("root: the system is running", kLong));
  EXPECT_THAT(guest->Wait(kLong), IsOkAndHolds(0)) << guest->output();
  Sh("e2fsck -fn " + image);
  EXPECT_THAT(Sh("debugfs -R 'cat /witness' " + image),
              HasSubstr("the guest was here"));
}

TEST_P(BackendTest, DataComesBackAsItWas) {
  Scratch scratch;
  const int mib = Soak() ? 1024 : 64;
  const std::string image = scratch.Image("data.img", mib);
  const std::string output =
      RunGuest(With({"--disk", image}),
               absl::StrCat("blk_guest fill /dev/vda ", mib,
                            " 7 && blk_guest check /dev/vda ", mib, " 7"));
  EXPECT_THAT(output, HasSubstr(absl::StrCat("checked ", mib, " MiB")));
  EXPECT_THAT(output, HasSubstr("command ended with 0"));
  // On the host, and the other way round.
  Sh(absl::StrCat("tests/virtio_blk_guest check ", image, " ", mib, " 7"));
  Sh(absl::StrCat("tests/virtio_blk_guest fill ", image, " ", mib, " 8"));
  EXPECT_THAT(RunGuest(With({"--disk", image + ",ro"}),
                       absl::StrCat("blk_guest check /dev/vda ", mib, " 8")),
              HasSubstr(absl::StrCat("checked ", mib, " MiB")));
}

TEST_P(BackendTest, AGuestSeesWhatItsDisksAre) {
  Scratch scratch;
  const std::string output = RunGuest(
      With({"--disk", scratch.Image("a.img", 8) + ",serial=first-one", "--disk",
            scratch.Image("b.img", 16) + ",ro,id=second"}),
      "cd /sys/block; cat vda/serial; echo; echo vda/size $(cat vda/size);"
      "echo ro $(cat vda/ro) $(cat vdb/ro); cat vdb/serial; echo;"
      "echo cache $(cat vda/queue/write_cache);"
      "blk_guest discard /dev/vda 0 1048576;"
      "blk_guest try write /dev/vdb 0");
  EXPECT_THAT(output, HasSubstr("first-one\n"));
  EXPECT_THAT(output, HasSubstr("second\n"));
  EXPECT_THAT(output, HasSubstr("vda/size 16384\n"));
  EXPECT_THAT(output, HasSubstr("ro 0 1\n"));
  EXPECT_THAT(output, HasSubstr("cache write back\n"));
  EXPECT_THAT(output, HasSubstr("blk_guest: discarded\n"));
  EXPECT_THAT(output, HasSubstr("write: EPERM\n"));
}

// The second half of the disk is broken.
TEST_P(BackendTest, AnErrorOfTheDiskIsAnErrorOfTheRequest) {
  Scratch scratch;
  const std::string loop = scratch.Loop(scratch.Image("half.img", 16));
  const std::string disk = scratch.Map(
      "broken",
      absl::StrCat("0 16384 linear ", loop, " 0\n16384 16384 error\n"));
  for (const char* direct : {"", ",direct"}) {
    const std::string output = RunGuest(
        With({"--disk", disk + direct}),
        "blk_guest fill /dev/vda 4 5; blk_guest try read /dev/vda 12582912;"
        "blk_guest try write /dev/vda 12582912;"
        "blk_guest try fsync /dev/vda 12582912;"
        "blk_guest try read /dev/vda 0; blk_guest check /dev/vda 4 5");
    EXPECT_THAT(output, HasSubstr("filled 4 MiB\n"));
    EXPECT_THAT(output, HasSubstr("read: EIO\n"));
    EXPECT_THAT(output, HasSubstr("write: EIO\n"));
    EXPECT_THAT(output, HasSubstr("fsync: EIO\n"));
    EXPECT_THAT(output, HasSubstr("read: done\n"));
    EXPECT_THAT(output, HasSubstr("checked 4 MiB\n"));
    // And outside.
    EXPECT_THAT(output, HasSubstr("disk0: "));
    EXPECT_THAT(output, HasSubstr("failed: EIO"));
    Sh(absl::StrCat("tests/virtio_blk_guest check ", disk, " 4 5"));
  }
}

TEST_P(BackendTest, AFullHostIsAnErrorOfTheRequest) {
  Scratch scratch("12m");
  const std::string image = scratch.Image("sparse.img", 64);
  const std::string output =
      RunGuest(With({"--disk", image}),
               "blk_guest fill /dev/vda 4 6; blk_guest fill /dev/vda 32 9;"
               "blk_guest try read /dev/vda 0; blk_guest check /dev/vda 4 9");
  EXPECT_THAT(output, HasSubstr("filled 4 MiB\n"));
  EXPECT_THAT(output, Not(HasSubstr("filled 32 MiB\n")));
  EXPECT_THAT(output, HasSubstr("blk_guest: fsync: EIO\n"));
  EXPECT_THAT(output, HasSubstr("read: done\n"));
  EXPECT_THAT(output, HasSubstr("failed: ENOSPC"));
}

TEST_P(BackendTest, AShrinkingFileIsAnErrorOfTheRequest) {
  Scratch scratch;
  const std::string image = scratch.Image("shrinks.img", 16);
  Options options = With({"--disk", image});
  options.append =
      "cloister.run=\"echo ready; read x; "
      "blk_guest try read /dev/vda 8388608; "
      "blk_guest try write /dev/vda 8388608; "
      "blk_guest try write /dev/vda 0\"";
  ASSERT_OK_AND_ASSIGN(auto guest, Boot(options));
  ASSERT_OK(guest->Expect("ready", kPatience));
  Sh("truncate -s 4M " + image);
  ASSERT_OK(guest->Type("go\n"));
  EXPECT_OK(guest->Expect("read: EIO"));
  EXPECT_OK(guest->Expect("write: EIO"));
  EXPECT_OK(guest->Expect("write: done"));
  EXPECT_THAT(guest->Wait(), IsOkAndHolds(0)) << guest->output();
  EXPECT_THAT(Sh("stat -c %s " + image), HasSubstr("4194304"));
}

// While one disk takes its time nothing else waits: no timing is measured, what
// counts is who is first.
TEST_P(BackendTest, ASlowDiskDelaysNobodyElse) {
  Scratch scratch;
  const std::string loop = scratch.Loop(scratch.Image("slow.img", 16));
  const std::string slow =
      scratch.Map("slow", absl::StrCat("0 32768 linear ", loop, " 0\n"));
  const std::string fast = scratch.Image("fast.img", 16);
  const std::string tap = absl::StrCat("blk", getpid());
  Sh(absl::StrCat("ip tuntap add ", tap, " mode tap vnet_hdr; ip addr add ",
                  "10.98.0.1/24 dev ", tap, "; ip link set ", tap, " up"));
  Options options = With(
      {"--disk", slow, "--disk", fast, "--net", absl::StrCat("tap=", tap)});
  options.append =
      "cloister.run=\"ip link set eth0 up; ip addr add 10.98.0.2/24 dev eth0;"
      "echo ready; read x;"
      "blk_guest try read /dev/vda 8388608 & echo started;"
      "read x; echo console $x;"
      "ping -c 3 -W 5 10.98.0.1 >/dev/null && echo network;"
      "blk_guest fill /dev/vdb 8 3 && blk_guest check /dev/vdb 8 3; wait\"";
  ASSERT_OK_AND_ASSIGN(auto guest, Boot(options));
  ASSERT_OK(guest->Expect("ready", kPatience));
  // Only now: the driver has read the partition table.
  Sh(absl::StrCat("echo 0 32768 delay ", loop, " 0 30000 | ",
                  "dmsetup load --noudevsync ", slow,
                  "; dmsetup resume --noudevsync ", slow));
  ASSERT_OK(guest->Type("go\n"));
  ASSERT_OK(guest->Expect("started"));
  ASSERT_OK(guest->Type("works\n"));
  EXPECT_OK(guest->Expect("console works"));
  EXPECT_OK(guest->Expect("network"));
  EXPECT_OK(guest->Expect("checked 8 MiB"));
  EXPECT_THAT(guest->output(), Not(HasSubstr("read: done")));
  EXPECT_OK(guest->Expect("read: done"));
  EXPECT_THAT(guest->Wait(), IsOkAndHolds(0)) << guest->output();
  Sh("ip link del " + tap);
}

}  // namespace
}  // namespace cloister::tests
