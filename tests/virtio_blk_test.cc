// SPDX-License-Identifier: Apache-2.0
//
// Disks of real guests, in the lab: a root file system, data that must come
// back, host disks that fail, fill up or dawdle; all of them in one guest,
// since a boot takes longer than most of it.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "cloister/base/status_matchers.h"
#include "cloister/tests/devices_fixture.h"
#include "cloister/tests/guest_process.h"
#include "cloister/tests/lab_settings.h"
#include "cloister/tests/shell.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::tests {
namespace {

using ::cloister::base::IsOkAndHolds;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kCloister[] = "cli/cloister";
constexpr std::chrono::seconds kPatience(300);

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

absl::StatusOr<std::unique_ptr<GuestProcess>> Boot(
    const Options& options, const std::function<void()>& prepare = nullptr) {
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
  return GuestProcess::Start(argv, prepare);
}

class BackendTest : public ::testing::TestWithParam<const char*> {
 protected:
  Options With(std::vector<std::string> more) const {
    return {.backend = GetParam(), .more = std::move(more)};
  }
};

// Looks round, then does what the console says, one command a line.
constexpr char kInit[] = R"(#!/bin/busybox sh
PATH=/bin
while read -r device mount type _; do
  [ "$mount" = / ] && echo "root: $device is $type"
done </proc/mounts
sha256sum -c -s /manifest && echo "root: the manifest holds"
echo "the guest was here" >/witness
echo "root: ready"
while read -r line && [ "$line" != leave ]; do
  eval "$line"
  echo "ended with $?."
done
sync
mount -o remount,ro / && echo "root: read-only again"
poweroff -f
)";

// The guest's own initramfs, as a root file system.
std::string MakeRoot(const Scratch& scratch) {
  const std::string tree = scratch.File("tree");
  const std::string image = scratch.File("root.img");
  Sh(absl::StrCat("mkdir ", tree, "; cd ", tree, "; cpio -idmu --quiet <",
                  GuestFile("DEBIAN_6_1", "INITRAMFS"), "; rm -f bin/init"));
  std::ofstream(tree + "/bin/init") << kInit;
  Sh(absl::StrCat("cd ", tree,
                  "; chmod 755 bin/init; "
                  "head -c 4194304 /dev/urandom >blob; "
                  "find lib blob bin/busybox -type f | sort | "
                  "xargs sha256sum >manifest; "
                  "mke2fs -q -t ext4 -d . ",
                  image, " 96M"));
  return image;
}

// A guest with an ext4 root on its first disk, and disks of every sort.
class DisksTest : public DevicesFixture {
 protected:
  DisksTest() : DevicesFixture(kPatience) {}

  // A disk whose second half is broken.
  std::string MakeBroken(const char* name) {
    const std::string loop =
        scratch_.Loop(scratch_.Image(absl::StrCat(name, ".img"), 16));
    return scratch_.Map(
        name, absl::StrCat("0 16384 linear ", loop, " 0\n16384 16384 error\n"));
  }

  void AddDisk(const std::string& options) {
    more_.insert(more_.end(), {"--disk", options});
  }

  // The disks, in the order of the guest's names for them.
  void MakeDisks() {
    AddDisk(root_ = MakeRoot(scratch_));                   // vda
    AddDisk((data_ = scratch_.Image("data.img", MiB())) +  // vdb
            ",serial=first-one");
    given_ = scratch_.Image("given.img", kGivenMiB);
    Sh(absl::StrCat("tests/virtio_blk_guest fill ", given_, " ", kGivenMiB,
                    " 8"));
    AddDisk(given_ + ",ro,id=second");                                   // vdc
    AddDisk((broken_[0] = MakeBroken("half")) + ",id=half");             // vdd
    AddDisk((broken_[1] = MakeBroken("direct")) + ",direct,id=direct");  // vde
    AddDisk(small_.Image("sparse.img", 64) + ",id=sparse");              // vdf
    AddDisk((shrinks_ = scratch_.Image("shrinks.img", 16)) +
            ",id=shrinks");  // vdg
    slow_loop_ = scratch_.Loop(scratch_.Image("slow.img", 16));
    AddDisk(slow_ = scratch_.Map(
                "slow", absl::StrCat("0 32768 linear ", slow_loop_, " 0\n")));
    AddDisk(scratch_.Image("fast.img", 16) + ",id=fast");  // vdi
  }

