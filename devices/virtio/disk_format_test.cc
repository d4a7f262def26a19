// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/disk_format.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::devices::virtio {
namespace {

using ::testing::Eq;
using ::testing::Optional;

std::vector<uint8_t> With(size_t size, size_t offset,
                          const std::string& bytes) {
  std::vector<uint8_t> data(size, 0);
  std::copy(bytes.begin(), bytes.end(), data.begin() + offset);
  return data;
}

std::optional<absl::string_view> Head(size_t offset, const std::string& bytes) {
  return DetectDiskFormat(With(kDiskFormatHead, offset, bytes),
                          std::vector<uint8_t>(kDiskFormatTail, 0));
}

std::optional<absl::string_view> Tail(const std::string& bytes) {
  return DetectDiskFormat(std::vector<uint8_t>(kDiskFormatHead, 0),
                          With(kDiskFormatTail, 0, bytes));
}

TEST(DiskFormatTest, KnowsSignaturesAtTheStart) {
  EXPECT_THAT(Head(0, "QFI\xfb"), Optional(Eq("qcow2")));
  EXPECT_THAT(Head(0, "KDMV"), Optional(Eq("vmdk")));
  EXPECT_THAT(Head(0, "COWD"), Optional(Eq("vmdk")));
  EXPECT_THAT(Head(0, "# Disk DescriptorFile\nversion=1"),
              Optional(Eq("vmdk")));
  EXPECT_THAT(Head(0, "vhdxfile"), Optional(Eq("vhdx")));
  EXPECT_THAT(Head(0, "conectix"), Optional(Eq("vpc")));
  EXPECT_THAT(Head(64, "\x7f\x10\xda\xbe"), Optional(Eq("vdi")));
  EXPECT_THAT(Head(0, std::string("QED\0", 4)), Optional(Eq("qed")));
  EXPECT_THAT(Head(0, "WithoutFreeSpace"), Optional(Eq("parallels")));
  EXPECT_THAT(Head(0, "WithouFreSpacExt"), Optional(Eq("parallels")));
}

TEST(DiskFormatTest, KnowsSignaturesAtTheEnd) {
  EXPECT_THAT(Tail("conectix"), Optional(Eq("vpc")));
  EXPECT_THAT(Tail("koly"), Optional(Eq("dmg")));
}

TEST(DiskFormatTest, EverythingElseIsRaw) {
  EXPECT_EQ(Head(0, ""), std::nullopt);
  EXPECT_EQ(Head(1, "QFI\xfb"), std::nullopt);
  EXPECT_EQ(Head(0, "QFI"), std::nullopt);
  EXPECT_EQ(Head(0x1fe, "\x55\xaa"), std::nullopt);  // a boot sector
  EXPECT_EQ(Head(0, "LUKS\xba\xbe"), std::nullopt);  // the guest's business
  EXPECT_EQ(Tail("vhdxfile"), std::nullopt);
}

TEST(DiskFormatTest, ShortImagesAreRaw) {
  EXPECT_EQ(DetectDiskFormat({}, {}), std::nullopt);
  std::vector<uint8_t> two = {'Q', 'F'};
  EXPECT_EQ(DetectDiskFormat(two, two), std::nullopt);
  std::vector<uint8_t> no_vdi(0x42, 0x7f);
  EXPECT_EQ(DetectDiskFormat(no_vdi, {}), std::nullopt);
}

}  // namespace
}  // namespace cloister::devices::virtio
