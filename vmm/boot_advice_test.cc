// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/boot_advice.h"

#include <fstream>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cloister/base/bytes.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::vmm {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

const std::vector<uint8_t> kRoot = {0xe3, 0xbc, 0x68, 0x4f, 0xcd, 0xe8,
                                    0xb1, 0x4d, 0x96, 0xe7, 0xfb, 0xca,
                                    0xf9, 0x84, 0xb7, 0x09};
const std::vector<uint8_t> kEsp = {0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8,
                                   0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0,
                                   0xc9, 0x3e, 0xc9, 0x3b};

class Disk {
 public:
  Disk() : bytes_(kGptHead) {
    const std::string signature = "EFI PART";
    std::copy(signature.begin(), signature.end(), bytes_.begin() + 512);
  }
  void Add(size_t number, const std::vector<uint8_t>& type, uint64_t first,
           uint64_t last) {
    uint8_t* entry = bytes_.data() + 1024 + (number - 1) * 128;
    std::copy(type.begin(), type.end(), entry);
    base::StoreLe<uint64_t>(entry + 32, first);
    base::StoreLe<uint64_t>(entry + 40, last);
  }
  std::string Write(const char* name) const {
    const std::string path = absl::StrCat(::testing::TempDir(), "/", name);
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes_.data()), bytes_.size());
    return path;
  }
  absl::Span<const uint8_t> bytes() const { return bytes_; }

 private:
  std::vector<uint8_t> bytes_;
};

// As Debian's cloud images have it: the root is the first entry and the last
// on the disk.
TEST(BootAdviceTest, FindsTheRootOfACloudImage) {
  Disk disk;
  disk.Add(1, kRoot, 262144, 6291422);
  disk.Add(14, {0x48, 0x61, 0x68, 0x21}, 2048, 8191);
  disk.Add(15, kEsp, 8192, 262143);
  const auto root = FindRootPartition(disk.bytes());
  ASSERT_TRUE(root.has_value());
  EXPECT_EQ(root->number, 1u);
  EXPECT_EQ(root->offset, 262144u * 512);
  const std::string path = disk.Write("cloud.raw");
  const std::string advice = MissingKernelAdvice(path);
  EXPECT_THAT(advice, HasSubstr(absl::StrCat("mount -o ro,loop,offset=",
                                             262144 * 512, " '", path, "'")));
  EXPECT_THAT(advice, HasSubstr("root=/dev/vda1 "));
  EXPECT_THAT(advice, Not(HasSubstr("\n")));
}

TEST(BootAdviceTest, AsksForTheInitrdOfACloudImage) {
  Disk disk;
  disk.Add(2, kRoot, 262144, 6291422);
  const std::string path = disk.Write("no-initrd.raw");
  const auto advice = MissingInitrdAdvice(path);
  ASSERT_TRUE(advice.has_value());
  EXPECT_THAT(*advice, HasSubstr("--initrd is missing"));
  EXPECT_THAT(*advice, HasSubstr(absl::StrCat("partition 2 of ", path)));
  EXPECT_THAT(*advice, HasSubstr(absl::StrCat(
                           "mount -o ro,loop,offset=", 262144 * 512, " '", path,
                           "' /mnt; cp /mnt/initrd.img .")));
  EXPECT_THAT(*advice, Not(HasSubstr("\n")));
  EXPECT_FALSE(MissingInitrdAdvice(Disk().Write("no-root.raw")).has_value());
  EXPECT_FALSE(MissingInitrdAdvice("/no/such/disk").has_value());
  EXPECT_FALSE(MissingInitrdAdvice("/dev/null").has_value());
}

TEST(BootAdviceTest, BelievesNothingElse) {
  Disk disk;
  EXPECT_FALSE(FindRootPartition(disk.bytes()).has_value());
  disk.Add(1, kEsp, 2048, 4095);
  disk.Add(2, kRoot, 5000, 4999);      // ends before it starts
  disk.Add(3, kRoot, 0, 100);          // where the table is
  disk.Add(4, kRoot, 34, UINT64_MAX);  // longer than any disk
  EXPECT_FALSE(FindRootPartition(disk.bytes()).has_value());
  disk.Add(128, kRoot, UINT64_MAX / 512, UINT64_MAX / 512);
  EXPECT_EQ(FindRootPartition(disk.bytes())->number, 128u);
  // Cut short, or another table.
  EXPECT_FALSE(FindRootPartition(disk.bytes().subspan(0, kGptHead - 1)));
  EXPECT_FALSE(FindRootPartition({}));
  const std::vector<uint8_t> none(kGptHead);
  EXPECT_FALSE(FindRootPartition(none));
}

TEST(BootAdviceTest, OtherDisksGetWhatIsKnown) {
  const std::string qcow = absl::StrCat(::testing::TempDir(), "/a'b.qcow2");
  std::ofstream(qcow, std::ios::binary)
      << absl::string_view("QFI\xfb\0\0\0\3", 8) << std::string(2000, '\0');
  EXPECT_THAT(MissingKernelAdvice(qcow), HasSubstr("is a qcow2 image"));
  EXPECT_THAT(MissingKernelAdvice(qcow),
              HasSubstr("qemu-img convert -f qcow2 -O raw '"));
  EXPECT_THAT(MissingKernelAdvice(qcow), HasSubstr("a'\\''b.qcow2'"));
  // A file system without partitions, an empty file, none at all.
  const std::string plain = absl::StrCat(::testing::TempDir(), "/plain");
  std::ofstream(plain, std::ios::binary) << std::string(1 << 16, 'x');
  EXPECT_THAT(MissingKernelAdvice(plain), HasSubstr("mount -o ro,loop '"));
  EXPECT_THAT(MissingKernelAdvice(plain), HasSubstr("root=/dev/vda "));
  EXPECT_THAT(MissingKernelAdvice("/no/such/disk"), HasSubstr("no firmware"));
  EXPECT_THAT(MissingKernelAdvice("/dev/null"), HasSubstr("no firmware"));
}

}  // namespace
}  // namespace cloister::vmm