  // The monitor's own messages go to a file, where the guest's do not cut them.
  void BootWithDisks() {
    MakeDisks();
    tap_ = absl::StrCat("blk", getpid());
    Sh(absl::StrCat("ip tuntap add ", tap_, " mode tap vnet_hdr; ip addr add ",
                    "10.98.0.1/24 dev ", tap_, "; ip link set ", tap_, " up"));
    api_ = scratch_.File("api");
    more_.insert(more_.end(),
                 {"--net", absl::StrCat("tap=", tap_), "--api-sock", api_});
    const Options options = {.backend = GetParam(),
                             .append = "cloister.root=/dev/vda",
                             .more = more_};
    messages_ = scratch_.File("messages");
    ASSERT_OK_AND_ASSIGN(guest_, Boot(options, [this] {
                           const int file = ::open(messages_.c_str(),
                                                   O_WRONLY | O_CREAT, 0644);
                           if (::dup2(file, STDERR_FILENO) < 0) ::_exit(126);
                         }));
    ASSERT_OK(guest_->Expect("root: /dev/vda is ext4", kPatience))
        << Messages();
    ASSERT_OK(guest_->Expect("root: the manifest holds", kPatience));
    ASSERT_OK(guest_->Expect("root: ready", kPatience));
  }

  void TheGuestSeesWhatItsDisksAre();
  void DataComesBackAsItWas();
  void AnErrorOfTheDiskIsAnErrorOfTheRequest();
  void AFullHostIsAnErrorOfTheRequest();
  void AShrinkingFileIsAnErrorOfTheRequest();
  void ASlowDiskDelaysNobodyElse();

  std::string Messages() const {
    std::ifstream file(messages_);
    return std::string(std::istreambuf_iterator<char>(file), {});
  }

  static int MiB() { return Soak() ? 1024 : 64; }
  static constexpr int kGivenMiB = 64;

  Scratch scratch_;
  Scratch small_{"12m"};
  std::string root_, data_, given_, broken_[2], shrinks_, slow_, slow_loop_;
  std::string tap_, messages_;
  std::vector<std::string> more_;
};

void DisksTest::TheGuestSeesWhatItsDisksAre() {
  const std::string output =
      Do("cd /sys/block; cat vdb/serial; echo; echo size $(cat vdb/size); "
         "echo ro $(cat vdb/ro) $(cat vdc/ro); cat vdc/serial; echo; "
         "echo cache $(cat vdb/queue/write_cache); cd /; "
         "echo MSI $(grep -c 'PCI-MSI.*virtio' /proc/interrupts); "
         "echo 8259 $(grep -c 'XT-PIC.*virtio' /proc/interrupts); "
         "echo packed $(cut -c35 /sys/bus/virtio/devices/virtio0/features); "
         "blk_guest discard /dev/vdi 0 1048576; "
         "blk_guest try write /dev/vdc 0");
  EXPECT_THAT(output, HasSubstr("first-one\n"));
  EXPECT_THAT(output, HasSubstr("\nsecond\n"));
  EXPECT_THAT(output, HasSubstr(absl::StrCat("size ", MiB() * 2048, "\n")));
  EXPECT_THAT(output, HasSubstr("ro 0 1\n"));
  EXPECT_THAT(output, HasSubstr("cache write back\n"));
  EXPECT_THAT(output, HasSubstr("packed 1\n"));
  // Disks have a vector for changes of configuration and one for a queue; what
  // is confidential here cannot have MMIO emulated everywhere.
  const bool msi = std::string(GetParam()) == "off";
  EXPECT_THAT(output, ContainsRegex(msi ? "MSI [1-9][0-9]" : "MSI 0\n"));
  EXPECT_THAT(output, ContainsRegex(msi ? "8259 0\n" : "8259 [1-9]"));
  EXPECT_THAT(output, HasSubstr("blk_guest: discarded\n"));
  EXPECT_THAT(output, HasSubstr("write: EPERM\n"));
}

// The card, idle until later, has one pair of queues.
void DisksTest::DataComesBackAsItWas() {
  WhileItConverts("eth0", 2, [this] {
    const std::string output =
        Do(absl::StrCat("blk_guest fill /dev/vdb ", MiB(),
                        " 7 && blk_guest check /dev/vdb ", MiB(), " 7"));
    EXPECT_THAT(output, HasSubstr(absl::StrCat("checked ", MiB(), " MiB")));
    EXPECT_THAT(output, HasSubstr("ended with 0."));
  });
  NoLeaseIsLeft();
  // On the host, and the other way round.
  Sh(absl::StrCat("tests/virtio_blk_guest check ", data_, " ", MiB(), " 7"));
  EXPECT_THAT(Do(absl::StrCat("blk_guest check /dev/vdc ", kGivenMiB, " 8")),
              HasSubstr(absl::StrCat("checked ", kGivenMiB, " MiB")));
}

void DisksTest::AnErrorOfTheDiskIsAnErrorOfTheRequest() {
  const char* const names[] = {"/dev/vdd", "/dev/vde"};
  for (int i = 0; i < 2; ++i) {
    const std::string name = names[i];
    const std::string bad = absl::StrCat(" ", name, " 12582912; ");
    const std::string output = Do(absl::StrCat(
        "blk_guest fill ", name, " 4 5; blk_guest try read", bad,
        "blk_guest try write", bad, "blk_guest try fsync", bad,
        "blk_guest try read ", name, " 0; blk_guest check ", name, " 4 5"));
    EXPECT_THAT(output, HasSubstr("filled 4 MiB\n"));
    EXPECT_THAT(output, HasSubstr("read: EIO\n"));
    EXPECT_THAT(output, HasSubstr("write: EIO\n"));
    EXPECT_THAT(output, HasSubstr("fsync: EIO\n"));
    EXPECT_THAT(output, HasSubstr("read: done\n"));
    EXPECT_THAT(output, HasSubstr("checked 4 MiB\n"));
    Sh(absl::StrCat("tests/virtio_blk_guest check ", broken_[i], " 4 5"));
  }
  // And outside.
  for (const char* id : {"half", "direct"}) {
    EXPECT_THAT(Messages(),
                ContainsRegex(absl::StrCat(id, ": [^\n]*failed: EIO")));
    const std::string disk = absl::StrCat("block_", id);
    EXPECT_GT(Count(disk, "errors_EIO"), 0u);
    EXPECT_EQ(Count(disk, "errors"), Count(disk, "errors_EIO"));
  }
  EXPECT_EQ(Count("block_disk0", "errors"), 0u) << "the root's";
}

void DisksTest::AFullHostIsAnErrorOfTheRequest() {
  const std::string output =
      Do("blk_guest fill /dev/vdf 4 6; blk_guest fill /dev/vdf 32 9; "
         "blk_guest try read /dev/vdf 0; blk_guest check /dev/vdf 4 9");
  EXPECT_THAT(output, HasSubstr("filled 4 MiB\n"));
  EXPECT_THAT(output, Not(HasSubstr("filled 32 MiB\n")));
  EXPECT_THAT(output, HasSubstr("blk_guest: fsync: EIO\n"));
  EXPECT_THAT(output, HasSubstr("read: done\n"));
  EXPECT_THAT(Messages(), ContainsRegex("sparse: [^\n]*failed: ENOSPC"));
  EXPECT_GT(Count("block_sparse", "errors_ENOSPC"), 0u);
  EXPECT_EQ(Count("block_sparse", "errors"),
            Count("block_sparse", "errors_ENOSPC"));
}

void DisksTest::AShrinkingFileIsAnErrorOfTheRequest() {
  Sh("truncate -s 4M " + shrinks_);
  const std::string output =
      Do("blk_guest try read /dev/vdg 8388608; "
         "blk_guest try write /dev/vdg 8388608; "
         "blk_guest try write /dev/vdg 0");
  EXPECT_THAT(output, HasSubstr("read: EIO\n"));
  EXPECT_THAT(output, HasSubstr("write: EIO\n"));
  EXPECT_THAT(output, HasSubstr("write: done\n"));
  EXPECT_THAT(Sh("stat -c %s " + shrinks_), HasSubstr("4194304"));
}

// While one disk takes its time nothing else waits. No timing is measured: the
// delay lasts until the test ends it.
void DisksTest::ASlowDiskDelaysNobodyElse() {
  // Only now: the driver has read the partition table.
  Sh(absl::StrCat("echo 0 32768 delay ", slow_loop_, " 0 3600000 | ",
                  "dmsetup load --noudevsync ", slow_,
                  "; dmsetup resume --noudevsync ", slow_));
  Do("blk_guest try read /dev/vdh 8388608 >/slow &");
  EXPECT_THAT(Do("echo console $((40 + 2))"), HasSubstr("console 42\n"));
  EXPECT_THAT(Do("ip link set eth0 up; ip addr add 10.98.0.2/24 dev eth0; "
                 "ping -c 3 10.98.0.1"),
              HasSubstr("3 packets received"));
  EXPECT_THAT(Do("blk_guest fill /dev/vdi 8 3 && blk_guest check /dev/vdi 8 3"),
              HasSubstr("checked 8 MiB"));
  EXPECT_THAT(Do("cat /slow"), Not(HasSubstr("read: ")));
  // What it delays is let go.
  Sh("dmsetup suspend --noudevsync " + slow_);
  Sh("dmsetup resume --noudevsync " + slow_);
  EXPECT_THAT(Do("wait; cat /slow"), HasSubstr("read: done\n"));
}

TEST_P(DisksTest, OneGuestWithAllOfThem) {
  ASSERT_NO_FATAL_FAILURE(BootWithDisks());
  TheGuestSeesWhatItsDisksAre();
  DataComesBackAsItWas();
  AnErrorOfTheDiskIsAnErrorOfTheRequest();
  AFullHostIsAnErrorOfTheRequest();
  AShrinkingFileIsAnErrorOfTheRequest();
  ASlowDiskDelaysNobodyElse();
  EXPECT_OK(guest_->Type("leave\n"));
  EXPECT_OK(guest_->Expect("root: read-only again", kPatience));
  EXPECT_THAT(guest_->Wait(kPatience), IsOkAndHolds(0)) << guest_->output();
  Sh("ip link del " + tap_);
  Sh("e2fsck -fn " + root_);
  EXPECT_THAT(Sh("debugfs -R 'cat /witness' " + root_),
              HasSubstr("the guest was here"));
}

INSTANTIATE_TEST_SUITE_P(Backends, DisksTest,
                         ::testing::Values("off", "sw-protected"), BackendName);

// Debian's kernels know no device tree: ACPI tells them of virtio-mmio.
class MmioTest : public BackendTest {};

TEST_P(MmioTest, DebianMountsItsRoot) {
  Scratch scratch;
  const std::string root = MakeRoot(scratch);
  Options options = With({"--disk", root, "--virtio-transport", "mmio"});
  options.append = "cloister.root=/dev/vda";
  ASSERT_OK_AND_ASSIGN(auto guest, Boot(options));
  ASSERT_OK(guest->Expect("root: /dev/vda is ext4", kPatience));
  ASSERT_OK(guest->Expect("root: the manifest holds", kPatience));
  ASSERT_OK(guest->Expect("root: ready", kPatience));
  ASSERT_OK(guest->Type("readlink -f /sys/block/vda\nleave\n"));
  EXPECT_OK(guest->Expect("/LNRO0005:00/virtio0/block/vda", kPatience));
  EXPECT_OK(guest->Expect("root: read-only again", kPatience));
  EXPECT_THAT(guest->Wait(kPatience), IsOkAndHolds(0)) << guest->output();
  Sh("e2fsck -fn " + root);
  EXPECT_THAT(Sh("debugfs -R 'cat /witness' " + root),
              HasSubstr("the guest was here"));
}

INSTANTIATE_TEST_SUITE_P(Mmio, MmioTest,
                         ::testing::Values("off", "sw-protected"), BackendName);

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
    GTEST_SKIP() << "not applicable: only in ./dev soak, which has a Debian "
                    "root in $CLOISTER_DEBIAN_ROOT";
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

INSTANTIATE_TEST_SUITE_P(Backends, BackendTest,
                         ::testing::Values("off", "sw-protected"), BackendName);

}  // namespace
}  // namespace cloister::tests
